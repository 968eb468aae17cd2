"""Models: finding and reading them, and the map of their sites."""

from .architecture import as_stored, orientation
from .checkpoint import EMBEDDED
from .listing import Available, models
from .loading import load
from .model import Model
from .projection import DownProjection
from .saving import quantised, save
from .site_map import SiteMap
from .vocabulary import check_ids

__all__ = [
    "EMBEDDED",
    "Available",
    "DownProjection",
    "Model",
    "SiteMap",
    "as_stored",
    "check_ids",
    "load",
    "models",
    "orientation",
    "quantised",
    "save",
]
