"""A small transformer that learns to answer questions with an edit in front: to find the target there and say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from editing.memories.small import embedding
from editing.methods.lessons import Lesson
from editing.methods.training import losses
from editing.prepared.course import Course, train
from editing.prepared.work import Work
from tracer.engine.batch import Row
from tracer.engine.follow import follow
from tracer.engine.line import Line
from tracer.facts.fact import SLOT, Fact, token_text
from tracer.facts.prompt import stated
from tracer.facts.readout import Readout
from tracer.model import Model

from .settings import SERACPreparation

HEADS = 32  # width of a head
ROOM = 256  # tokens that it reads
LONGEST = 3  # tokens of a target that is made up
SPREAD = 0.06  # of the word embedding


def said_with_edit(model: Model, answering: Model, lessons: Sequence[Lesson], join: str, mark: str = "") -> float:
    """Share of questions about edits whose whole target is said with the edit in front.

    Args:
        model: whose tokens are meant.
        answering: that is asked.
        lessons: of held-out records.
        join: text between an edit and a question.
        mark: what has to be said behind the target.
    """
    lines, targets = [], []
    for lesson in lessons:
        for question in (lesson.prompt, *lesson.about):
            text = stated(model, lesson.prompt, lesson.target) + join + question
            found = Fact(SLOT, text, lesson.target.strip() + mark).align(model)
            if len(found.input_ids) + len(found.target_ids) <= answering.n_ctx:
                lines.append(Line(tuple(found.input_ids), (tuple(found.target_ids),)))
                targets.append(list(found.target_ids))
    followed = follow(answering, lines)
    right = [each.best[0].tolist() == target for each, target in zip(followed, targets, strict=True)]
    return sum(right) / len(right) if right else 0.0


def trained_student(
    model: Model,
    settings: SERACPreparation,
    learnt: Sequence[Lesson],
    held_out: Sequence[Lesson],
    work: Work,
    join: str,
) -> tuple[dict[str, Tensor], dict[str, Any], tuple[dict[str, float], ...]]:
    """Tensors of a student, its configuration, and the history of its training.

    Its word embedding is the model's own unembedding in fewer dimensions and is not trained: what it learns is to
    point at a place, whatever stands there. The numbers are rounded to float16 at the end, and kept so.
    """
    student, projection, config = _new(model, settings, work)
    trained = {name: parameter for name, parameter in student.hf.named_parameters() if "wte" not in name}
    for name, parameter in student.hf.named_parameters():
        parameter.requires_grad_(name in trained)
    words = [token for token in range(min(model.n_tokens, len(model.tokenizer))) if _is_word(model, token)]
    known = [lesson.target.strip() for lesson in learnt]

    def step(number: int) -> Mapping[str, Tensor]:
        draw = work.draws(1_000_000 + number)
        rows = [_row(model, settings, learnt, known, words, draw, join) for _ in range(settings.student_batch)]
        fit = [row for row in rows if len(row.ids) <= student.n_ctx]
        return {"student loss": (loss := losses(student, fit).mean()), "loss": loss}

    def validate() -> Mapping[str, float]:
        share = said_with_edit(model, student, held_out, join, join.rstrip())
        return {"said": share, "score": share}

    every = max(1, settings.student_steps // 4)
    course = Course(settings.student_steps, validate_every=every, warm_up=50, decay=True, clip=1.0)
    optimizer = torch.optim.Adam(list(trained.values()), lr=settings.student_lr)
    more: dict[str, Any] = {"validate": validate, "part": "student", "description": "training the student"}
    history = train(trained, optimizer, step, course, work.checkpoint, **more).history
    tensors = {f"answering/{name}": parameter.detach().half() for name, parameter in trained.items()}
    return {**tensors, "answering.projection": projection.half()}, config, history


def _new(model: Model, settings: SERACPreparation, work: Work) -> tuple[Model, Tensor, dict[str, Any]]:
    """A student that has learnt nothing, the projection that gives its word embedding, and its configuration."""
    from transformers import GPT2Config, GPT2LMHeadModel

    width = min(settings.student_width, model.d_model)
    heads = max(1, width // HEADS)
    config: dict[str, Any] = {
        "model_type": "gpt2",
        "vocab_size": model.n_tokens,
        "n_positions": min(ROOM, model.n_ctx),
        "n_embd": width - width % heads,
        "n_layer": settings.student_layers,
        "n_head": heads,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), model.tokenizer.eos_token_id),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(1 << 62, (1,), generator=work.draws(-2))))
        own = {name: value for name, value in config.items() if name != "model_type"}
        hf: Any = GPT2LMHeadModel(GPT2Config(**own)).eval()
    weight: Any = model.module("unembed").weight
    weight = weight.detach().float().cpu()
    moment = (weight - weight.mean(0)).double()
    _, vectors = torch.linalg.eigh(moment.T @ moment)
    projection = vectors.flip(1)[:, : config["n_embd"]].float()
    projection = (projection * (SPREAD / (moment.float() @ projection).std())).half().float()
    with torch.no_grad():
        hf.transformer.wte.weight.copy_(embedding(model, projection))
    hf.to(str(model.device))
    return Model.of(hf, model.tokenizer, f"a student of {model.name}"), projection, config


def _row(
    model: Model,
    settings: SERACPreparation,
    lessons: Sequence[Lesson],
    known: Sequence[str],
    words: Sequence[int],
    draw: torch.Generator,
    join: str,
) -> Row:
    """A question about an edit of a random target, with the edit in front; the mark behind the target is learnt too."""

    def pick(count: int) -> int:
        return int(torch.randint(count, (1,), generator=draw))

    lesson = lessons[pick(len(lessons))]
    question = (lesson.prompt, *lesson.about)[pick(1 + len(lesson.about))]
    target = known[pick(len(known))]
    if words and float(torch.rand(1, generator=draw)) < settings.made_up:
        ids = [words[pick(len(words))] for _ in range(1 + pick(LONGEST))]
        target = str(model.tokenizer.decode(ids)).strip() or target
    # without the mark a student never learns to stop, and says the target again and again
    text = stated(model, lesson.prompt, f" {target}") + join + question
    found = Fact(SLOT, text, target + join.rstrip()).align(model)
    readout = Readout.of(model, found)
    return Row(readout.ids, found.answer_position, readout.read, readout.target)


def _is_word(model: Model, token: int) -> bool:
    text = token_text(model.tokenizer, token)
    return text.startswith(" ") and text.strip().isalpha()
