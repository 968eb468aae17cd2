"""Files of records in one's own layout, as tests write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOOD = {"prompt": "{} is in", "subject": "Rome", "target_new": "Spain", "target_true": "Italy"}


def file(folder: Path, text: str, name: str = "some.json") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def listed(folder: Path, *rows: Any) -> Path:
    """A list with every record on two lines of its own: record n begins on line 2 n."""
    return file(folder, "[\n" + ",\n".join(json.dumps(row).replace(", ", ",\n", 1) for row in rows) + "\n]\n")
