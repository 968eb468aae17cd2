"""LTE as a method: a model that is taught once to obey a fact in front of a question, or to leave it aside."""
