"""The place of files that are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of all that is kept: TRACER_CACHE where that is set, else the platform's cache folder for "tracer"."""
    from platformdirs import user_cache_dir

    named = os.environ.get("TRACER_CACHE")
    return Path(named).expanduser() if named else Path(user_cache_dir("tracer"))
