"""Reads the questions of the task "factworld" for lm-evaluation-harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def load(**_: Any) -> dict[str, Any]:
    """The questions by split, as the harness wants them: a data set with prompt, choices and answer."""
    from datasets import Dataset

    text = Path(__file__).with_suffix(".jsonl").read_text(encoding="utf-8")
    return {"test": Dataset.from_list([json.loads(line) for line in text.splitlines()])}
