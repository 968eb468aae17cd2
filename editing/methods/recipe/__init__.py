"""RECIPE as a method: edits that are soft prompts, and the training of the nets that find and make them."""
