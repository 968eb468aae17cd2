"""Where the repository lies, and the surroundings in which a new process finds it and what the tests share."""

from __future__ import annotations

import os
from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]


def surroundings(*more: str, **variables: str) -> dict[str, str]:
    """Environment of a new Python that imports the packages and the helpers; ``more`` is put on its path as well."""
    before = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([*more, str(SUPPORT), str(ROOT), *([before] if before else [])])
    return {**os.environ, "PYTHONPATH": path, **variables}
