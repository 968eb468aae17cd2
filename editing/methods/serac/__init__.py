"""SERAC as a method: edits that are texts, and the preparation of the two small models that it needs."""
