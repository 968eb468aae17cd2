"""Everything that touches a disk the same way everywhere: whole writes, files of records, and the cache."""

from .atomic import new_file, new_folder, uninterrupted
from .cache import cache_folder
from .rows import Row, is_file_of_rows, plain, read_rows
from .shapes import is_table, unfolded

__all__ = [
    "Row",
    "cache_folder",
    "is_file_of_rows",
    "is_table",
    "new_file",
    "new_folder",
    "plain",
    "read_rows",
    "unfolded",
    "uninterrupted",
]
