"""Editors that learn to edit: nets that turn the gradient of an edit, token by token, into a better change."""
