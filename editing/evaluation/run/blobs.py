"""Answers and edits as bytes, stored beside the rows of a run."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from editing.edits.edit import Edit, load_edit
from editing.evaluation.result.former_names import current_columns
from editing.questions.answer import Answer, CaseAnswers


def answers_to_bytes(answers: CaseAnswers) -> bytes:
    """Answers of a model to one record as json; NaN as json's extension has it."""
    return json.dumps(asdict(answers)).encode()


def answers_from_bytes(data: bytes) -> CaseAnswers:
    """The answers in bytes of `answers_to_bytes`."""
    found = json.loads(data)
    answers = tuple(Answer(**{**current_columns(one), "greedy": tuple(one["greedy"])}) for one in found["answers"])
    return CaseAnswers(found["case_id"], answers, tuple(found["texts"]))


def edit_to_bytes(edit: Edit) -> bytes:
    """An edit as its file."""
    with tempfile.TemporaryDirectory() as folder:
        return edit.save(Path(folder) / "edit").read_bytes()


def edit_from_bytes(data: bytes) -> Edit:
    """The edit in bytes of `edit_to_bytes`.

    Args:
        data: the bytes.

    Raises:
        TracerError: damaged bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edit.safetensors"
        path.write_bytes(data)
        return load_edit(path)
