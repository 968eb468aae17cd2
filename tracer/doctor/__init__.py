"""What an installation has, what it lacks, and the one line that mends it."""

from .examination import examine
from .finding import Finding

__all__ = ["Finding", "examine"]
