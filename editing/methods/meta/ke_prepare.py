"""Training of KE, and the editor that comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from editing.edits.weights import check_editable
from editing.methods.lessons import lessons_of
from editing.prepared.prepared import Prepared
from editing.prepared.work import Made, Work
from tracer.checks import finite, one_of, share, whole
from tracer.errors import HyperparameterError

from .condition import CONDITIONS, PLAIN, Conditions, Reader
from .constrained import Constrained
from .ke import Hyper, Ke
from .losses import smoothed
from .passages import passages_of
from .places import Place, keys_of, places_of
from .prepare import kept_whitening, whitening_of
from .settings import MENDSettings
from .teaching import Alone, Teaching, teach

if TYPE_CHECKING:
    from tracer.model import Model

OPTIMIZERS = {"adam": torch.optim.Adam, "rmsprop": partial(torch.optim.RMSprop, centered=True)}
SCALES = ("original0", "bias")  # parameters that are kept in single precision: few numbers


@dataclass(frozen=True)
class KESettings(MENDSettings):
    """Hyper-parameters of an edit by KE; several requests are edited one after another.

    Attributes:
        layers: as of `MENDSettings`.
        published: several requests at once are refused, as by the code that was published.
        rounds: times that a request is edited at most, again until its target is said. (The published loop: 5.)
    """

    rounds: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("rounds", self.rounds, 1, kind=HyperparameterError)


@dataclass(frozen=True)
class KEPreparation(Teaching):
    """How KE is trained; see [`editing.methods.meta.teaching.Teaching`][] for the rest.

    Attributes:
        condition: what the editor is told of a request: prompt and target ("plain"), or also the old answer ("change",
            as published).
        longest: tokens of it, at most; 0: any number. (Published: 32.)
        train_embedding: whether the reader's embedding, the model's at the start, is trained too; it is kept with the
            editor then. (Published: yes.)
        reader: width of the LSTM that reads the condition. (Published: 128.)
        width: of the condition's vector. (Published: 1024.)
        hidden: width of the conditioners. (Published: 128.)
        max_scale: largest factor of a change.
        rate: see [`editing.methods.meta.ke.Conditioner`][]. (Published: None.)
        directions: as of [`editing.methods.meta.settings.NetPreparation`][]. (Published: 0.)
        kept_rows: likewise.
        margin: largest divergence of kept rows, kept by a multiplier that is trained with `rate_lr`; None: a weighted
            sum, by `edit_weight`. (Published: 1e-3.)
        least_margin: to which the margin shrinks while more than 90 % of the edits succeed. (Published: 1e-5.)
        smoothing: of the targets' labels. (Published: 0.1.)
        optimizer: "adam" or "rmsprop", centred. (Published: the latter.)
    """

    condition: str = PLAIN
    longest: int = 0
    train_embedding: bool = False
    reader: int = 64
    width: int = 256
    hidden: int = 64
    max_scale: float = 1.0
    rate: float | None = 1.2
    directions: int = 192
    kept_rows: int = 2000
    margin: float | None = None
    least_margin: float = 1e-5
    smoothing: float = 0.0
    optimizer: str = "adam"
    lr: float = 6e-3
    projections: Sequence[str] | None = ("down",)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("condition", self.condition, CONDITIONS, kind=HyperparameterError)
        one_of("optimizer", self.optimizer, tuple(OPTIMIZERS), kind=HyperparameterError)
        for name in ("reader", "width", "hidden"):
            whole(name, getattr(self, name), 1, kind=HyperparameterError)
        whole("longest", self.longest, kind=HyperparameterError)
        finite("max_scale", self.max_scale, above=0, kind=HyperparameterError)
        for name in ("rate", "margin"):
            if getattr(self, name) is not None:
                finite(name, getattr(self, name), 0, kind=HyperparameterError)
        finite("least_margin", self.least_margin, 0, kind=HyperparameterError)
        share("smoothing", self.smoothing, kind=HyperparameterError)
        whole("directions", self.directions, kind=HyperparameterError)
        whole("kept_rows", self.kept_rows, 1, kind=HyperparameterError)
        if self.numbers != (1,):
            raise HyperparameterError(
                f"edits is {list(self.numbers)}; expected 1: ke reads one request at a time, and edits several one "
                "after another"
            )


def make_ke(model: Model, settings: KEPreparation, work: Work) -> Made:
    """Train a KE editor."""
    places = places_of(model, keys_of(model, settings.layers, settings.projections))
    check_editable(model, [place.weight for place in places])
    learnt, held_out = (lessons_of(model, each, "ke") for each in (work.records, work.held_out))
    seed = int(torch.randint(1 << 62, (1,), generator=work.draws(-1)))
    net = _net(model, places, vars(settings), seed)
    conditions = Conditions(settings.condition, settings.longest)
    texts = passages_of(model, settings.texts > 0, work)
    kept = (settings.directions, settings.kept_rows, learnt, work)
    whitening = whitening_of(model, places, *kept, texts=texts)
    editor = Ke(places, net, conditions, settings.max_scale, whitening)
    parameters, loss = dict(net.named_parameters()), smoothed(settings.smoothing)
    how: dict[str, Any] = {"objective": Alone(model, editor, settings, loss), "passages": texts}
    if settings.margin is not None:
        multiplier = torch.ones((), device=model.device).requires_grad_()
        margin = torch.full((), settings.margin, device=model.device)
        more = {"multiplier": multiplier, "margin": margin}
        how["objective"] = Constrained(model, editor, settings, loss, settings.least_margin, **more)
        how["rates"] = {"multiplier": 1.0}
        parameters |= more
    how["optimizer"] = OPTIMIZERS[settings.optimizer]
    trained = teach(model, editor, parameters, settings, learnt, held_out, work, **how)
    tensors = {
        name: tensor.detach() if name.endswith(SCALES) else tensor.detach().half()
        for name, tensor in net.named_parameters()
    }
    for key, white in whitening.items():
        tensors |= white.tensors(key)
    header = {"places": [place.key for place in places]}
    return Made(tensors, header, trained.history, trained.ended)


def ke_of(model: Model, prepared: Prepared) -> Ke:
    """The editor that was trained.

    Args:
        model: to be edited.
        prepared: of `make_ke`.
    """
    own = prepared.settings
    places = places_of(model, prepared.header["places"])
    net = _net(model, places, own)
    net.load_state_dict({name: prepared.tensors[name].float() for name, _ in net.named_parameters()})
    net.requires_grad_(False)
    conditions = Conditions(own["condition"], own["longest"])
    return Ke(places, net, conditions, own["max_scale"], kept_whitening(prepared, places))


def _net(model: Model, places: Sequence[Place], settings: Mapping[str, Any], seed: int = 0) -> Hyper:
    """A net at the start of its training; the global random state stays as it is."""
    reader, width, hidden, rate = (settings[name] for name in ("reader", "width", "hidden", "rate"))
    embedding: Any = model.module("embed").weight if settings["train_embedding"] else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Hyper(places, Reader(model.d_model, reader, width, embedding), width, hidden, rate)
    return net.to(model.device)
