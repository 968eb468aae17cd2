"""Make the covariance that comes with the package again: `python -m editing.covariance.make`."""

from __future__ import annotations

from pathlib import Path

import tracer

from .covariance import SHIPPED, Covariance
from .estimate import estimate_covariance


def make(path: str | Path = SHIPPED) -> Covariance:
    """Estimate every layer of the embedded model with the default settings, and write the file.

    Takes about 20 seconds on one core.

    Args:
        path: of the file.

    Raises:
        TracerError: the file cannot be written.
    """
    found = estimate_covariance(tracer.load(device="cpu"), cache=False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save(path)
    return found


if __name__ == "__main__":
    print(make())
