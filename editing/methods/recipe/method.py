"""RECIPE (Chen et al. 2024): an edit is a soft prompt that is put in front of the questions a router finds it for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editing.memories.routed import Own
from editing.memories.routing.router import taken
from editing.memories.small import Parts
from editing.memories.soft import PROMPTS
from editing.memories.soft_nets import KNOWLEDGE, MAKER, prompts_of, representations
from editing.methods.context import EditContext
from editing.methods.method import Change, Group, Method
from editing.methods.routed.book import Book, line_of
from editing.methods.routed.routers import router_for
from editing.methods.routed.settings import RoutedSettings
from editing.prepared.work import Preparation
from tracer.checks import one_of
from tracer.engine.memories import resting
from tracer.errors import HyperparameterError
from tracer.facts.encoding import encode

from .prepare import make
from .settings import RECIPEPreparation

if TYPE_CHECKING:
    from editing.prepared.prepared import Prepared
    from tracer.model import Model

NAME = "recipe"
SOFT, TEXT = "soft", "text"
TEMPLATE = "{fact}. {question}"


@dataclass(frozen=True)
class RECIPESettings(RoutedSettings):
    """Hyper-parameters of RECIPE; see `RoutedSettings`.

    Attributes:
        payload: what is put in front of a question: "soft", the vectors that were learnt to stand for an edit; "text",
            the edit's own text, to compare with.
    """

    payload: str = SOFT

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("payload", self.payload, (SOFT, TEXT), kind=HyperparameterError)


def plan(model: Model, groups: Sequence[Group], settings: RECIPESettings, context: EditContext) -> list[Change]:
    """One change of the memory per group, each from the one that the model has."""
    prepared = context.prepared_for(NAME)
    router = router_for(context, settings.router, settings.routing, NAME)
    name = settings.name or NAME
    if settings.payload == SOFT:
        words: dict[str, Any] = {"shape": prepared.header["shape"], "prepared": prepared.digest}
    else:
        words = {"template": TEMPLATE, "reserve": 0}
    book = Book.open(model, name, settings.payload, router, words)
    found = []
    for group in groups:
        lines = [line_of(model, request) for request in group]
        own: Sequence[Own] = [{}] * len(lines)
        if settings.payload == SOFT:
            with resting(model):
                own = soft_prompts(model, prepared, lines)
        else:
            lines = [{**line, "text": line["prompt"] + line["target"], "front": []} for line in lines]
        change, keys, note = book.added(lines, own)
        used = {**settings.told(router), "payload": settings.payload, "name": name, "prepared": prepared.digest}
        evidence = {"keys": keys}
        found.append(Change({}, used, evidence, note, (change,)))
    return found


def soft_prompts(model: Model, prepared: Prepared, lines: Sequence[dict[str, Any]]) -> list[Own]:
    """The vectors of edits, [vectors, d] each: one pass of what the heads read, and no optimisation.

    Args:
        model: that is edited, its memories at rest.
        prepared: for recipe.
        lines: of the entries.
    """
    held = vars(prepared)["_held"]
    parts = Parts(taken(prepared.tensors, "router/"), held)
    told = prepared.header["router"]["settings"]
    texts = [tuple(encode(model.tokenizer, line["prompt"] + line["target"], model.causal)[0]) for line in lines]
    knowledge = representations(parts, told, model, KNOWLEDGE, texts)
    maker = {name: each.float() for name, each in prepared.tensors.items() if name.startswith(MAKER)}
    made = prompts_of(maker, knowledge).view(len(lines), *prepared.header["shape"])
    return [{PROMPTS: each.contiguous()} for each in made]


METHOD = Method(
    NAME,
    RECIPESettings,
    plan,
    needs=frozenset({"prepared"}),
    layers="none",
    writes=False,
    preparation=Preparation(RECIPEPreparation, make, summary="a retriever of edits, and a maker of soft prompts"),
    summary="edits as soft prompts that a router puts in front (Chen et al. 2024)",
)
