"""Routers without training: where the model's own state tells questions about an edit from others, and from when on.

Nothing is learnt but numbers: a layer, the mean of states, thresholds. An edit is known by the state of its prompt's
last token. A layer is as good as the share of other wordings that come to their own edit above the threshold, less the
share of other questions that come to any; the threshold is a quantile of what unedited facts come to.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.routing.router import Router
from editing.methods.lessons import Lesson, lessons_of
from editing.methods.training import as_layers
from editing.prepared.work import Made, Work
from tracer.checks import finite, whole
from tracer.engine.batch import Row, states_at_lookups
from tracer.engine.layout import answering_layers, check_answering
from tracer.errors import HyperparameterError, NotPrepared
from tracer.facts.prompt import prompt_ids

from .routers import stored

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.model import Model

OTHERS = "other subjects"
TOP = 6  # of the margin rule, as published
GRID = 12


@dataclass(frozen=True)
class RouterPreparation:
    """How routers are measured on a model.

    Attributes:
        layers: that are tried; None: all, or those of the decoder.
        entries: edits that are in the memory meanwhile, at most half of the records. With more of them an unedited
            question comes nearer to one.
        false_alarms: share of questions about unedited facts that may come to an edit.
    """

    layers: Sequence[int] | None = None
    entries: int = 100
    false_alarms: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        whole("entries", self.entries, 1, kind=HyperparameterError)
        finite("false_alarms", self.false_alarms, 0, below=1, kind=HyperparameterError)


@dataclass(frozen=True, eq=False)
class Trial:
    """Edits that are in a memory, and questions whose right answer is known.

    Attributes:
        entries: prompts of the edits.
        about: other wordings, and the edit each belongs to.
        apart: by kind, questions that belong to none: of unedited facts ("other subjects"), neighbours, other facts of
            an edited subject.
    """

    entries: tuple[Ids, ...]
    about: tuple[tuple[Ids, int], ...]
    apart: Mapping[str, tuple[Ids, ...]]

    @classmethod
    def of(cls, model: Model, lessons: Sequence[Lesson], count: int, draw: torch.Generator) -> Trial:
        """A trial of so many edits, drawn from lessons; the rest are unedited facts.

        Args:
            model: whose tokens are meant.
            lessons: of records.
            count: of the edits.
            draw: generator.

        Raises:
            TracerError: all records are of the subjects that are edited.
        """
        order = [lessons[i] for i in torch.randperm(len(lessons), generator=draw).tolist()]
        edited = order[: max(1, min(count, len(order) // 2))]
        subjects = {lesson.request.subject for lesson in edited}
        rest = [lesson for lesson in order if lesson.request.subject not in subjects]
        if not rest:
            raise NotPrepared(
                f"a router is measured on facts about subjects that are not edited, and all {len(lessons)} records are "
                f"about {len(subjects)} that are; give records of more subjects"
            )

        def ids(text: str) -> Ids:
            return tuple(prompt_ids(model, text))

        about = [(ids(text), place) for place, lesson in enumerate(edited) for text in lesson.about]
        entries = tuple(ids(lesson.prompt) for lesson in edited)
        known = {*entries, *(prompt for prompt, _ in about)}
        apart: dict[str, dict[Ids, None]] = {OTHERS: {}}
        for lesson in rest:
            apart[OTHERS] |= dict.fromkeys(map(ids, (lesson.prompt, *lesson.about)))
        for lesson in edited:
            for question in lesson.apart:
                apart.setdefault(question.kind, {})[ids(question.prompt)] = None
        kinds = {kind: tuple(each for each in some if each not in known) for kind, some in apart.items()}
        return cls(entries, tuple(about), {kind: some for kind, some in kinds.items() if some})

    def prompts(self) -> list[Ids]:
        """All of them, each once."""
        asked = [prompt for prompt, _ in self.about]
        return list(dict.fromkeys([*self.entries, *asked, *(one for some in self.apart.values() for one in some)]))


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of a trial's questions against its edits.

    Attributes:
        about: of other wordings, [wordings, edits].
        owner: the edit each belongs to, [wordings].
        apart: by kind, [questions, edits].
    """

    about: Tensor
    owner: Tensor
    apart: Mapping[str, Tensor]

    @property
    def hits(self) -> Tensor:
        """Which wordings are nearest to their own edit, [wordings] bool."""
        return self.about.argmax(1) == self.owner

    def threshold(self, share: float) -> float:
        """The score that no more than a share of the questions about unedited facts exceeds."""
        return float(self.apart[OTHERS].amax(1).quantile(1 - share))

    def rates(self, acts: Any) -> dict[str, float]:
        """What a rule makes of them: "hit" without it, "passed" with it, and false alarms by kind.

        Args:
            acts: of scores [questions, edits], on which questions an edit acts.
        """
        alarms = {kind: float(acts(scores).float().mean()) for kind, scores in self.apart.items()}
        hits = self.hits
        passed = float((hits & acts(self.about)).float().mean())
        score = passed - sum(alarms.values()) / len(alarms)
        return {"hit": float(hits.float().mean()), "passed": passed, **alarms, "score": score}


