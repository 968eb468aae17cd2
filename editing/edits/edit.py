"""An edit as a value: named low-rank changes of weights, with all that is needed to make or judge them again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, cat, equal, float32

from editing.request import EditRequest
from tracer.errors import EditOfOtherWeights, NotASavedResult
from tracer.former import former
from tracer.text import printable

from . import file as editfile
from .weights import Factors

if TYPE_CHECKING:
    import pandas as pd

    from tracer.model import Model

FORMAT = "Edit/1"
TIMED = "seconds."  # prefix of evidence on how long a part took
SHOWN = 5  # requests written out in full


@dataclass(frozen=True, eq=False)
class Edit:
    """Changes of weights by a method. Made by [`editing.compute_edit`][] or [`editing.Editor.edit`][].

    Attributes:
        factors: by full parameter name in `model.hf`: U [rows, r] and V [columns, r], float32 on the CPU; the change is
            U V^T in the orientation the weight is stored in.
        method: name of the method; of a composition, the names joined by "+".
        settings: its hyper-parameters as used, measured ones included; json values. Under "orientation" the storage of
            the weights, "in_out" or "out_in", where that is known.
        requests: the facts to write.
        fingerprint: hash of the weights the edit was computed on.
        model: that model's name.
        seconds: wall time of the computation.
        memory: peak bytes above those held before (the accelerator's, or the process's), while computing.
        evidence: arrays by name that led to the change, such as keys, targets and loss curves.
        note: a remark for the reader, or "".
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

    def __post_init__(self) -> None:
        factors = {}
        for name, (u, v) in self.factors.items():
            if u.dim() != 2 or v.dim() != 2 or u.shape[1] != v.shape[1]:
                raise EditOfOtherWeights(
                    f"the change of {name!r} has factors U {list(u.shape)} and V {list(v.shape)}; expected "
                    "U [rows, r] and V [columns, r]"
                )
            factors[name] = (_own(u), _own(v))
        object.__setattr__(self, "factors", factors)
        object.__setattr__(self, "requests", tuple(self.requests))

    # --- size ------------------------------------------------------------------------------------------------------
    def rank(self) -> dict[str, int]:
        """Rank of the change of every weight, by name: the columns of its factors."""
        return {name: u.shape[1] for name, (u, _) in self.factors.items()}

    def norm(self) -> dict[str, float]:
        """Frobenius norm of the change of every weight, by name.

        From the r x r Gram matrices: ||U V^T||^2 is the sum of U^T U * V^T V, so that no dense matrix is made.
        """
        return {name: _norm(u.double(), v.double()) for name, (u, v) in self.factors.items()}

    def to_dense(self) -> dict[str, Tensor]:
        """The change itself, by weight name: float32 [rows, columns] in the orientation the weight is stored in."""
        return {name: (u.double() @ v.double().T).float() for name, (u, v) in self.factors.items()}

    def to_frame(self) -> pd.DataFrame:
        """One row per weight: weight, rows, columns, rank, norm."""
        import pandas as pd

        rank, norm = self.rank(), self.norm()
        rows = [(name, len(u), len(v), rank[name], norm[name]) for name, (u, v) in self.factors.items()]
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
            TracerError: a factor that is not finite.
        """
        if not math.isfinite(factor):
            raise EditOfOtherWeights(f"an edit cannot be scaled by {factor}; give a finite number")
        factors = {name: (u * factor, v) for name, (u, v) in self.factors.items()}
        settings = {**self.settings, "scale": self.settings.get("scale", 1.0) * factor}
        return replace(self, factors=factors, settings=settings)

    def compose(self, *others: Edit) -> Edit:
        """The sum of edits that were computed on the same weights; ranks add up, requests are joined.

        The settings of each stand under `"parts"`, its evidence under its place: `"0/..."`, `"1/..."`.

        Args:
            others: added to this one.

        Raises:
            TracerError: an edit computed on other weights.
        """
        edits = (self, *others)
        for other in others:
            if other.fingerprint != self.fingerprint:
                raise EditOfOtherWeights(
                    f"these edits were computed on different weights ({self.model} {self.fingerprint[:12]} and "
                    f"{other.model} {other.fingerprint[:12]}), so that their sum means nothing; compute both on the "
                    "same weights"
                )
        columns: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for edit in edits:
            for name, pair in edit.factors.items():
                columns.setdefault(name, []).append(pair)
        factors = {name: (cat([u for u, _ in of], 1), cat([v for _, v in of], 1)) for name, of in columns.items()}
        orientations = {edit.settings.get("orientation") for edit in edits}
        evidence = {f"{i}/{name}": t for i, edit in enumerate(edits) for name, t in (edit.evidence or {}).items()}
        return replace(
            self,
            factors=factors,
            method="+".join(edit.method for edit in edits),
            settings={
                "parts": [dict(edit.settings) for edit in edits],
                "orientation": orientations.pop() if len(orientations) == 1 else None,
            },
            requests=tuple(dict.fromkeys(request for edit in edits for request in edit.requests)),
            seconds=sum(edit.seconds for edit in edits),
            memory=max(edit.memory for edit in edits),
            evidence=evidence,
            note="; ".join(dict.fromkeys(edit.note for edit in edits if edit.note)),
        )

    def same_as(self, other: Edit) -> bool:
        """Whether two edits are the same, factors to the bit; time, memory and evidence do not count.

        Args:
            other: to compare with.
        """
        own, its = (_header(replace(edit, seconds=0.0, memory=0)) for edit in (self, other))
        return (
            json.dumps(own, sort_keys=True) == json.dumps(its, sort_keys=True)
            and self.factors.keys() == other.factors.keys()
            and all(
                equal(u, other.factors[n][0]) and equal(v, other.factors[n][1]) for n, (u, v) in self.factors.items()
            )
        )

    # --- use -------------------------------------------------------------------------------------------------------
    def check(self, model: Model) -> None:
        """Check that a model has the weights that the edit was computed on.

        Args:
            model: to be edited.

        Raises:
            TracerError: it has others.
        """
        found = model.fingerprint()
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
        tensors = {}
        for name, (u, v) in self.factors.items():
            tensors |= {f"U/{name}": u, f"V/{name}": v}
        tensors |= {f"evidence/{name}": tensor for name, tensor in (self.evidence or {}).items()}
        return editfile.write(path, FORMAT, tensors, _header(self))

    @classmethod
    @former(anyway="force")
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

        return to_peft(self.factors, self.settings.get("orientation"), self.model, folder, model, overwrite)

    # --- to read ---------------------------------------------------------------------------------------------------
    def __repr__(self) -> str:
        ranks, total = set(self.rank().values()), math.hypot(*self.norm().values())
        rank = "-".join(str(bound) for bound in sorted({min(ranks, default=0), max(ranks, default=0)}))
        first = f": {self._wish(self.requests[0])}" if self.requests else ""
        more = ", ..." if len(self.requests) > 1 else ""
        return (
            f"Edit({self.method} on {self.model}, {_count(len(self.requests), 'request')}{first}{more}; "
            f"{_count(len(self.factors), 'weight')}, rank {rank}, norm {total:.3g})"
        )

    def __str__(self) -> str:
        took = f"{self.seconds:.1f} s, {self.memory / 1e6:.0f} MB"
        if self.parts:
            took += " (" + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self.parts.items()) + ")"
        lines = [f"{self.method} on {self.model} ({self.fingerprint[:12]}), {took}"]
        lines += [f"  {self._wish(request)}" for request in self.requests[:SHOWN]]
        if len(self.requests) > SHOWN:
            lines.append(f"  ... and {len(self.requests) - SHOWN} more requests")
        rank, norm = self.rank(), self.norm()
        for name, (u, v) in self.factors.items():
            lines.append(f"  {name} [{len(u)}, {len(v)}]: rank {rank[name]}, norm {norm[name]:.4g}")
        return "\n".join([*lines, *(f"  {printable(text)}" for text in (self.on_text, self.note) if text)])

    @staticmethod
    def _wish(request: EditRequest) -> str:
        was = f" (was {request.target_true.strip()!r})" if request.target_true else ""
        return printable(f"{request.text!r} -> {request.target_new.strip()!r}{was}")


@former(anyway="force")
def load_edit(path: str | Path, model: Model | None = None, force: bool = False) -> Edit:
    """Read a file of `Edit.save`; nothing in the file is run.

    Args:
        path: of the file.
        model: refuse an edit that was computed on other weights than this model has; not checked without it.
        force: accept it all the same.

    Raises:
        TracerError: a missing, damaged or other file, or an edit of other weights.
    """
    tensors, header = editfile.read(path, FORMAT)
    try:
        evidence = {name.removeprefix("evidence/"): t for name, t in tensors.items() if name.startswith("evidence/")}
        factors = {name: (tensors[f"U/{name}"], tensors[f"V/{name}"]) for name in header.pop("weights")}
        requests = tuple(EditRequest(**request) for request in header.pop("requests"))
        edit = Edit(factors=factors, requests=requests, evidence=evidence, **header)
    except (KeyError, TypeError, AttributeError) as error:
        raise NotASavedResult(f"{path} is not a saved Edit ({error}); expected a file of Edit.save") from error
    if model is not None and not force:
        edit.check(model)
    return edit


def _header(edit: Edit) -> dict[str, Any]:
    kept = ("method", "fingerprint", "model", "seconds", "memory", "note")
    return {
        **{name: getattr(edit, name) for name in kept},
        "settings": dict(edit.settings),
        "requests": [asdict(request) for request in edit.requests],
        "weights": list(edit.factors),
    }


def _own(factor: Tensor) -> Tensor:
    return factor.detach().to("cpu", float32).contiguous()


def _norm(u: Tensor, v: Tensor) -> float:
    squared = ((u.T @ u) * (v.T @ v)).sum()
    return math.sqrt(max(float(squared), 0.0))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
