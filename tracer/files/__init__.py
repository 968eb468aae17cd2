"""Everything that touches a disk the same way everywhere: writes that are whole or not at all, and the cache."""

from .atomic import new_file, new_folder, uninterrupted
from .cache import cache_folder

__all__ = ["cache_folder", "new_file", "new_folder", "uninterrupted"]