def measured(model: Model, settings: RouterPreparation, work: Work) -> Made:
    """Routers of a model, and the table by layer in the history.

    Raises:
        TracerError: a layer that the model does not have; records without other wordings, or of one subject.
    """
    lessons = lessons_of(model, [*work.records, *work.held_out], "a router")
    trial = Trial.of(model, lessons, settings.entries, work.draws(0))
    layers = settings.layers or tuple(answering_layers(model))
    check_answering(model, layers)
    prompts = trial.prompts()
    rows = [Row(ids, len(ids) - 1, (len(ids) - 1,)) for ids in prompts]
    states = states_at_lookups(model, rows, [("hidden", layer) for layer in layers])
    history, scored, means = [], {}, {}
    for layer in layers:
        own = states["hidden", layer].float().cpu()
        first = [place for place, ids in enumerate(prompts) if ids in {*trial.entries, *trial.apart[OTHERS]}]
        means[layer] = own[first].mean(0)
        unit = torch.nn.functional.normalize(own - means[layer], dim=1)
        scored[layer] = _scored(trial, dict(zip(prompts, unit, strict=True)))
        history.append({"layer": layer, **_row(scored[layer], settings.false_alarms)})
    best = max(history, key=lambda row: (row["score"], row["layer"]))
    layer = int(best["layer"])
    given: dict[str, Any] = {"layer": layer}
    one, rule = scored[layer], margins(scored[layer], settings.false_alarms)
    overlap, weights = overlaps(trial)
    tensors = {"mean": means[layer]}
    routers = {
        "states": Router("threshold", "states", {**given, "threshold": best["threshold"]}, tensors),
        "margin": Router("margin", "states", {**given, **rule}, tensors),
        "nearest": Router("nearest", "states", given, tensors),
        "overlap": Router("threshold", "overlap", {"threshold": overlap.threshold(settings.false_alarms)}, weights),
    }
    kept, header = stored(routers)
    found = {
        "states": {name: value for name, value in best.items() if name != "layer"},
        "margin": one.rates(lambda scores: stands_out(scores, rule["threshold"], rule["margin"], rule["deviation"])),
        "nearest": one.rates(lambda scores: torch.ones(len(scores), dtype=torch.bool)),
        "overlap": _row(overlap, settings.false_alarms),
    }
    return Made(kept, {**header, "measured": found, "entries": len(trial.entries)}, history)


def _row(scored: Scored, share: float) -> dict[str, float]:
    threshold, highest = scored.threshold(share), float(scored.apart[OTHERS].max())
    strict = scored.hits & (scored.about.amax(1) > highest)
    told = {"threshold": threshold, "strict": float(strict.float().mean())}
    return {**told, **scored.rates(lambda scores: scores.amax(1) > threshold)}


def _scored(trial: Trial, vectors: Mapping[Ids, Tensor]) -> Scored:
    keys = torch.stack([vectors[ids] for ids in trial.entries])

    def of(prompts: Sequence[Ids]) -> Tensor:
        return torch.stack([vectors[ids] for ids in prompts]) @ keys.T

    owner = torch.tensor([place for _, place in trial.about])
    return Scored(of([ids for ids, _ in trial.about]), owner, {kind: of(some) for kind, some in trial.apart.items()})


def overlaps(trial: Trial) -> tuple[Scored, dict[str, Tensor]]:
    """Scores by shared tokens, and the tensors of the features: how rare tokens are among the trial's prompts."""
    every = trial.prompts()
    counts = Counter(token for ids in every for token in set(ids))
    tokens = sorted(counts)
    idf = torch.tensor([math.log((1 + len(every)) / (1 + counts[token])) + 1 for token in tokens])
    weights = {"tokens": torch.tensor(tokens), "idf": idf}
    place = {token: i for i, token in enumerate(tokens)}
    root = idf.sqrt()

    def vector(ids: Ids) -> Tensor:
        found = torch.zeros(len(tokens))
        some = [place[token] for token in set(ids)]
        found[some] = root[some]
        return found / found.norm()

    return _scored(trial, {ids: vector(ids) for ids in every}), weights


# --- the margin rule -------------------------------------------------------------------------------------------------
def stands_out(scores: Tensor, threshold: float, margin: float, deviation: float, top: int = TOP) -> Tensor:
    """On which questions RASE's rule lets an edit act, [questions] bool.

    Args:
        scores: [questions, edits].
        threshold: as of [`editing.memories.routing.rules.Margin`][].
        margin: likewise.
        deviation: likewise.
        top: likewise.
    """
    order = scores.sort(1, descending=True).values
    above = order[:, 0] > threshold
    if scores.shape[1] < 2:
        return above
    return above | ((order[:, 0] - order[:, 1] > margin) & (order[:, :top].std(1, correction=0) > deviation))


def margins(scored: Scored, share: float) -> dict[str, float]:
    """Numbers of the margin rule: those that find most, of a grid, with no more false alarms than a share.

    Args:
        scored: of a trial.
        share: of the questions about unedited facts.
    """
    others = scored.apart[OTHERS]
    order = others.sort(1, descending=True).values
    width = others.shape[1]
    gaps = order[:, 0] - order[:, 1] if width > 1 else torch.zeros(len(others))
    spread = order[:, :TOP].std(1, correction=0)
    steps = torch.linspace(0.5, 1, GRID)
    tops = order[:, 0].quantile(torch.tensor([1 - share, 1 - share / 2, 1 - share / 4, 1.0])).tolist()
    best = {"threshold": tops[0], "margin": float(gaps.max()), "deviation": float(spread.max())}
    most, allowed = -1.0, float((order[:, 0] > tops[0]).float().mean())  # as many as the plain threshold lets pass
    for threshold in tops:
        for margin in gaps.quantile(steps).tolist():
            for deviation in spread.quantile(steps).tolist():
                one = {"threshold": threshold, "margin": margin, "deviation": deviation}
                if float(stands_out(others, threshold, margin, deviation).float().mean()) > allowed:
                    continue
                found = float((scored.hits & stands_out(scored.about, threshold, margin, deviation)).float().mean())
                if found > most:
                    best, most = one, found
    return best
