"""Training of the classifier: a projection of states in which questions about an edit lie near it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.scope import OWN, projected, states_of
from editing.memories.similarity import balanced_bce, log_similarities
from editing.methods.lessons import Lesson
from editing.prepared.course import Course, train
from editing.prepared.work import Work
from tracer.engine.layout import answering_layers, check_answering
from tracer.facts.prompt import prompt_ids
from tracer.progress import track

from .settings import SERACPreparation

if TYPE_CHECKING:
    from tracer.model import Model

DEPTHS = (0.75, 0.875, 1.0)
CHUNK = 512  # prompts between two looks at the clock
HIT = 0.5


def trained_projection(
    model: Model,
    settings: SERACPreparation,
    similarity: Mapping[str, Any],
    learnt: Sequence[Lesson],
    held_out: Sequence[Lesson],
    work: Work,
) -> tuple[dict[str, Tensor], dict[str, Any], tuple[dict[str, float], ...]]:
    """Tensors of the projection, what the header says of it, and the history of its training.

    Raises:
        TracerError: a layer that the model does not have.
    """
    first = answering_layers(model)[0]
    layers = settings.layers or sorted({max(first, round(depth * model.n_layers) - 1) for depth in DEPTHS})
    check_answering(model, layers)
    states = _states(model, [*learnt, *held_out], layers, work)
    known = torch.stack(list(states.values()))
    tensors = {"centre": known.mean(0), "factor": 1 / known.std(0).mean().clamp_min(1e-6)}
    draw = torch.randn(settings.width, known.shape[1], generator=work.draws(-1))
    projection = (0.3 / known.shape[1] ** 0.5 * draw).requires_grad_()
    scaled = {prompt: (state - tensors["centre"]) * tensors["factor"] for prompt, state in states.items()}

    def step(number: int) -> Mapping[str, Tensor]:
        return {"loss": _loss(settings, similarity, learnt, scaled, projection, work.draws(number))}

    def validate() -> Mapping[str, float]:
        return rates({**tensors, "projection": projection.detach()}, similarity, held_out, states)

    course = Course(settings.steps, validate_every=max(1, settings.steps // 8), decay=True)
    optimizer = torch.optim.Adam([projection], lr=settings.lr)
    more: dict[str, Any] = {"validate": validate, "part": "scope", "description": "training the classifier"}
    trained = train({"projection": projection}, optimizer, step, course, work.checkpoint, **more)
    return {**tensors, "projection": projection.detach()}, {"by": OWN, "layers": list(layers)}, trained.history


def _states(model: Model, lessons: Sequence[Lesson], layers: Sequence[int], work: Work) -> dict[str, Tensor]:
    """States of every prompt, run once; what was run is kept with the checkpoint."""
    prompts = sorted({prompt for lesson in lessons for prompt in lesson.questions})
    kept = work.checkpoint.load("states")
    done = list(kept[0]["states"]) if kept is not None else []
    for start in track(range(len(done), len(prompts), CHUNK), "reading questions"):
        ids = [tuple(prompt_ids(model, prompt)) for prompt in prompts[start : start + CHUNK]]
        done += list(states_of(model, ids, layers))
        if work.checkpoint.due:
            work.checkpoint.save({"states": torch.stack(done)}, {}, "states")
    return dict(zip(prompts, done, strict=True))


def _loss(
    settings: SERACPreparation,
    similarity: Mapping[str, Any],
    lessons: Sequence[Lesson],
    scaled: Mapping[str, Tensor],
    projection: Tensor,
    draw: torch.Generator,
) -> Tensor:
    """Balanced cross-entropy of own questions against negatives, and of all others' questions besides."""

    def pick(count: int) -> int:
        return int(torch.randint(count, (1,), generator=draw))

    chosen = [lessons[i] for i in torch.randperm(len(lessons), generator=draw)[: settings.batch].tolist()]
    questions = [lesson.about[pick(len(lesson.about))] for lesson in chosen]
    negatives: list[str] = []
    owners: list[int] = []
    for place, lesson in enumerate(chosen):
        some = torch.randperm(len(lesson.apart), generator=draw)[: settings.negatives].tolist()
        negatives += [lesson.apart[i].prompt for i in some]
        owners += [place] * len(some)

    def vectors(prompts: Sequence[str]) -> Tensor:
        return torch.stack([scaled[prompt] for prompt in prompts]) @ projection.T

    edits = vectors([lesson.prompt for lesson in chosen])
    every = log_similarities(vectors(questions), edits, **similarity)  # [questions, edits]
    own = torch.eye(len(chosen), dtype=torch.bool)
    same = torch.tensor([[one in (two.prompt, *two.about) for two in chosen] for one in questions])
    parts = [every[own]]
    if negatives:
        apart = vectors(negatives)
        parts.append(
            torch.cat(
                [
                    log_similarities(apart[i : i + 1], edits[owner : owner + 1], **similarity)[0]
                    for i, owner in enumerate(owners)
                ]
            )
        )
    near = torch.cat(parts)
    loss = balanced_bce(near, torch.arange(len(near)) < len(chosen))
    rest = every[~(own | same)]
    return loss + settings.others * balanced_bce(rest, torch.zeros_like(rest, dtype=torch.bool))


def rates(
    tensors: Mapping[str, Tensor],
    similarity: Mapping[str, Any],
    lessons: Sequence[Lesson],
    states: Mapping[str, Tensor],
) -> dict[str, float]:
    """Shares of questions that an edit alone acts on, by kind: "paraphrase" and the like, and a score of all.

    Args:
        tensors: of the projection.
        similarity: arguments of `log_similarities`.
        lessons: to be asked.
        states: of their prompts.
    """
    hits: dict[str, list[bool]] = {}
    for lesson in lessons:
        kinds = [*("about" for _ in lesson.about), *(question.kind for question in lesson.apart)]
        vectors = projected(tensors, torch.stack([states[prompt] for prompt in lesson.questions]))
        similar = log_similarities(vectors[1:], vectors[:1], **similarity)[:, 0].exp() > HIT
        for kind, hit in zip(kinds, similar.tolist(), strict=True):
            hits.setdefault(kind, []).append(hit)
    found = {kind: sum(each) / len(each) for kind, each in sorted(hits.items())}
    wrong = [share for kind, share in found.items() if kind != "about"]
    return {**found, "score": found.get("about", 0.0) - (sum(wrong) / len(wrong) if wrong else 0.0)}
