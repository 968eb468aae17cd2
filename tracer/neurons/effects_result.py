"""The result of acting on neurons: probabilities before and after, those of every control, and how to read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.errors import NotASavedResult, ResultArrayError
from tracer.files import npz as storage
from tracer.html_table import html_of

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "tracer.NeuronEffects/1"
ARRAYS = ("before", "after", "random", "other")


@dataclass(frozen=True, eq=False)
class NeuronEffects:
    """Probabilities of F prompts' answers before and after acting on neurons. Made by [`tracer.neuron_effects`][].

    Attributes:
        action: "suppress", "amplify" (times `factor`) or "set_to" (`value`).
        factor: as given; unused by other actions than "amplify".
        value: as given; unused by other actions than "set_to".
        neurons: pairs (layer, unit) acted on.
        other_neurons: those of another fact; empty without one.
        facts: texts of the prompts: the fact itself, then its neighbours.
        answers: the answer measured at each, with its leading space.
        before: [F], the probability of the answer in the untouched model.
        after: [F], with the neurons acted on.
        random: [F, draws], with as many random neurons of the same layers acted on instead; the same sets for every
            prompt, those of `random_neurons(model, neurons, draws, seed)`.
        other: [F], with the other fact's neurons acted on instead; None without them.
        subject: the fact's subject.
        tokens: where it was acted: "answer", "subject_last", "all" or positions in the prompt.
        site: "post" the non-linearity, or "pre".
        seed: of the random sets.
        model: the model's name.
        fingerprint: a hash of the model's weights.
        note: a remark for the reader, or "".
    """

    action: str
    factor: float
    value: float
    neurons: tuple[tuple[int, int], ...]
    other_neurons: tuple[tuple[int, int], ...]
    facts: tuple[str, ...]
    answers: tuple[str, ...]
    before: np.ndarray
    after: np.ndarray
    random: np.ndarray
    other: np.ndarray | None
    subject: str
    tokens: str | tuple[int, ...]
    site: str
    seed: int
    model: str
    fingerprint: str
    note: str = ""

    def __post_init__(self) -> None:
        count = len(self.facts)
        for name in ARRAYS:
            if getattr(self, name) is None and name == "other":
                continue
            array = np.array(getattr(self, name), dtype=float)
            if array.ndim != (2 if name == "random" else 1) or len(array) != count or not array.size:
                expected = f"({count}, draws)" if name == "random" else f"({count},), one per prompt"
                raise ResultArrayError(f"{name} of neuron effects has the shape {array.shape}; expected {expected}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @property
    def change(self) -> np.ndarray:
        """Relative change per prompt, [F], `after / before - 1`; nan where the probability was zero before."""
        return relative(self.after, self.before)

    @property
    def random_change(self) -> np.ndarray:
        """Relative change with the random sets, [F, draws]."""
        return relative(self.random, self.before[:, None])

    @property
    def other_change(self) -> np.ndarray | None:
        """Relative change with the other fact's neurons, [F]; None without them."""
        return None if self.other is None else relative(self.other, self.before)

    def conditions(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each set of neurons that was measured, "neurons", "random" and maybe "other", with its `after`, [F, n]."""
        yield "neurons", self.after[:, None]
        yield "random", self.random
        if self.other is not None:
            yield "other", self.other[:, None]

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt and set of neurons: prompt, role, condition, draw, before, after, change.

        role is "fact" or "neighbour"; draw is missing but for random sets.
        """
        import pandas as pd

        rows = [
            (prompt, role(i), condition, draw if condition == "random" else None, before, probability)
            for i, (prompt, before) in enumerate(zip(self.facts, self.before.tolist(), strict=True))
            for condition, after in self.conditions()
            for draw, probability in enumerate(after[i].tolist())
        ]
        frame = pd.DataFrame(rows, columns=["prompt", "role", "condition", "draw", "before", "after"])
        frame["draw"] = frame["draw"].astype("Int64")
        frame["change"] = relative(frame["after"].to_numpy(), frame["before"].to_numpy())
        return frame

    def _repr_html_(self) -> str:
        sets = self.to_frame().groupby(["prompt", "role", "condition"], sort=False)
        frame: Any = sets[["before", "after"]].mean()
        title = f"{self.action} of {len(self.neurons)} neurons of {self.subject!r} in {self.model}"
        return html_of(title, frame.reset_index(), self.note)

    def save(self, path: str | Path) -> Path:
        """Write an npz file, whole or not at all, and return its path.

        Raises:
            TracerError: it cannot be written.
        """
        arrays = {name: getattr(self, name) for name in ARRAYS if getattr(self, name) is not None}
        header = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ARRAYS}
        return storage.write(path, FORMAT, arrays, header)

    @classmethod
    def load(cls, path: str | Path) -> NeuronEffects:
        """Read what `save` wrote; nothing in the file is run.

        Raises:
            TracerError: any other file.
        """
        arrays, header = storage.read(path, FORMAT)
        try:
            for name in ("neurons", "other_neurons"):
                header[name] = tuple((layer, unit) for layer, unit in header[name])
            for name in ("facts", "answers"):
                header[name] = tuple(header[name])
            if not isinstance(header["tokens"], str):
                header["tokens"] = tuple(header["tokens"])
            return cls(**{"other": None, **arrays}, **header)
        except (KeyError, TypeError, ValueError) as error:
            raise NotASavedResult(
                f"{path} is not a saved NeuronEffects ({error}); expected a file of its save"
            ) from error

    def __str__(self) -> str:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text  # prompts are shown as they are, "[MASK]" is no markup

        how = {"suppress": "suppressed", "amplify": f"times {self.factor:g}", "set_to": f"set to {self.value:g}"}
        where = {
            "answer": "where the answer is read",
            "subject_last": "at the subject's last token",
            "all": "everywhere",
        }
        place = where[self.tokens] if isinstance(self.tokens, str) else f"at tokens {list(self.tokens)}"
        title = f"{len(self.neurons)} neurons of {self.model} {how[self.action]} {place}"
        draws = f"{self.random.shape[1]} random sets, mean (2.5-97.5 %)"
        table = Table("", "prompt", "answer", box=box.SIMPLE_HEAD, title=Text(title), title_justify="left")
        for name in ("before", "after", "change", draws, *(() if self.other is None else ("other fact's",))):
            table.add_column(name, justify="right", no_wrap=name != draws)
        low, high = np.percentile(self.random_change, [2.5, 97.5], axis=1)
        for i, (prompt, answer) in enumerate(zip(self.facts, self.answers, strict=True)):
            spread = f"{self.random_change[i].mean():+.1%} ({low[i]:+.1%} to {high[i]:+.1%})"
            other = [] if self.other_change is None else [f"{self.other_change[i]:+.1%}"]
            numbers = [f"{self.before[i]:.4f}", f"{self.after[i]:.4f}", f"{self.change[i]:+.1%}", spread, *other]
            table.add_row(role(i), Text(prompt), Text(answer.strip()), *numbers)
        console = Console(width=120, color_system=None, force_jupyter=False)
        with console.capture() as capture:
            console.print(table)
        lines = [line.rstrip() for line in capture.get().rstrip().splitlines()]
        return "\n".join([*lines, *([f"Note: {self.note}"] if self.note else [])])


def role(index: int) -> str:
    """The part of the prompt at `index`: "fact" or "neighbour"."""
    return "neighbour" if index else "fact"


def relative(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """`after / before - 1`, nan where `before` is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(before == 0, np.nan, after / before - 1)
