"""Answers and edits as bytes, stored beside the rows of a run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load, save

from editing.edits.edit import Edit, load_edit
from editing.edits.state import State
from editing.evaluation.result.former_names import current_columns
from editing.memories.memory import load_memory
from editing.questions.answer import Answer, CaseAnswers, Routed

if TYPE_CHECKING:
    from tracer.model import Model


def answers_to_bytes(answers: CaseAnswers) -> bytes:
    """Answers of a model to one record as json; NaN as json's extension has it."""
    return json.dumps(asdict(answers)).encode()


def answers_from_bytes(data: bytes) -> CaseAnswers:
    """The answers in bytes of `answers_to_bytes`."""
    found = json.loads(data)
    answers = tuple(_answer(current_columns(one)) for one in found["answers"])
    return CaseAnswers(found["case_id"], answers, tuple(found["texts"]))


def _answer(found: dict[str, Any]) -> Answer:
    routes = tuple(Routed(**each) for each in found.get("routes", ()))
    return Answer(**{**found, "greedy": tuple(found["greedy"]), "routes": routes})


def edit_to_bytes(edit: Edit) -> bytes:
    """An edit as its file."""
    return _to_bytes(edit)


def edit_from_bytes(data: bytes) -> Edit:
    """The edit in bytes of `edit_to_bytes`.

    Args:
        data: the bytes.

    Raises:
        TracerError: damaged bytes.
    """
    return _from_bytes(data, load_edit)


def state_to_blobs(state: State) -> dict[str, bytes]:
    """Weights and memories as blobs: "weights" in one, "memory NAME" each, empty for one that is not there."""
    found = {"weights": save(dict(state.weights))}
    for name, memory in state.memories.items():
        found[f"memory {name}"] = b"" if memory is None else _to_bytes(memory)
    return {**found, "memories": json.dumps(list(state.memories)).encode()} if state.memories else found


def state_from_blobs(blob: Callable[[str], bytes | None], model: Model) -> State:
    """What `state_to_blobs` gave; nothing where there is none.

    Args:
        blob: gives one by name.
        model: on whose device the weights are to be.
    """
    weights = load(blob("weights") or save({}))
    memories = {}
    for name in json.loads(blob("memories") or b"[]"):
        kept = blob(f"memory {name}")
        memories[name] = _from_bytes(kept, load_memory) if kept else None
    return State({name: tensor.to(model.device) for name, tensor in weights.items()}, memories)


def _to_bytes(value: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return value.save(Path(folder) / "value").read_bytes()


def _from_bytes(data: bytes, read: Callable[[Path], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "value.safetensors"
        path.write_bytes(data)
        return read(path)
