"""An edit as a value: changes of weights and of memories, with all that is needed to make or judge them again.

What uses an edit goes through its contract and does not ask what it is made of: `applied` and `commit` make it,
`digest` and `describe` tell what it is, `save` and `load_edit` keep it, `control` gives one to compare it with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from editing.memories.change import MemoryChange
from editing.request import EditRequest
from tracer.errors import AdapterError, EditOfOtherWeights, MemoryNameTaken, NotASavedResult
from tracer.files import tensors as tensorfile
from tracer.former import renamed
from tracer.html_table import html_of

from .arithmetic import composed, scaled
from .content import FORMATS, fields_of, format_of, header_of, tensors_of
from .control import random_direction
from .size import norm_of, owned, owned_whole
from .state import State, memories_of
from .text import line_of, text_of
from .weights import Factors, added, proposed
from .whole import Deltas, moved
from .whole import proposed as proposed_whole

if TYPE_CHECKING:
    import pandas as pd

    from tracer.model import Model

TIMED = "seconds."  # prefix of evidence on how long a part took


@dataclass(frozen=True, eq=False)
class Edit:
    """Changes of weights, of memories or of both, by a method.

    Made by [`editing.compute_edit`][] or [`editing.Editor.edit`][].

    Attributes:
        factors: changes of weights, by full parameter name in `model.hf`: U [rows, r] and V [columns, r], float32 on
            the CPU; the change is U V^T in the orientation the weight is stored in.
        method: name of the method; of a composition, the names joined by "+".
        settings: its hyper-parameters as used, measured ones included; json values. Under "orientation" the storage of
            the weights, "in_out" or "out_in", where that is known.
        requests: the facts to write.
        fingerprint: hash of the model the edit was computed on, weights and memories.
        model: that model's name.
        seconds: wall time of the computation.
        memory: peak bytes above those held before (the accelerator's, or the process's), while computing.
        evidence: arrays by name that led to the change, such as keys, targets and loss curves.
        note: a remark for the reader, or "".
        memories: changes of memories, at most one of each name.
        deltas: changes of further weights, by full parameter name: float32 on the CPU, of any shape, the weight's own.
            What fine-tunes everything makes these.
    """

    factors: Factors
    method: str
    settings: Mapping[str, Any]
    requests: tuple[EditRequest, ...]
    fingerprint: str
    model: str
    seconds: float = 0.0
    memory: int = 0
    evidence: Mapping[str, Tensor] | None = None
    note: str = ""
    memories: tuple[MemoryChange, ...] = ()
    deltas: Deltas = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", owned(self.factors))
        object.__setattr__(self, "deltas", owned_whole(self.deltas, self.factors))
        object.__setattr__(self, "requests", tuple(self.requests))
        object.__setattr__(self, "memories", tuple(self.memories))
        names = [change.name for change in self.memories]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise MemoryNameTaken(
                f"an edit changes the memory {twice!r} twice; make one edit after the other (Editor.edit, Editor.apply)"
            )

    # --- contract --------------------------------------------------------------------------------------------------
    @property
    def weights(self) -> tuple[str, ...]:
        """Full names of the weights it changes."""
        return (*self.factors, *self.deltas)

    def on_weight(self, name: str, weight: Tensor) -> Tensor:
        """What becomes of a weight, to the bit, by its change alone.

        Args:
            name: one of `weights`.
            weight: its bits before.
        """
        return moved(weight, self.deltas[name]) if name in self.deltas else added(weight, *self.factors[name])

    def proposed(self, model: Model) -> State:
        """What the model would have with the edit; nothing is changed.

        Args:
            model: to be edited.

        Raises:
            TracerError: weights that cannot be edited, a result that is not finite, a memory that does not fit or
                begins with another one than the model has.
        """
        present = memories_of(model)
        memories = {change.name: change.check(present.get(change.name), model) for change in self.memories}
        return State({**proposed(model, self.factors), **proposed_whole(model, self.deltas)}, memories)

    @contextmanager
    def applied(self, model: Model) -> Iterator[Model]:
        """Context in which a model has the edit; afterwards it is as before, to the bit.

        Args:
            model: restored whatever happens.

        Raises:
            TracerError: as `proposed` does; the model is untouched then.
        """
        with self.proposed(model).applied(model):
            yield model

    def commit(self, model: Model) -> State:
        """Give a model the edit, whole or not at all, and return what it had there; `write` that to undo it.

        [`editing.Editor`][] keeps a history and checks that nothing else has changed the model.

        Args:
            model: to be edited.

        Raises:
            TracerError: as `proposed` does; the model is untouched then.
        """
        new = self.proposed(model)
        before = new.before(model)
        new.write(model)
        return before

    def digest(self) -> str:
        """BLAKE3 hash of what the edit is; time, memory and evidence do not count."""
        header = header_of(replace(self, seconds=0.0, memory=0))
        return tensorfile.digest_of(tensors_of(self), json.dumps(header, sort_keys=True))

    def describe(self) -> tuple[str, ...]:
        """What it changes: a line for each weight and each memory."""
        rank, norm = self.rank(), self.norm()
        lines = [
            f"{name} [{len(u)}, {len(v)}]: rank {rank[name]}, norm {norm[name]:.4g}"
            for name, (u, v) in self.factors.items()
        ]
        lines += [f"{name} {list(delta.shape)}: norm {norm[name]:.4g}" for name, delta in self.deltas.items()]
        return (*lines, *(change.describe() for change in self.memories))

    def control(self, seed: int) -> Edit:
        """An edit of the same weights and memories, as large as this one, in random directions.

        Of the same Frobenius norm and, up to rank 8, of the same rank in every weight; what is added to a memory has
        entries of the same lengths.

        Args:
            seed: of the draw.
        """
        factors, deltas = random_direction(self.factors, self.deltas, self.norm(), seed)
        memories = tuple(change.control(seed) for change in self.memories)
        return replace(self, factors=factors, deltas=deltas, memories=memories, evidence={}, note="a random direction")

    # --- size ------------------------------------------------------------------------------------------------------
    def rank(self) -> dict[str, int]:
        """Rank of the change of every weight, by name: the columns of its factors; of `deltas`, at most."""
        most = {name: min(len(delta), delta.numel() // max(1, len(delta))) for name, delta in self.deltas.items()}
        return {name: u.shape[1] for name, (u, _) in self.factors.items()} | most

    def norm(self) -> dict[str, float]:
        """Frobenius norm of the change of every weight, by name."""
        whole = {name: float(delta.double().norm()) for name, delta in self.deltas.items()}
        return {name: norm_of(u, v) for name, (u, v) in self.factors.items()} | whole

    @property
    def nbytes(self) -> int:
        """Bytes of its changes of weights, and of what it adds to memories."""
        factors = sum(part.nbytes for pair in self.factors.values() for part in pair)
        factors += sum(delta.nbytes for delta in self.deltas.values())
        return factors + sum(change.nbytes for change in self.memories)

    def to_dense(self) -> dict[str, Tensor]:
        """The change itself, by weight name: float32 in the shape and orientation the weight is stored in."""
        return {name: (u.double() @ v.double().T).float() for name, (u, v) in self.factors.items()} | dict(self.deltas)

    def to_frame(self) -> pd.DataFrame:
        """One row per weight: weight, rows, columns, rank, norm."""
        import pandas as pd

        rank, norm = self.rank(), self.norm()
        sides = {name: (len(u), len(v)) for name, (u, v) in self.factors.items()}
        sides |= {name: (len(delta), delta.numel() // max(1, len(delta))) for name, delta in self.deltas.items()}
        rows = [(name, *sides[name], rank[name], norm[name]) for name in self.weights]
        return pd.DataFrame(rows, columns=pd.Index(["weight", "rows", "columns", "rank", "norm"]))

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by part of the computation: contexts, covariance, search, solve, hash, check; where it was timed."""
        found = (self.evidence or {}).items()
        return {name.removeprefix(TIMED): float(value) for name, value in found if name.startswith(TIMED)}

    @property
    def on_text(self) -> str:
        """Effect of the edit on unrelated text, in words; "" where that was not measured."""
        evidence = self.evidence or {}
        if not {"perplexity", "drift"} <= evidence.keys():
            return ""
        before, after = evidence["perplexity"].tolist()
        drift = float(evidence["drift"])
        return f"unrelated text: perplexity {before:.4g} before, {after:.4g} after; drift {drift:.2g} nats"

    # --- arithmetic ------------------------------------------------------------------------------------------------
    def scale(self, factor: float) -> Edit:
        """The same edit, `factor` times as large.

        Args:
            factor: a finite number.

        Raises:
            TracerError: a factor that is not finite, or an edit of memories.
        """
        return scaled(self, factor)

    def compose(self, *others: Edit) -> Edit:
        """The sum of edits that were computed on the same model; ranks add up, requests are joined.

        The settings of each stand under `"parts"`, its evidence under its place: `"0/..."`, `"1/..."`.

        Args:
            others: added to this one.

        Raises:
            TracerError: an edit computed on other weights, or two that change the same memory.
        """
        return composed(self, *others)

    def __mul__(self, factor: float) -> Edit:
        """As `scale`."""
        return self.scale(factor) if isinstance(factor, int | float) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> Edit:
        """The edit taken away: `scale(-1)`."""
        return self.scale(-1)

    def __add__(self, other: Edit) -> Edit:
        """As `compose`."""
        return self.compose(other) if isinstance(other, Edit) else NotImplemented

    def __radd__(self, other: int) -> Edit:
        """So that `sum` of edits is their composition."""
        return self if other == 0 else NotImplemented

    def __sub__(self, other: Edit) -> Edit:
        """The sum with the other edit taken away; `c + (b - a)` is an analogy (Ilharco et al. 2023)."""
        return self.compose(-other) if isinstance(other, Edit) else NotImplemented

    def same_as(self, other: Edit) -> bool:
        """Whether two edits are the same, factors to the bit; time, memory and evidence do not count.

        Args:
            other: to compare with.
        """
        return self.digest() == other.digest()

    # --- use -------------------------------------------------------------------------------------------------------
    def check(self, model: Model) -> None:
        """Check that a model has the weights and memories that the edit was computed on.

        Args:
            model: to be edited.

        Raises:
            TracerError: it has others.
        """
        found = model.fingerprint(self.fingerprint)
        if found != self.fingerprint:
            raise EditOfOtherWeights(
                f"this edit was computed on the weights {self.fingerprint[:12]} of {self.model}, but {model.name} has "
                f"{found[:12]}; load or check out the weights it was made for, or pass force=True to use it all the "
                "same"
            )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all, and return its path.

        Args:
            path: of the file; ".safetensors" is added if it has no suffix.

        Raises:
            TracerError: it cannot be written; nothing is left behind then.
        """
        tensors = {**tensors_of(self), **{f"evidence/{name}": t for name, t in (self.evidence or {}).items()}}
        return tensorfile.write(path, format_of(self), tensors, header_of(self))

    @classmethod
    @renamed(anyway="force")
    def load(cls, path: str | Path, model: Model | None = None, force: bool = False) -> Edit:
        """Read a saved edit: the same as [`editing.load_edit`][].

        Args:
            path: of the file.
            model: as of `load_edit`.
            force: as of `load_edit`.
        """
        return load_edit(path, model, force)

    def to_peft(self, folder: str | Path, model: Model | None = None, overwrite: bool = False) -> Path:
        """Write the edit as a LoRA adapter that `peft.PeftModel.from_pretrained(hf, folder)` loads.

        See [`editing.edits.lora.to_peft`][].

        Args:
            folder: to write into.
            model: tells how the weights are stored, where the edit does not.
            overwrite: replace the contents of the folder.
        """
        from .lora import to_peft

        if self.memories:
            raise AdapterError(
                f"an adapter holds changes of weights, and this edit changes the memory {self.memories[0].name!r}; "
                "save it as an edit (edit.save)"
            )
        if self.deltas:
            raise AdapterError(
                f"an adapter holds changes of low rank, and this edit changes all of {next(iter(self.deltas))!r}; save "
                "it as an edit (edit.save), or fine-tune with a rank"
            )
        return to_peft(self.factors, self.settings.get("orientation"), self.model, folder, model, overwrite)

    # --- to read ---------------------------------------------------------------------------------------------------
    def __repr__(self) -> str:
        return line_of(self)

    def __str__(self) -> str:
        return text_of(self)

    def _repr_html_(self) -> str:
        return html_of(repr(self), self.to_frame(), "; ".join(filter(None, (self.on_text, self.note))))


@renamed(anyway="force")
def load_edit(path: str | Path, model: Model | None = None, force: bool = False) -> Edit:
    """Read a file of `Edit.save`; nothing in the file is run.

    Args:
        path: of the file.
        model: refuse an edit that was computed on other weights than this model has; not checked without it.
        force: accept it all the same.

    Raises:
        TracerError: a missing, damaged or other file, or an edit of other weights.
    """
    tensors, header = tensorfile.read(path, *FORMATS)
    try:
        edit = Edit(**fields_of(tensors, header))
    except (KeyError, TypeError, AttributeError) as error:
        raise NotASavedResult(f"{path} is not a saved Edit ({error}); expected a file of Edit.save") from error
    if model is not None and not force:
        edit.check(model)
    return edit
