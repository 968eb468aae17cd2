"""Long runs in pieces: jobs of items in one SQLite file, done by one process, by several, or by a Ray cluster.

A run can be killed at any moment and goes on where it was; no item is lost or written twice. It takes any kind of work.
"""

from .claim import Claim
from .job import Counts, Failed, Job, Lost, StorageError
from .start import run
from .store import Store

__all__ = ["Claim", "Counts", "Failed", "Job", "Lost", "StorageError", "Store", "run"]
