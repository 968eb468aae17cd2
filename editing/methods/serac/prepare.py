"""SERAC's two models: a classifier that is trained on the model's states, and whoever answers with an edit in front."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from editing.memories.scope import ENCODER, OWN, TOKENIZER, told_of
from editing.memories.small import OTHER, SELF, STUDENT
from editing.methods.lessons import lessons_of
from editing.prepared.work import Made, Work
from tracer.errors import HyperparameterError

from .scope import trained_projection
from .settings import SERACPreparation
from .student import said_with_edit, trained_student

if TYPE_CHECKING:
    from tracer.model import Model

JOIN = ". "


def make(model: Model, settings: SERACPreparation, work: Work) -> Made:
    """The classifier and who answers, with how well each does on held-out records."""
    learnt, held_out = (lessons_of(model, each, "serac") for each in (work.records, work.held_out))
    similarity = {name: getattr(settings, name) for name in ("scale", "rule", "heads", "bounded")}
    if settings.classifier is None:
        tensors, scope, history = trained_projection(model, settings, similarity, learnt, held_out, work)
    else:
        tensors, scope, history = *_encoder(model, settings.classifier), ()
    answer: dict[str, Any] = {"by": SELF}
    share, note = float("nan"), ""
    by = settings.answers
    if by in (None, SELF):
        share = said_with_edit(model, model, held_out, JOIN)
        note = f"with an edit in front the model itself says {share:.0%} of the targets of held-out records"
        by = SELF if by == SELF or share >= settings.enough else STUDENT
    if by == STUDENT:
        more, config, trained = trained_student(model, settings, learnt, held_out, work, JOIN)
        tensors, answer, history = {**tensors, **more}, {"by": STUDENT, "config": config}, (*history, *trained)
        note = "; ".join(filter(None, [note, f"a student says {trained[-1]['said']:.0%}" if trained else ""]))
    elif by != SELF:
        more, config = _other(str(by))
        tensors, answer = {**tensors, **more}, {"by": OTHER, "config": config}
    width = len(tensors["projection"]) if scope["by"] == OWN else int(scope["config"].get("dim", 0))
    header = {"scope": scope, "answer": answer, "similarity": similarity, "width": width, "self": _plain(share)}
    return Made(tensors, header, history, note)


def _plain(number: float) -> float | None:
    return None if number != number else number


def _encoder(model: Model, folder: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An encoder of a folder as tensors, and what is said of it."""
    from transformers import AutoConfig, AutoTokenizer

    tensors = {f"classifier/{name}": tensor for name, tensor in _weights(folder).items()}
    config = AutoConfig.from_pretrained(folder)
    scope: dict[str, Any] = {"by": ENCODER, "config": _config(config)}
    own = (Path(folder) / "tokenizer.json").exists()
    rules, scope["separator"] = told_of(AutoTokenizer.from_pretrained(folder) if own else model.tokenizer)
    if own:
        tensors[TOKENIZER] = rules
    return tensors, scope


def _other(folder: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from transformers import AutoConfig

    tensors = {f"answering/{name}": tensor for name, tensor in _weights(folder).items()}
    return tensors, _config(AutoConfig.from_pretrained(folder))


def _weights(folder: str) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise HyperparameterError(
            f"there are no weights (*.safetensors) in {folder!r}; give the folder of a trained model, or None"
        )
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def _config(config: Any) -> dict[str, Any]:
    """The values of a configuration by which a model is built again."""
    found = config.to_diff_dict()
    drop = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
    return {**{name: value for name, value in found.items() if name not in drop}, "model_type": config.model_type}
