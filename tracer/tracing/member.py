"""One fact of an average: how it is named, and its trace unless the model does not know it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tracer.engine.answer import knows
from tracer.errors import AverageError, OneOfSeveral, TracerError
from tracer.facts.fact import Fact
from tracer.facts.spacing import spaced

from .store import name_of
from .trace import CausalTrace

if TYPE_CHECKING:
    from tracer.model import Model


class Case(NamedTuple):
    """A fact of the list, in the model's tokens.

    Attributes:
        index: its place in the list.
        fact: the fact.
        foil: its wrong answer.
        tokens: text of those that are traced.
    """

    index: int
    fact: Fact
    foil: str | None
    tokens: tuple[str, ...]

    def identity(self) -> list[Any]:
        """Values that tell the fact apart from others."""
        fact = self.fact
        target = fact.target and spaced(fact.text, fact.target, fact.space)
        return [fact.text, *fact.subject_span, fact.subject, target, self.foil]

    def kept(self) -> tuple[list[Any], dict[str, Any]]:
        """The identity by which a kept trace is found, and values it has to have."""
        fact = self.fact
        return self.identity(), {"prompt": fact.text, "subject": fact.subject, "tokens": self.tokens}

    def named(self, error: TracerError) -> TracerError:
        """`error` with the fact it is about."""
        return OneOfSeveral(f"fact {self.index} ({self.fact.text!r}): {error}")


def traced(
    model: Model, case: Case, settings: dict[str, Any], trace: Callable[..., CausalTrace]
) -> CausalTrace | Literal["unknown"]:
    """The trace of a fact, unless the model does not know it."""
    if not knows(model, case.fact):
        return "unknown"
    foil = {} if case.foil is None else {"foil": case.foil}
    found = trace(model, case.fact, **settings, **foil)
    if not isinstance(found, CausalTrace):
        raise AverageError(
            f"the trace function {name_of(trace)} returned a {type(found).__name__}; expected a CausalTrace"
        )
    return found
