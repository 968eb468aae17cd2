"""Common parts of methods that optimise a value: settings, contexts, prompts, search, its spread over layers."""

from .context_templates import Templates, context_templates
from .objective import Objective
from .search import Optimised, optimise
from .settings import ValueSettings

__all__ = [
    "Objective",
    "Optimised",
    "Templates",
    "ValueSettings",
    "context_templates",
    "optimise",
]
