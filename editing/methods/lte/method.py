"""LTE (Jiang et al. 2024, "Learning to Edit"): a model is taught once, and an edit is a text in front of a question.

The first edit brings the adapters of the model that was taught, as a change of weights; it and all later ones are texts
in a memory, of which the nearest is put in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from editing.edits.state import State
from editing.edits.weights import Factors, proposed
from editing.methods.beside import present
from editing.methods.context import EditContext
from editing.methods.method import Change, Group, Method
from editing.methods.routed.book import Book, line_of
from editing.methods.routed.routers import router_for
from editing.prepared.work import Preparation

from .prepare import make
from .settings import LTEPreparation, LTESettings

if TYPE_CHECKING:
    from editing.prepared.prepared import Prepared
    from tracer.model import Model

NAME = "lte"
KIND = "text"


def plan(model: Model, groups: Sequence[Group], settings: LTESettings, context: EditContext) -> list[Change]:
    """One change per group: its texts in the memory, and the adapters where the model does not have them yet."""
    prepared = context.prepared_for(NAME)
    router = router_for(context, settings.router, settings.routing, NAME)
    name = settings.name or NAME
    words = {"template": prepared.header["template"], "reserve": 0, "prepared": prepared.digest}
    begun = present(model, name, KIND) is not None
    factors = {} if begun else factors_in(prepared)
    found = []
    with State(proposed(model, factors), {}).applied(model):  # keys are read, and bound to, the model that was taught
        book = Book.open(model, name, KIND, router, words)
        for group in groups:
            lines = [line_of(model, request) for request in group]
            lines = [{**line, "text": line["prompt"] + line["target"], "front": []} for line in lines]
            change, keys, note = book.added(lines, [{}] * len(lines))
            used = {**settings.told(router), "name": name, "prepared": prepared.digest}
            found.append(Change(factors, used, {"keys": keys}, note, (change,)))
    return found


def factors_in(prepared: Prepared) -> Factors:
    """The change of weights by which a model is taught.

    Args:
        prepared: for lte.
    """
    return {
        name: (prepared.tensors[f"u/{name}"].float(), prepared.tensors[f"v/{name}"].float())
        for name in prepared.header["weights"]
    }


METHOD = Method(
    NAME,
    LTESettings,
    plan,
    needs=frozenset({"prepared", "origin"}),
    layers="none",
    preparation=Preparation(LTEPreparation, make, summary="adapters that let a model obey a fact in front, or not"),
    summary="a model taught to obey a text in front of a question (Jiang et al. 2024)",
)
