"""Panel of the fact: its fields, its tokens, and the button of a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracer.errors import WorkbenchError
from tracer.tracing.case import KINDS, default_window
from tracer.tracing.corruption import GaussianNoise, TokenReplacement, UniformNoise
from tracer.tracing.metrics import TRACE_METRICS

from . import parts, texts
from .session import Session

EXAMPLE = ("The Space Needle is in downtown", "The Space Needle")
NOISES = [("Gaussian noise", "gaussian"), ("uniform noise", "uniform"), ("another subject", "replacement")]


class FactPanel:
    """Prompt, subject, answer, and kinds to trace.

    Args:
        session: to trace in.
        changed: called when the fact is another one.
        trace: called when the button is pressed.
    """

    def __init__(self, session: Session, changed: Callable[[], None], trace: Callable[[], None]) -> None:
        self.session, self._changed = session, changed
        self.prompt = parts.text("prompt", EXAMPLE[0], "a prompt with its subject in it, or with {}")
        self.subject = parts.text("subject", EXAMPLE[1])
        self.answer = parts.text("answer", placeholder="what the model says")
        self.kinds = {kind: parts.tick(f"kind-{kind}", texts.KINDS[kind], True) for kind in KINDS}
        self.noise = parts.choice("noise", NOISES, "gaussian")
        self.sigma = parts.real("sigma", 3.0, 0.0, 1000.0)
        self.samples = parts.whole("samples", 10, 1, 1000)
        self.seed = parts.whole("seed", 1, 0, 2**31 - 1)
        layers = session.model.n_layers
        self.window = parts.whole("window", default_window(layers), 1, layers)
        known = [(metric.short or metric.label, name) for name, metric in TRACE_METRICS.items()]
        self.metric = parts.choice("metric", known, "prob")
        self.button = parts.button("trace", "Trace", trace, main=True)
        self.tokens = parts.markup()
        self.slot = parts.column()
        restore = parts.row(parts.markup('<span class="tw-quiet">restore</span>'), *self.kinds.values(), self.button)
        restore.layout.align_items = "center"
        self.box = parts.panel(
            "Fact",
            parts.row(
                parts.labelled("prompt", self.prompt, "330px", 2),
                parts.labelled("subject", self.subject, "170px", 1),
                parts.labelled("answer, if another than", self.answer, "150px", 1),
            ),
            self.tokens,
            parts.row(
                parts.labelled("corrupt the subject by", self.noise, "150px"),
                parts.labelled("sigma", self.sigma, "64px"),
                parts.labelled("samples", self.samples, "64px"),
                parts.labelled("seed", self.seed, "64px"),
                parts.labelled("measure", self.metric, "140px"),
                parts.labelled("window (layers)", self.window, "110px"),
            ),
            restore,
            self.slot,
        )
        for field in (self.prompt, self.subject, self.answer):
            field.observe(lambda _: self._changed(), "value")

    @property
    def controls(self) -> list[Any]:
        """Widgets that are disabled while something is at work."""
        numbers = [self.noise, self.sigma, self.samples, self.seed, self.metric, self.window]
        return [self.prompt, self.subject, self.answer, *self.kinds.values(), *numbers, self.button]

    def align(self) -> None:
        """Make the fact typed in that of the session, and show it.

        Raises:
            TracerError: an invalid fact.
        """
        self.tokens.value = ""
        found = self.session.align(self.prompt.value, self.subject.value, self.answer.value.strip() or None)
        self.tokens.value = texts.alignment(found)

    def settings(self) -> dict[str, Any]:
        """Arguments of `Session.traced`.

        Raises:
            TracerError: there is nothing to restore.
        """
        kinds = [kind for kind, box in self.kinds.items() if box.value]
        if not kinds:
            raise WorkbenchError("nothing is ticked to be restored; tick hidden states, MLP or attention")
        samples = self.samples.value
        if self.noise.value == "replacement":
            corruption: Any = TokenReplacement(samples=samples)
        else:
            noise = GaussianNoise if self.noise.value == "gaussian" else UniformNoise
            corruption = noise(sigma=self.sigma.value, samples=samples, seed=self.seed.value)
        return {"kinds": kinds, "corruption": corruption, "window": self.window.value, "metric": self.metric.value}
