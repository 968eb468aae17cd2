"""Second moments of keys over text: estimated, cached, saved, and solved with."""

from .covariance import SHIPPED, Covariance, Solver
from .default import covariance_for
from .estimate import default_tokens, estimate_covariance

__all__ = [
    "SHIPPED",
    "Covariance",
    "Solver",
    "covariance_for",
    "default_tokens",
    "estimate_covariance",
]
