"""Hyper-parameters of SERAC's edits and of its preparation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editing.memories.similarity import RULES
from editing.methods.training import as_layers
from tracer.checks import finite, whole
from tracer.errors import HyperparameterError

OUTPUTS, KNOWN_BY = ("hard", "soft"), ("prompt", "words")


@dataclass(frozen=True)
class SERACSettings:
    """Hyper-parameters of an edit by SERAC.

    Attributes:
        threshold: an edit acts on questions that are more similar to it than this.
        output: "hard": the nearest edit's answer or the model's own. "soft": a mixture of both by the similarity,
            always (as EasyEdit runs it), which changes every answer a little.
        known_by: how an encoder knows an edit: by its "prompt", or by prompt and target less the last word ("words", as
            published). A classifier on the model's own states knows it by its prompt.
        join: text between an edit and a question. (Published: " ".)
    """

    threshold: float = 0.5
    output: str = "hard"
    known_by: str = "prompt"
    join: str = ". "

    def __post_init__(self) -> None:
        finite("threshold", self.threshold, 0, kind=HyperparameterError)
        for name, value, known in (("output", self.output, OUTPUTS), ("known_by", self.known_by, KNOWN_BY)):
            if value not in known:
                raise HyperparameterError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")
        if not isinstance(self.join, str):
            raise HyperparameterError(f"join is {self.join!r}; expected a text")


@dataclass(frozen=True)
class SERACPreparation:
    """How SERAC is prepared.

    Attributes:
        classifier: folder of an encoder, trained already; None: a projection of the model's own states is trained.
        layers: whose states at the last token are projected; None: at three quarters and seven eighths of the depth,
            and the last.
        width: of the vectors.
        steps: of the projection's training.
        lr: learning rate of Adam there.
        batch: edits of a step; each is compared with a question of its own, its negatives, and all others' questions.
        negatives: of each edit in a step: neighbours, and other facts of its subject.
        others: weight of the questions of other edits.
        rule: see [`editing.memories.similarity.log_similarities`][]; an encoder was trained with one.
        scale: likewise.
        heads: likewise.
        bounded: likewise.
        answers: who answers: "self", the model with the edit in front; "student", a small transformer that is trained
            to; the folder of another model with the same tokens; None: the model itself if it says enough of the
            targets of held-out records then, else a student.
        enough: share of the targets that is enough.
        student_layers: blocks of a student.
        student_width: its width.
        student_steps: of its training.
        student_lr: learning rate of Adam there.
        student_batch: questions of a step.
        made_up: share of its targets that are drawn from the vocabulary, so that it learns to copy what it never saw.
    """

    classifier: str | None = None
    layers: Sequence[int] | None = None
    width: int = 64
    steps: int = 800
    lr: float = 2e-3
    batch: int = 64
    negatives: int = 4
    others: float = 5.0
    rule: str = "squared"
    scale: float = 1.0
    heads: int = 1
    bounded: bool = False
    answers: str | None = None
    enough: float = 0.8
    student_layers: int = 2
    student_width: int = 128
    student_steps: int = 2000
    student_lr: float = 2e-3
    student_batch: int = 24
    made_up: float = 0.6

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        for name in ("width", "batch", "negatives", "heads", "student_layers", "student_width", "student_batch"):
            whole(name, getattr(self, name), 1, kind=HyperparameterError)
        for name in ("steps", "student_steps"):
            whole(name, getattr(self, name), kind=HyperparameterError)
        for name in ("lr", "student_lr", "scale"):
            finite(name, getattr(self, name), above=0, kind=HyperparameterError)
        for name in ("others", "enough", "made_up"):
            finite(name, getattr(self, name), 0, kind=HyperparameterError)
        if self.rule not in RULES:
            raise HyperparameterError(f"rule is {self.rule!r}; expected one of {', '.join(map(repr, RULES))}")
