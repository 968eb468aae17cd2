"""What the methods that optimise a value share: settings, contexts, prompts, the search, and its spread over layers."""

from .context_templates import Templates, context_templates
from .search import Objective, Optimised, optimise
from .settings import ValueSettings

__all__ = [
    "Objective",
    "Optimised",
    "Templates",
    "ValueSettings",
    "context_templates",
    "optimise",
]
