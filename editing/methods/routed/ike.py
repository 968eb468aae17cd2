"""IKE: edits as texts, behind demonstrations of when to obey one.

Zheng et al. 2023, "Can We Edit Factual Knowledge by In-Context Learning?". No weight is changed and nothing is trained.
A router finds the edit that a prompt is about; the published evaluations put the right one in front of every question,
neighbours too, which is `router="nearest"` with one edit in the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.lines import packed, unpacked
from editing.memories.text import SLOTS, filled, fitting
from editing.methods.context import EditContext
from editing.methods.method import Change, Group, Method
from editing.prepared.work import Made, Preparation, Work
from tracer.checks import whole
from tracer.engine.memories import resting
from tracer.engine.prompt_states import mean_state
from tracer.errors import HyperparameterError, NotPrepared
from tracer.facts.prompt import prompt_ids, span_mark, stated
from tracer.progress import track

from .book import Book, line_of
from .demonstrations import TEMPLATE, Demonstration, nearest, original, own_copy, pooled
from .measure import RouterPreparation, measured
from .routers import router_for
from .settings import RoutedSettings

if TYPE_CHECKING:
    from editing.prepared.prepared import Prepared
    from editing.request import EditRequest
    from tracer.model import Model

NAME = "ike"
VARIANTS = {"original": 32, "easyedit": 16, "bare": 0}
"""How demonstrations are chosen, and how many there are by default."""


@dataclass(frozen=True)
class IKESettings(RoutedSettings):
    """Hyper-parameters of IKE; see `RoutedSettings`.

    Attributes:
        variant: "original": the nearest records, kinds of demonstrations in a ratio, the nearest last, and the edit's
            own copy example behind them. "easyedit": the nearest of three sentences a record, of whatever kinds.
            "bare": the edit's text alone.
        demonstrations: how many, at most; None: 32, 16 or 0. Fewer where the context is too short for all.
        ratio: of copies, updates and retains among them, of the original.
        disjoint: take none with the edit's subject or its pair of answers. (Published: False.)
        template: holds "{fact}" and ends in "{question}".
        reserve: tokens left for the answer.
        seed: of the shuffle and the choice of paraphrases and neighbours; drawn on from request to request of a group.
    """

    variant: str = "original"
    demonstrations: int | None = None
    ratio: Sequence[int] = (1, 3, 4)
    disjoint: bool = True
    template: str = TEMPLATE
    reserve: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise HyperparameterError(f"variant is {self.variant!r}; expected one of {', '.join(map(repr, VARIANTS))}")
        if self.demonstrations is not None:
            whole("demonstrations", self.demonstrations, kind=HyperparameterError)
        object.__setattr__(self, "ratio", tuple(whole("ratio", each, kind=HyperparameterError) for each in self.ratio))
        if len(self.ratio) != 3 or not sum(self.ratio):
            raise HyperparameterError(
                f"ratio is {self.ratio!r}; expected three numbers, of copies, updates and retains"
            )
        if not self.template.endswith(SLOTS[1]) or self.template.count(SLOTS[0]) != 1:
            raise HyperparameterError(
                f"template is {self.template!r}; expected a text with {{fact}} once that ends in {{question}}"
            )
        for name in ("reserve", "seed"):
            whole(name, getattr(self, name), kind=HyperparameterError)

    @property
    def count(self) -> int:
        """How many demonstrations, at most."""
        return VARIANTS[self.variant] if self.demonstrations is None else self.demonstrations


# --- once for a model ------------------------------------------------------------------------------------------------
def prepare(model: Model, settings: RouterPreparation, work: Work) -> Made:
    """Demonstrations with their embeddings, and routers measured on the same records.

    Raises:
        TracerError: no record has both a paraphrase and a neighbour whose answer is known.
    """
    mark = span_mark(model) if model.stacks else None
    every = [Demonstration.of(record, mark) for record in (*work.records, *work.held_out)]
    some = [each for each in every if each.paraphrases and each.neighbours]
    if not some:
        raise NotPrepared(
            f"{NAME} demonstrates with paraphrases and neighbours, and none of the {len(every)} records has both; give "
            "records that have"
        )
    routers = measured(model, settings, work)
    texts = {
        "embeddings": [each.known_by for each in some],
        "sentences": [text for each in some for text in each.three()],
    }
    embedded = {name: embeddings(model, each).half() for name, each in texts.items()}
    tensors = {**routers.tensors, "demonstrations": packed([each.line() for each in some]), **embedded}
    return Made(tensors, routers.header, routers.history)


def embeddings(model: Model, texts: Sequence[str]) -> Tensor:
    """What texts are compared by, [texts, d_model]: the mean over tokens of the model's own last states.

    Those of its encoder where it has one. (Published: all-MiniLM-L6-v2.)

    Args:
        model: whose states are taken.
        texts: each run by itself.
    """
    place = "hidden", model.stacks.get("encoder", range(model.n_layers))[-1]
    with resting(model):
        every = [prompt_ids(model, text)[: model.n_ctx] for text in texts]
        return torch.stack([mean_state(model, ids, place).cpu() for ids in track(every, "embedding demonstrations")])


# --- an edit ---------------------------------------------------------------------------------------------------------
def plan(model: Model, groups: Sequence[Group], given: IKESettings, context: EditContext) -> list[Change]:
    """One change of the memory per group, each from the one that the model has; an entry is a text.

    Raises:
        TracerError: nothing was prepared to demonstrate with; an edit that is too long for the context by itself; a
            memory that was begun with another router or template.
    """
    name = given.name or NAME
    router = router_for(context, given.router, given.routing, NAME)
    book = Book.open(model, name, "text", router, {"template": given.template, "reserve": given.reserve})
    shelf = _Shelf(context.prepared_for(NAME)) if given.count else None
    found = []
    for group in groups:
        draw, lines, notes, counts = Random(given.seed), [], [], []
        for request in group:
            line, note = _entry(model, request, given, shelf, draw)
            lines.append(line)
            notes.append(note)
            counts.append(len(line["front"]))
        change, keys, told = book.added(lines, [{}] * len(lines))
        used = {**given.told(router), "name": name, "variant": given.variant, "demonstrations": given.count}
        used |= {"ratio": list(given.ratio), "disjoint": given.disjoint, "template": given.template}
        used |= {"reserve": given.reserve, "seed": given.seed}
        evidence = {"keys": keys, "demonstrations": torch.tensor(counts)}
        text = "; ".join(dict.fromkeys(filter(None, [told, *notes])))
        found.append(Change({}, used, evidence, text, (change,)))
    return found


def _entry(
    model: Model, request: EditRequest, given: IKESettings, shelf: _Shelf | None, draw: Random
) -> tuple[dict[str, Any], str]:
    line = line_of(model, request)
    fact = stated(model, line["prompt"], line["target"])
    front = shelf.front(model, request, fact, given, draw) if shelf is not None else []
    _, used = fitting(model, given.template, fact, line["prompt"], front, given.reserve)
    wanted = given.count + (given.count > 0 and given.variant == "original")
    note = ""
    if used < len(front):
        note = f"{used} of {len(front)} demonstrations fit into the {model.n_ctx} tokens that {model.name} reads"
    elif len(front) < wanted:
        note = f"{len(front)} demonstrations instead of {wanted}: there are no more that are disjoint from the edit"
    best = front[:used] if given.variant == "easyedit" else front[len(front) - used :]
    return {**line, "text": fact, "front": best}, note


class _Shelf:
    """Demonstrations to choose from."""

    def __init__(self, prepared: Prepared) -> None:
        self.every = [Demonstration.read(line) for line in unpacked(prepared.tensors["demonstrations"])]
        self.embeddings = {name: prepared.tensors[name].float() for name in ("embeddings", "sentences")}

    def front(self, model: Model, request: EditRequest, fact: str, given: IKESettings, draw: Random) -> list[str]:
        """The texts in front of an edit, the last ones the most useful."""
        if not given.count:
            return []
        query = embeddings(model, [filled(TEMPLATE, fact, request.text)])[0]
        free = [place for place, each in enumerate(self.every) if not given.disjoint or each.disjoint(request)]
        if given.variant == "easyedit":
            places = [3 * place + kind for place in free for kind in range(3)]
            sentences = [text for place in free for text in self.every[place].three()]
            return pooled(sentences, self.embeddings["sentences"][places], query, given.count)
        chosen = nearest(query, self.embeddings["embeddings"][free], given.count)
        return [
            *original([self.every[free[place]] for place in chosen], given.ratio, draw),
            own_copy(fact),
        ]


METHOD = Method(
    NAME,
    IKESettings,
    plan,
    needs=frozenset({"prepared"}),
    layers="none",
    seq2seq=True,
    seeded=True,
    writes=False,
    preparation=Preparation(RouterPreparation, prepare, summary="demonstrations, and routers on the model's states"),
    summary="edits as texts behind demonstrations (Zheng et al. 2023)",
)
