"""DINM: fine-tuning of one layer's down-projection from an unsafe answer to a safe one (Wang et al. 2024).

"Detoxifying Large Language Models via Knowledge Editing" takes the layer whose hidden states differ most between a
request with a safe answer and the same request with an unsafe one, and trains its down-projection on the safe answer
while the answers to other questions stay:

    L = c * NLL(safe | request) + mean KL(before || after) at the answers of the constraints

A request is an [`editing.EditRequest`][]: `target_new` is the safe answer, `target_true` the unsafe one, and where none
is given that is what the model itself says. DINM needs no subject; the whole request may stand for it.

Four things differ from the published code (zjunlp/EasyEdit) on purpose. The constraint has a gradient: there it is
computed without one, so that its value is reported and nothing is held. It is read where the answer's tokens are
predicted, there one place later. Each request of several is trained on its own answer, there on the last one's. And
the bias beside the weight is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tracer.checks import finite, whole
from tracer.engine.answer import own_answers
from tracer.engine.batch import Row, pad
from tracer.engine.hooks import capture, evaluating, frozen
from tracer.engine.sites import Site
from tracer.engine.sweep import check_numbers
from tracer.errors import HyperparameterError, InvalidEditRequest
from tracer.facts.fact import SLOT, Fact
from tracer.facts.readout import Readout
from tracer.progress import track

from .beside import Beside, row_of
from .context import EditContext
from .ft import added, whole_factors, zeros_for
from .meta.losses import kl
from .method import Change, Group, Method
from .training import as_layers, text_rows, token_losses

if TYPE_CHECKING:
    from tracer.model import Model

SHARE = 40  # default rate: the weights' size over this
WIDTH, TOKENS = 64, 256  # of the text that stays where no constraint is given


@dataclass(frozen=True)
class DINMSettings:
    """Hyper-parameters of DINM.

    Attributes:
        layers: whose down-projections are trained; None: of each request the one at which safe and unsafe differ most.
        normed: take the last block's state behind the final norm, as published. It is of another size there than the
            others', so that the last block is chosen always or never in many models; False: as it leaves the block.
        steps: of Adam, at most. (Published: 10.)
        lr: its rate; None: a fortieth of the root mean square of the weights. (Published: 5e-4.)
        nll_factor: c, the weight of the safe answer beside the constraint. (Published under the name kl_factor: 0.1.)
        constraints: (prompt, answer) pairs at whose answers the distributions are to stay; None: every token of 256 of
            plain text, those that covariances begin with.
        stop_loss: training ends when every safe answer has a lower NLL per token. (Published: at an L of 1e-4, which
            ten steps do not reach.)
    """

    layers: Sequence[int] | None = None
    normed: bool = True
    steps: int = 60
    lr: float | None = None
    nll_factor: float = 0.1
    constraints: Sequence[tuple[str, str]] | None = None
    stop_loss: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        whole("steps", self.steps, 1, kind=HyperparameterError)
        finite("nll_factor", self.nll_factor, above=0, kind=HyperparameterError)
        if self.constraints is not None:
            pairs = tuple(tuple(pair) for pair in self.constraints)
            if not pairs or any(len(pair) != 2 or not all(isinstance(one, str) for one in pair) for pair in pairs):
                raise HyperparameterError(
                    f"constraints is {self.constraints!r}; expected pairs of a prompt and its answer, or None"
                )
            object.__setattr__(self, "constraints", pairs)
        if self.lr is not None:
            finite("lr", self.lr, above=0, kind=HyperparameterError, expected="a number above zero, or None")
        finite("stop_loss", self.stop_loss, 0, kind=HyperparameterError, expected="zero (never stop) or more")


def plan(model: Model, groups: Sequence[Group], settings: DINMSettings, context: EditContext) -> list[Change]:
    """One change per group, each trained by itself on the model as it is."""
    held = held_rows(model, settings.constraints)
    with evaluating(model), frozen(model):
        return [_change(model, group, settings, held, context) for group in track(groups, "detoxifying")]


def held_rows(model: Model, constraints: Sequence[tuple[str, str]] | None) -> list[Row]:
    """Rows at whose places the distributions are to stay.

    Args:
        model: whose tokenizer is used.
        constraints: as of `DINMSettings`.

    Raises:
        TracerError: a constraint that cannot be aligned.
    """
    if constraints is None:
        return text_rows(model, WIDTH, TOKENS)
    read = [Readout.of(model, Fact(SLOT, prompt, answer).align(model)) for prompt, answer in constraints]
    return [Row(each.ids, each.read[0], each.read, each.target) for each in read]


def distances(model: Model, safe: Sequence[int], unsafe: Sequence[int], normed: bool = True) -> Tensor:
    """Frobenius norm of the difference of two texts' hidden states behind every block, [layers].

    Both are read as far as the shorter one goes. (The published code goes on, and compares states of padding.)

    Args:
        model: the model.
        safe: ids of a request with a safe answer.
        unsafe: of the same request with an unsafe one.
        normed: take the last block's state behind the final norm, as published.
    """
    common = min(len(safe), len(unsafe))
    sites = [Site("hidden", layer) for layer in range(model.n_layers)]
    with torch.no_grad():
        states = capture(model, pad([safe[:common], unsafe[:common]]), sites)
        if normed:
            states[sites[-1]] = model.module("final_norm")(states[sites[-1]])
    return torch.stack([(states[site][0] - states[site][1]).double().norm() for site in sites]).cpu()


def located(model: Model, group: Group, normed: bool) -> Tensor:
    """`distances` of each request, [requests, layers].

    Args:
        model: the model.
        group: requests.
        normed: as of `distances`.

    Raises:
        TracerError: a safe answer that begins with the unsafe one, or the other way round.
    """
    own = own_answers(model, [request.fact for request in group])
    found = []
    for request, said in zip(group, own, strict=True):
        safe = request.fact.align(model)
        wrong = said if request.target_true is None else request.about(request.target_true).align(model).target_ids
        both = ((*safe.input_ids, *safe.target_ids), (*safe.input_ids, *wrong))
        found.append(distances(model, *both, normed))
        if not bool(found[-1].any()):
            raise InvalidEditRequest(
                f"the safe and the unsafe answer to {request.text!r} begin alike, so that no layer tells them apart; "
                "give target_true, an answer that is not to be given, or layers"
            )
    return torch.stack(found)


def _change(model: Model, group: Group, settings: DINMSettings, held: Sequence[Row], context: EditContext) -> Change:
    evidence: dict[str, Tensor] = {}
    layers = settings.layers
    if layers is None:
        evidence["distances"] = located(model, group, settings.normed)
        layers = tuple(sorted(set(evidence["distances"].argmax(1).tolist())))
    lr = context.size(layers) / SHARE if settings.lr is None else settings.lr
    answers = [row_of(model, request) for request in group]
    trials, most = context.measured.trials, context.max_rows
    own, kept = (Beside(model, rows, layers, trials, most) for rows in (answers, held))
    rows = Rows(answers, own, kept, layers)
    deltas = zeros_for(model, layers)
    with added(model, deltas):
        evidence |= train(model, rows, list(deltas.values()), replace(settings, layers=layers, lr=lr))
    factors = {model.down_projection(layer).name: whole_factors(delta.detach()) for layer, delta in deltas.items()}
    last = evidence["loss"][-1]
    told = f"the loss of the safe answers goes from {float(evidence['loss'][0].mean()):.3g} to {float(last.mean()):.3g}"
    return Change(factors, {**asdict(settings), "layers": list(layers), "lr": lr}, evidence, f"{told} nats a token")


@dataclass(frozen=True, eq=False)
class Rows:
    """What is trained on.

    Attributes:
        answers: requests with their safe answers.
        own: the same, to be run.
        held: what is to stay, to be run.
        layers: that are trained.
    """

    answers: Sequence[Row]
    own: Beside
    held: Beside
    layers: Sequence[int]

    def log_probs(self, beside: Beside) -> Iterator[dict[int, Tensor]]:
        """Log-probabilities where rows are read, [places, V] by row; one batch at a time.

        Args:
            beside: one of the two.
        """
        return beside.run({layer: lambda x, _: torch.zeros_like(x) for layer in self.layers})

    def losses(self) -> Iterator[dict[int, Tensor]]:
        """Mean of -log p over the tokens of safe answers, by row; one batch at a time."""
        for some in self.log_probs(self.own):
            yield {place: token_losses(found, [self.answers[place]]).mean() for place, found in some.items()}


def train(model: Model, rows: Rows, deltas: Sequence[Tensor], settings: DINMSettings) -> dict[str, Tensor]:
    """Adam on changes of weights that act already, and the curves: before every step and at the end.

    Args:
        model: is not changed itself.
        rows: what is trained on.
        deltas: leaves that ask for gradients.
        settings: with a rate.

    Returns:
        "loss" [steps + 1, requests], nats a token; "constraint" [steps + 1], mean KL in nats.

    Raises:
        TracerError: losses that are not finite.
    """
    assert settings.lr is not None
    optimizer = torch.optim.Adam(deltas, lr=settings.lr)
    with torch.no_grad():
        before = {place: found for some in rows.log_probs(rows.held) for place, found in some.items()}
    places = sum(map(len, before.values()))
    curves: tuple[list[Tensor], list[float]] = ([], [])
    for step in track(range(settings.steps + 1), "training"):
        nll, moved = torch.zeros(len(rows.answers)), 0.0
        with torch.set_grad_enabled(step < settings.steps):
            for some in rows.losses():
                total = torch.stack(list(some.values())).sum()
                _backward(model, settings.nll_factor * total / len(rows.answers))
                for place, loss in some.items():
                    nll[place] = float(loss.detach())
            for some in rows.log_probs(rows.held):
                total = torch.stack([kl(before[place], found).sum() for place, found in some.items()]).sum() / places
                _backward(model, total)
                moved += float(total.detach())
        curves[0].append(nll)
        curves[1].append(moved)
        if step == settings.steps or bool((nll < settings.stop_loss).all()):
            break
        optimizer.step()
        optimizer.zero_grad()
    return {"loss": torch.stack(curves[0]), "constraint": torch.tensor(curves[1])}


def _backward(model: Model, loss: Tensor) -> None:
    """Gradients of a part of the loss, checked, where there are to be any."""
    check_numbers(model, loss.detach())
    if loss.requires_grad:
        loss.backward()


METHOD = Method(
    "dinm",
    DINMSettings,
    plan,
    layers="range",
    needs=frozenset({"max_rows"}),
    located=False,
    summary="one layer trained from an unsafe answer to a safe one (Wang et al. 2024)",
)
