"""Training of MEND, MALMEN and RLEdit, and the editors that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.edits.weights import check_editable
from editing.methods.lessons import Lesson, lessons_of
from editing.prepared.prepared import Prepared
from editing.prepared.work import Made, Work
from tracer.progress import bar, track

from .changes import MetaEditor
from .episodes import Episodes
from .factors import PREDICTING, check_tokens, inputs_at
from .first_rate import lowest
from .malmen import Malmen
from .mend import Mend
from .nets import Nets, new_parameters
from .passages import passages_of, whole_row
from .places import Place, keys_of, places_of
from .rledit import Retained
from .settings import MALMENPreparation, MENDPreparation, NetPreparation, RLEditPreparation
from .statistics import Statistics
from .teaching import Alone, losses_of, teach
from .whitening import Whitening

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.model import Model

MEND_EPSILON = 1e-7  # added to standard deviations, as published
MALMEN_EPSILON = torch.finfo(torch.float32).eps
HALF = ("A", "B")  # parts of the nets that are kept in half precision
EDITS = 16  # run at once while statistics are taken, and of each number of edits when a rate is chosen
FIRST = 1e-2  # size of the rate that is tried first


def make_mend(model: Model, settings: MENDPreparation, work: Work) -> Made:
    """Train a MEND editor."""
    places = places_of(model, keys_of(model, settings.layers, settings.projections))

    def editor(nets: Nets) -> Mend:
        return Mend(nets, tokens=settings.tokens)

    return _made(model, settings, work, places, editor, {}, MEND_EPSILON, "mend", -1)


def make_malmen(
    model: Model, settings: MALMENPreparation, work: Work, method: str = "malmen", goal: type[Alone] = Alone
) -> Made:
    """Train a MALMEN editor.

    Args:
        model: to be edited.
        settings: of the training.
        work: records, seed, checkpoint.
        method: whose editor it is.
        goal: what is lowered.
    """
    places = places_of(model, keys_of(model, settings.layers, settings.projections))
    ridge = {"log_ridge": torch.full((len(places),), float(settings.log_ridge))}

    def editor(nets: Nets) -> Malmen:
        return Malmen(nets, settings.block, tokens=settings.tokens)

    return _made(model, settings, work, places, editor, ridge, MALMEN_EPSILON, method, 1, goal)


def make_rledit(model: Model, settings: RLEditPreparation, work: Work) -> Made:
    """Train a MALMEN editor on sequences."""
    return make_malmen(model, settings, work, "rledit", Retained)


def _made(
    model: Model,
    settings: NetPreparation,
    work: Work,
    places: tuple[Place, ...],
    editor: Callable[[Nets], MetaEditor],
    more: Mapping[str, Tensor],
    epsilon: float,
    method: str,
    downhill: int,
    goal: type[Alone] = Alone,
) -> Made:
    check_editable(model, [place.weight for place in places])
    check_tokens(model, places, settings.tokens)
    learnt, held_out = (lessons_of(model, each, method) for each in (work.records, work.held_out))
    parameters = new_parameters(
        places, settings.nets, settings.rank, settings.blocks, settings.spread, work.draws(-1), model.device
    )
    parameters |= {"rate": torch.full((len(places),), downhill * FIRST if settings.rate is None else settings.rate)}
    parameters |= more
    parameters = {name: tensor.to(model.device).requires_grad_() for name, tensor in parameters.items()}
    empty = {place.shape: Statistics.none(sum(place.width)) for place in places}
    nets = Nets(places, parameters, empty, settings.blocks, settings.nets, epsilon, settings.floor)
    nets = replace(nets, statistics=_statistics(model, editor, nets, settings, learnt, work))
    texts = passages_of(model, settings.texts > 0, work)
    kept = (settings.directions, settings.kept_rows, learnt, work, settings.tokens, texts)
    nets = replace(nets, whitening=whitening_of(model, places, *kept))
    learner = editor(nets)
    if settings.rate is None:
        _set_rate(model, learner, parameters["rate"], settings, learnt, work, texts)
    rates = {"rate": float(parameters["rate"][0].detach().abs()), **dict.fromkeys(more, 1.0)}
    objective = goal(model, learner, settings)
    how: dict[str, Any] = {"rates": rates, "objective": objective, "passages": texts}
    trained = teach(model, learner, parameters, settings, learnt, held_out, work, **how)
    tensors = {name: _kept(name, tensor.detach()) for name, tensor in parameters.items()}
    for shape, own in nets.statistics.items():
        tensors |= own.tensors(shape)
    for key, white in nets.whitening.items():
        tensors |= white.tensors(key)
    header = {"places": [place.key for place in places], "epsilon": epsilon}
    return Made(tensors, header, trained.history, trained.ended)


@torch.no_grad()
def _set_rate(
    model: Model,
    learner: MetaEditor,
    rate: Tensor,
    settings: NetPreparation,
    lessons: list[Lesson],
    work: Work,
    texts: Sequence[Ids],
) -> None:
    """Give the rate, in place, the size at which the loss of some edits is lowest before any training."""
    found = work.checkpoint.load("rate")
    if found is None:
        draw = Random(int(torch.randint(1 << 62, (1,), generator=work.draws(-4))))
        own: dict[str, Any] = {"others": settings.others, "passages": texts, "texts": settings.texts}
        episodes = Episodes(model, lessons, drawn=settings.drawn, **own)
        some = [episodes.drawn_at(draw, max(1, EDITS // size), size) for size in settings.numbers]
        weighed = Alone(model, learner, settings).weighed
        sign = rate.sign()
        with bar("choosing a rate", None):

            def loss(size: float) -> float:
                rate.copy_(sign * size)
                return sum(float(losses_of(model, learner, each, weighed)["loss"]) for each in some)

            rate.copy_(sign * lowest(loss, FIRST))
        work.checkpoint.save({"rate": rate.detach()}, {}, "rate")
    else:
        rate.copy_(found[0]["rate"])


def _kept(name: str, tensor: Tensor) -> Tensor:
    part = name.rpartition("/")[2].partition(".")[0]
    return tensor.half() if part in HALF else tensor


def _statistics(
    model: Model,
    editor: Callable[[Nets], MetaEditor],
    nets: Nets,
    settings: NetPreparation,
    lessons: list[Lesson],
    work: Work,
) -> dict[str, Statistics]:
    """Statistics of the factors of edits, each by itself or with as many others as it is made with."""
    kept = work.checkpoint.load("statistics")
    if kept is not None:
        return {shape: Statistics.of(kept[0], shape) for shape in nets.statistics}
    draw = Random(int(torch.randint(1 << 62, (1,), generator=work.draws(-2))))
    episodes = Episodes(model, lessons, others=1, drawn=settings.drawn)
    blind = editor(nets)
    for _ in track(range(0, settings.measured, EDITS), "measuring gradients"):
        size = draw.choice(settings.numbers)
        with torch.no_grad():
            changes = blind.changes(model, episodes.drawn_at(draw, max(1, EDITS // size), size).groups)
        for place in nets.places:
            told = changes.told[place.key]
            nets = nets.seeing(place, told["x"], told["delta"])
    tensors = {name: tensor for shape, own in nets.statistics.items() for name, tensor in own.tensors(shape).items()}
    work.checkpoint.save(tensors, {}, "statistics")
    return {shape: Statistics.of(tensors, shape) for shape in nets.statistics}


def whitening_of(
    model: Model,
    places: Sequence[Place],
    directions: int,
    kept_rows: int,
    lessons: Sequence[Lesson],
    work: Work,
    tokens: str = PREDICTING,
    texts: Sequence[Ids] = (),
) -> dict[str, Whitening]:
    """Second moments of the inputs where the answers of kept rows are read, by key of the place.

    Args:
        model: to be edited.
        places: the matrices.
        directions: of each; 0: there are none.
        kept_rows: questions, at most.
        lessons: to learn from.
        work: seed and checkpoint.
        tokens: where inputs are read, as of `inputs_at`.
        texts: running text, whose inputs at all tokens count too.
    """
    episodes = Episodes(model, lessons, others=1, drawn=0.0)
    questions = list(dict.fromkeys(question for lesson in lessons for question in lesson.apart))
    if not (directions and questions):
        return {}
    kept = work.checkpoint.load("whitening")
    if kept is None:
        draw = Random(int(torch.randint(1 << 62, (1,), generator=work.draws(-3))))
        some = draw.sample(questions, min(kept_rows, len(questions)))
        rows = [episodes.kept_row(question) for question in some]
        inputs = inputs_at(model, [*rows, *map(whole_row, texts)], places, tokens)
        found = {key: Whitening.of(own, directions) for key, own in inputs.items()}
        tensors = {name: tensor for key, own in found.items() for name, tensor in own.tensors(key).items()}
        work.checkpoint.save(tensors, {}, "whitening")
        kept = tensors, {}
    return {place.key: Whitening.kept(kept[0], place.key) for place in places}  # as they are kept


def mend_of(model: Model, prepared: Prepared, moving: bool = False) -> Mend:
    """The editor that was trained.

    Args:
        model: to be edited.
        prepared: of `make_mend`.
        moving: as of [`editing.methods.meta.mend.Mend`][].
    """
    return Mend(_nets(model, prepared), moving, prepared.settings["tokens"])


def malmen_of(model: Model, prepared: Prepared, moving: bool = False) -> Malmen:
    """The editor that was trained.

    Args:
        model: to be edited.
        prepared: of `make_malmen`.
        moving: as of [`editing.methods.meta.malmen.Malmen`][].
    """
    return Malmen(_nets(model, prepared), prepared.settings["block"], moving, prepared.settings["tokens"])


def kept_whitening(prepared: Prepared, places: Sequence[Place]) -> dict[str, Whitening]:
    """Back from an artefact, by key of the place.

    Args:
        prepared: the editor.
        places: the matrices.
    """
    white = [place.key for place in places if f"{place.key}/directions" in prepared.tensors]
    return {key: Whitening.kept(prepared.tensors, key) for key in white}


def _nets(model: Model, prepared: Prepared) -> Nets:
    places = places_of(model, prepared.header["places"])
    shapes = dict.fromkeys(place.shape for place in places)
    statistics = {shape: Statistics.of(prepared.tensors, shape) for shape in shapes}
    own: dict[str, Any] = {name: prepared.settings[name] for name in ("blocks", "floor")}
    own["whitening"] = kept_whitening(prepared, places)
    own |= {"rule": prepared.settings["nets"], "epsilon": prepared.header["epsilon"]}
    tensors = {name: tensor.float().to(model.device) for name, tensor in prepared.tensors.items()}
    return Nets(places, tensors, statistics, **own)
