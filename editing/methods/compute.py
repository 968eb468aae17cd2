"""From requests to edits: checks, hyper-parameters, the method itself, and its cost."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import torch

from editing.edits.edit import TIMED, Edit
from editing.edits.weights import check_editable, names_of, orientation_of
from editing.health.harm import Check, check_harm
from editing.layers.from_result import layers_from
from editing.request import EditRequest, EditWarning, as_requests
from tracer.engine.answer import own_answers
from tracer.engine.hooks import evaluating, frozen
from tracer.errors import (
    EncoderDecoderError,
    InvalidEditRequest,
    KnownAlready,
    MaskedModelError,
    NoEffect,
    NotFinite,
    OneOfSeveral,
    UnknownMethod,
    UnsuitableResult,
)
from tracer.facts.fact import bare_note
from tracer.facts.readout import answer_text
from tracer.inference import ordinary
from tracer.neurons.attribution import NeuronAttribution

from .context import EditContext
from .method import Change, Method
from .peak_memory import peak_memory
from .timing import part, timed

if TYPE_CHECKING:
    from tracer.model import Model

Known = Literal["refuse", "edit"]


_FIELDS = {"covariance": "given"} | {name: name for name in ("origin", "earlier", "max_rows", "prepared")}
NEURONS = 0.1  # of the highest score: which neurons of an attribution are edited
METHODS = {
    "rome": "rome.ROME",
    "r_rome": "rome.R_ROME",
    "wilke": "wilke.WILKE",
    "memit": "memit.MEMIT",
    "emmet": "emmet.EMMET",
    "alphaedit": "alphaedit.ALPHAEDIT",
    "pmet": "pmet.PMET",
    "ft_l": "ft.FT_L",
    "ft_m": "ft.FT_M",
    "lora": "lora.METHOD",
    "kn": "kn.METHOD",
    "t_patcher": "t_patcher.METHOD",
    "calinet": "calinet.METHOD",
    "grace": "grace.METHOD",
    "melo": "melo.METHOD",
    "serac": "serac.method.METHOD",
    "wise": "wise.method.METHOD",
    "mend": "meta.method.MEND",
    "malmen": "meta.method.MALMEN",
    "rledit": "meta.method.RLEDIT",
    "ke": "meta.method.KE",
    "rase": "routed.rase.METHOD",
    "ike": "routed.ike.METHOD",
    "recipe": "recipe.method.METHOD",
    "lte": "lte.method.METHOD",
    "dinm": "dinm.METHOD",
}
"""Place of each method in `editing.methods`."""


def method_named(name: str) -> Method:
    """The method with this name, dashes and capitals as they come.

    Args:
        name: of the method.

    Raises:
        TracerError: an unknown name.
    """
    key = str(name).lower().replace("-", "_")
    if key not in METHODS:
        raise UnknownMethod(f"there is no method {name!r}; expected one of {', '.join(METHODS)}")
    module, _, attribute = METHODS[key].rpartition(".")
    return getattr(import_module(f"editing.methods.{module}"), attribute)


def settings_of(method: Method, hparams: dict[str, Any]) -> Any:
    """The method's settings with some hyper-parameters.

    Args:
        method: the method.
        hparams: by name; its needs may be among them, and are left out.

    Raises:
        TracerError: a name or a value they do not have.
    """
    wrong = [name for name in hparams if name not in method.parameters]
    if wrong:
        raise UnknownMethod(f"{method.name} has no hyper-parameter {wrong[0]!r}; it has {', '.join(method.parameters)}")
    try:
        return method.settings(**{name: value for name, value in hparams.items() if name not in method.needs})
    except TypeError as error:
        raise OneOfSeveral(f"{method.name}: {error}") from error


def compute_edit(
    model: Model,
    requests: Any,
    method: str = "rome",
    *,
    locate: Any = None,
    known: Known = "refuse",
    check: Check = "warn",
    context: EditContext | None = None,
    **hparams: Any,
) -> Edit:
    """The edit that makes requests true, computed on the model as it is; the model is left as it was.

    Args:
        model: to be edited.
        requests: an [`editing.EditRequest`][], a record in a layout it knows, or a list of them.
        method: rome, r_rome, memit, emmet, alphaedit, pmet, ft_l, ft_m, lora, kn, t_patcher, calinet, grace, melo,
            serac, wise, mend, malmen, rledit, ke, rase, ike, recipe, lte or dinm.
        locate: a [`tracer.tracing.trace.CausalTrace`][], [`tracer.NeuronAttribution`][] or [`editing.Located`][] that
            says which layers are written.
        known: handling of a request whose target the model says already: "refuse" raises, "edit" writes it too.
        check: handling of an edit that ruins the model, seen by the perplexity of unrelated text (kept in the edit's
            `evidence`), or moves nothing: "warn" warns, "refuse" raises, None does not look.
        context: serves the method, and remembers what it measured; None: a new one. An editor gives its own.
        hparams: of the method; see its settings, such as [`editing.methods.rome.ROMESettings`][]. Methods that use a
            covariance take `covariance`, second moments of keys (None: see [`editing.covariance_for`][]), `origin`, the
            hash of the weights before any edit, whose covariance is meant, and `max_rows`, prompts run at once;
            AlphaEdit takes `earlier`, edits whose keys are to keep their values; methods that are prepared once for a
            model take `prepared`, see [`editing.prepare`][].

    Raises:
        TracerError: requests that are invalid or contradict each other, a target that is said already, an unknown
            method or hyper-parameter, a layer that does not exist, a covariance of another model or one that cannot be
            inverted, quantised weights, a masked model, a change that is not finite, an edit that ruins the model.

    Warns:
        HarmWarning: an edit that ruins the model.
    """
    more = {"locate": locate, "known": known, "check": check, "context": context}
    return compute_edits(model, [requests], method, **more, **hparams)[0]


@ordinary()
def compute_edits(
    model: Model,
    groups: Iterable[Any],
    method: str = "rome",
    *,
    locate: Any = None,
    known: Known = "refuse",
    check: Check = "warn",
    context: EditContext | None = None,
    **hparams: Any,
) -> list[Edit]:
    """One edit per group of requests, each as if alone on the model as it is; values of all groups are found together.

    For many edits to be tried one at a time this is several times as fast as [`editing.compute_edit`][] on each, with
    the same errors; `seconds` of each edit is its share, by requests.

    Args:
        model: to be edited.
        groups: requests of each edit.
        method: as of `compute_edit`.
        locate: as of `compute_edit`.
        known: as of `compute_edit`.
        check: as of `compute_edit`.
        context: serves the method, and remembers what it measured; None: a new one.
        hparams: as of `compute_edit`.
    """
    if known not in ("refuse", "edit"):
        raise KnownAlready(f"known is {known!r}; expected 'refuse' or 'edit'")
    if check not in ("warn", "refuse", None):
        raise KnownAlready(f"check is {check!r}; expected 'warn', 'refuse' or None")
    found = method_named(method)
    checked = [as_requests(group) for group in groups]
    if not checked:
        raise InvalidEditRequest("there is nothing to edit: the list of groups is empty; give at least one")
    if not (model.causal or found.masked):
        raise MaskedModelError(f"{model.name} is a masked model; {found.name} edits models that predict the next token")
    check_seq2seq(model, found)
    if locate is not None:
        hparams = {**_located(model, found, locate), **hparams}
    settings = settings_of(found, hparams)
    written = settings.layers if found.layers != "none" else None
    if found.writes:
        check_editable(model, names_of(model, written or range(model.n_layers)))
    began = time.monotonic()
    with timed() as parts, peak_memory(model) as memory, evaluating(model), frozen(model), torch.enable_grad():
        with part("hash"):
            own = {_FIELDS[name]: hparams[name] for name in found.needs if name in hparams}
            context = replace(context or EditContext(model), **own)
            model = context.model
        with part("asking"):
            _check_run(model, [request for group in checked for request in group], known, context.max_rows)
        changes = found.plan(model, checked, settings, context)
    seconds = time.monotonic() - began
    total = sum(len(group) for group in checked)
    spent = {f"{TIMED}{name}": torch.tensor(value) for name, value in parts.items()}
    edits = [
        Edit(
            factors=_finite(change, found),
            method=found.name,
            settings={**change.settings, "orientation": orientation_of(model, change.factors)},
            requests=group,
            fingerprint=model.fingerprint(),
            model=model.name,
            seconds=seconds * len(group) / total,
            memory=memory(),
            evidence={**change.evidence, **{name: value * len(group) / total for name, value in spent.items()}},
            note="; ".join(filter(None, [change.note, bare_note(model, group[0].text)])),
            memories=change.memories,
        )
        for group, change in zip(checked, changes, strict=True)
    ]
    return check_harm(model, [_noted(edit, check) for edit in edits], check, context.drift)


def check_seq2seq(model: Model, method: Method) -> None:
    """Check that a method edits models of this style.

    Raises:
        TracerError: it does not edit encoder-decoder models, and this is one.
    """
    if model.style == "seq2seq" and not method.seq2seq:
        able = ", ".join(name for name in METHODS if method_named(name).seq2seq)
        raise EncoderDecoderError(
            f"{model.name} is an encoder-decoder model, which {method.name} does not edit yet; choose one of {able}"
        )


def _check_run(model: Model, requests: Sequence[EditRequest], known: Known, max_rows: int | None) -> None:
    """Raise TracerError for a request that the model cannot run or, with "refuse", fulfils already."""
    targets = [tuple(request.fact.align(model).target_ids) for request in requests]
    if known == "edit":
        return
    answers = own_answers(model, [request.fact for request in requests], max_rows=max_rows)
    for request, target, answer in zip(requests, targets, answers, strict=True):
        if tuple(answer) == target:
            raise KnownAlready(
                f"the model says {answer_text(model, target)!r} after {request.text!r} already, so that there is "
                "nothing to edit; give another target, or known='edit' to write it all the same"
            )


def _located(model: Model, method: Method, given: Any) -> dict[str, Any]:
    if isinstance(given, NeuronAttribution) and method.neurons:
        if given.fingerprint != model.fingerprint(given.fingerprint):
            raise UnsuitableResult(
                f"the neurons were attributed on other weights than those of {model.name}; attribute again"
            )
        return {"neurons": tuple(given.above(NEURONS))}
    if method.layers == "none":
        raise UnknownMethod(f"{method.name} takes no layers; leave locate out")
    return {"layers": layers_from(given, single=method.layers == "one", model=model)}


def _noted(edit: Edit, check: Check) -> Edit:
    """The edit, with a remark if some of its values have no effect on their targets.

    Raises:
        TracerError: one that moves nothing at all, with "refuse".

    Warns:
        EditWarning: likewise, with "warn".
    """
    idle = (edit.evidence or {}).get("idle")
    if idle is None or not bool(idle.any()):
        return edit
    count = f"{int(idle.sum())} of {len(idle)} values do" if len(idle) > 1 else "the value does"
    message = (
        f"{count} nothing to the target at the layer written, so that the edit moves nothing; name an earlier layer"
    )
    if check == "refuse" and bool(idle.all()):
        raise NoEffect(message)
    if check is not None:
        warnings.warn(message, EditWarning, stacklevel=4)
    return replace(edit, note="; ".join(filter(None, [edit.note, message])))


def _finite(change: Change, method: Method) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    for name, pair in change.factors.items():
        if not all(bool(torch.isfinite(part).all()) for part in pair):
            raise NotFinite(f"{method.name} found a change of {name} that is not finite; lower v_lr, or use float32")
    return dict(change.factors)
