"""Parts of a run: cells (a method used in one way on one model), and the jobs and items they are divided into.

Every case is asked on the unedited model first. Then, by mode:

- single: every case is edited alone on the model as it was; a job is a few cases, whose values are found together
- batch: cases are edited together: one job makes the edit, others ask a few cases each
- sequential: cases are edited one after the other, nothing is taken back: one job, one item per step
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from editing.evaluation.result.schema import UNEDITED
from editing.health.monitor import Limits
from editing.methods.compute import method_named, settings_of
from editing.questions.record import EditRecord
from tracer.errors import EvaluationOptionError, UnknownMethod
from tracer.runs import Job

Mode = Literal["single", "batch", "sequential"]
OnAlarm = Literal["record", "stop", "rollback"]
RANDOM_DIRECTION, RANDOM_LAYER = "random direction", "random layer"
CONTROLS = (RANDOM_DIRECTION, RANDOM_LAYER)


@dataclass(frozen=True)
class Cell:
    """A method as it is used.

    Attributes:
        method: its name.
        mode: "single", "batch" or "sequential".
        model: name of the model.
        layers: the layers that are written; None: the method's default.
        seed: of all random draws.
        hparams: further hyper-parameters; json values.

    Raises:
        TracerError: an unknown method, mode or hyper-parameter, or layers for a method that takes no layers.
    """

    method: str
    mode: Mode = "single"
    model: str = ""
    layers: tuple[int, ...] | None = None
    seed: int = 0
    hparams: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = method_named(self.method)
        object.__setattr__(self, "method", found.name)
        if self.mode not in get_args(Mode):
            raise EvaluationOptionError(f"mode is {self.mode!r}; expected one of {', '.join(get_args(Mode))}")
        if self.layers is not None:
            if found.layers == "none":
                raise UnknownMethod(f"{self.method} takes no layers; leave them out")
            object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))
        settings_of(found, self.options())

    def options(self) -> dict[str, Any]:
        """Hyper-parameters as the method takes them."""
        method = method_named(self.method)
        options = dict(self.hparams)
        if self.layers is not None:
            options["layers"] = self.layers
        if method.seeded:
            options.setdefault("seed", self.seed)
        return options

    def labels(self, control: str = "") -> dict[str, Any]:
        """Its values of the columns `LABELS`."""
        layers = ",".join(map(str, self.layers or ()))
        return {
            "model": self.model,
            "method": self.method,
            "control": control,
            "layers": layers,
            "seed": self.seed,
            "mode": self.mode,
        }


@dataclass(frozen=True)
class Protocol:
    """Settings of the measurements of edits.

    Attributes:
        chunk: cases of a job; their values are found together.
        batch: cases of an edit of mode "batch"; None: all.
        step: cases of an edit of mode "sequential".
        controls: baselines of a method besides the unedited model: its change turned into a random direction of equal
            norm in the same weights, and the same method at other layers (mode "single" only).
        control_cases: number of cases with controls, the first ones.
        generate: let the model write its answers too, beside teacher-forced scores.
        texts: let it continue the prompts that records list for it, for fluency and consistency.
        text_tokens: their length with the prompt.
        answer_cases: number of cases of which every single answer is kept; metrics are kept of all.
        retention: number of repeated measurements of earlier cases in mode "sequential", in total; None: three times
            the number of cases.
        moments: number of moments for these, spread evenly; at the last one as many as the others leave of `retention`.
        canary_tokens: of unrelated text (FactWorld's held-out text for the embedded model, a passage of plain English
            for others), for perplexity and KL drift; 0: off.
        attack: budget of guesses at the old answers right after each edit ([`editing.attack.attack`][]); 0: none.
        limits: of health in mode "sequential".
        on_alarm: go on and note it ("record"), make no further edit ("stop"), or also go back to the last healthy state
            ("rollback").

    Raises:
        TracerError: a number that is too small, or an unknown control.
    """

    chunk: int = 16
    batch: int | None = None
    step: int = 1
    controls: tuple[str, ...] = CONTROLS
    control_cases: int = 50
    generate: bool = True
    texts: bool = True
    text_tokens: int = 100
    answer_cases: int = 100
    retention: int | None = None
    moments: int = 10
    canary_tokens: int = 512
    attack: int = 0
    limits: Limits = field(default_factory=Limits)
    on_alarm: OnAlarm = "record"

    def __post_init__(self) -> None:
        if isinstance(self.limits, Mapping):
            object.__setattr__(self, "limits", Limits(**self.limits))
        object.__setattr__(self, "controls", tuple(self.controls))
        for name, least in {"chunk": 1, "batch": 1, "step": 1, "moments": 1, "text_tokens": 2}.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise EvaluationOptionError(f"{name} is {value}; expected at least {least}")
        for name in ("control_cases", "answer_cases", "retention", "canary_tokens", "attack"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise EvaluationOptionError(f"{name} is {value}; expected 0 or more")
        if wrong := [name for name in self.controls if name not in CONTROLS]:
            raise EvaluationOptionError(f"there is no control {wrong[0]!r}; expected some of {', '.join(CONTROLS)}")
        if self.on_alarm not in get_args(OnAlarm):
            raise EvaluationOptionError(
                f"on_alarm is {self.on_alarm!r}; expected one of {', '.join(get_args(OnAlarm))}"
            )

    def as_json(self) -> dict[str, Any]:
        """The fields as json values; without `attack` where there is none, as in runs that were begun before it."""
        return {name: value for name, value in asdict(self).items() if name != "attack" or value}

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Protocol:
        """A protocol from names and values.

        Args:
            options: the fields.

        Raises:
            TracerError: unknown names.
        """
        known = [each.name for each in fields(cls)]
        if wrong := [name for name in options if name not in known]:
            raise EvaluationOptionError(f"an evaluation has no option {wrong[0]!r}; it has {', '.join(known)}")
        return cls(**options)


def jobs_of(cells: Sequence[Cell], records: Sequence[EditRecord], protocol: Protocol) -> list[Job]:
    """The jobs of a run, those of the unedited models first.

    Args:
        cells: the methods as they are used.
        records: the cases.
        protocol: of the measurements.

    Raises:
        TracerError: no cell, no record, cells that are the same, or case ids that are not unique.
    """
    if not records:
        raise EvaluationOptionError("there is nothing to evaluate: the list of records is empty; give at least one")
    if not cells:
        raise EvaluationOptionError("there is nothing to evaluate: no method is named; give at least one")
    places: dict[str, int] = {}
    for place, record in enumerate(records):
        if places.setdefault(record.case_id, place) != place:
            raise EvaluationOptionError(
                f"records {places[record.case_id]} and {place} both have the case id {record.case_id!r}; "
                "give every record its own"
            )
    chunks = [list(range(i, min(i + protocol.chunk, len(records)))) for i in range(0, len(records), protocol.chunk)]
    jobs = [
        Job(unedited_key(model, chunk[0]), {"task": UNEDITED, "model": model, "cases": chunk}, _ids(records, chunk))
        for model in dict.fromkeys(cell.model for cell in cells)
        for chunk in chunks
    ]
    seen: dict[str, int] = {}
    for number, cell in enumerate(cells):
        if (first := seen.setdefault(repr((cell.labels(), sorted(cell.hparams.items()))), number)) != number:
            raise EvaluationOptionError(f"cells {first} and {number} are the same: {cell}; leave one of them out")
        asked = {i: unedited_key(cell.model, chunk[0]) for chunk in chunks for i in chunk}
        base = {"task": cell.mode, "cell": number}
        if cell.mode == "single":
            for chunk in chunks:
                after = (asked[chunk[0]],)
                jobs.append(Job(f"{number}/{chunk[0]}", {**base, "cases": chunk}, _ids(records, chunk), after))
        elif cell.mode == "batch":
            size = protocol.batch or len(records)
            for start in range(0, len(records), size):
                cases = list(range(start, min(start + size, len(records))))
                key = f"{number}/edit {start}"
                jobs.append(Job(key, {**base, "task": "edit", "cases": cases}, ("edit",)))
                for some in (cases[i : i + protocol.chunk] for i in range(0, len(cases), protocol.chunk)):
                    after = (key, *dict.fromkeys(asked[i] for i in some))
                    payload = {**base, "edit": key, "size": len(cases), "cases": some}
                    jobs.append(Job(f"{number}/{some[0]}", payload, _ids(records, some), after))
        else:
            steps = -(-len(records) // protocol.step)
            items = (*(f"step {i}" for i in range(steps)), "end")
            after = tuple(unedited_key(cell.model, chunk[0]) for chunk in chunks)
            jobs.append(Job(f"{number}/sequence", base, items, after))
    return jobs


def unedited_key(model: str, first: int) -> str:
    """Key of the job that asks the unedited model the chunk that begins with case `first`."""
    return f"{UNEDITED} {model}/{first}"


def _ids(records: Sequence[EditRecord], cases: Sequence[int]) -> tuple[str, ...]:
    return tuple(records[i].case_id for i in cases)
