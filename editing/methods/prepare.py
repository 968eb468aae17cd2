"""Prepare a method for a model once: train its editor or classifier, or measure what it needs, and keep the result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch

from editing.prepared.identity import records_hash, tokenizer_hash
from editing.prepared.prepared import FORMAT, Prepared
from editing.prepared.store import Checkpoint, Shelf
from editing.prepared.work import Preparation, Work
from editing.questions.record import EditRecord
from tracer.checks import whole
from tracer.engine.hooks import evaluating, frozen
from tracer.engine.memories import remembering
from tracer.errors import CannotWrite, HyperparameterError, NotPrepared, OneOfSeveral, TracerError, UnknownMethod
from tracer.inference import ordinary

from .compute import check_seq2seq, method_named
from .method import Method

if TYPE_CHECKING:
    from tracer.model import Model

HELD_OUT = 0.2  # of the subjects: those that are validated on, where no records are given for that


@ordinary()
def prepare(
    model: Model,
    method: str,
    records: str | Path | Iterable[Any] | None = None,
    *,
    held_out: str | Path | Iterable[Any] | None = None,
    seed: int = 0,
    cache: bool | str | Path = True,
    resume: bool = True,
    save_every: float = 30.0,
    **settings: Any,
) -> Prepared:
    """Make what a method needs once for a model, or find it where it was kept.

    It is known by the method, the weights, the tokenizer, the records, the seed and the settings, and kept in the cache
    folder; the same call gives it back at once. A process that is killed leaves its last checkpoint there, and the same
    call goes on from it, to the same bits. The model is left as it was; memories on it do not act meanwhile.

    Args:
        model: to be edited later.
        method: its name.
        records: to learn from: of [`editing.load_records`][], the name of a set or a file, or mappings; None: the
            method needs none.
        held_out: records that are validated on; None: those of a fifth of the subjects, which are not learnt from then.
        seed: of the random draws; the global random state is left alone.
        cache: keep it in the user's cache folder or the one that TRACER_CACHE names (True), in this folder, or not at
            all (False).
        resume: go on from a checkpoint.
        save_every: seconds between two checkpoints.
        settings: of the method's preparation.

    Raises:
        TracerError: a method that needs no preparation, a setting it does not have, no records, records of one subject
            alone, a loss that is not finite.
    """
    found = method_named(method)
    preparation = preparation_of(found)
    check_seq2seq(model, found)
    own = _settings(found, preparation, settings)
    whole("seed", seed, kind=HyperparameterError)
    learnt, validated = _material(found, preparation, records, held_out)
    known = {
        "format": FORMAT,
        "method": found.name,
        "settings": json.loads(json.dumps(asdict(own))),
        "seed": seed,
        "fingerprint": model.weights_fingerprint(),
        "tokenizer": tokenizer_hash(model),
        "records": "/".join(records_hash(each) for each in (learnt, validated) if each),
    }
    shelf = Shelf.of(cache, known) if cache is not False else None
    if shelf is not None and (kept := shelf.find()) is not None:
        return kept
    checkpoint = Checkpoint(None, save_every)
    if shelf is not None:
        try:
            shelf.make()
            checkpoint = Checkpoint(shelf.unfinished, save_every, known)
        except CannotWrite:  # said when the result is to be kept
            pass
    if not resume:
        checkpoint.remove()
    with remembering(model, []), evaluating(model), frozen(model), torch.enable_grad():
        made = preparation.make(model, own, Work(tuple(learnt), tuple(validated), seed, checkpoint))
    value = Prepared(
        method=found.name,
        settings=known["settings"],
        seed=seed,
        fingerprint=known["fingerprint"],
        model=model.name,
        tokenizer=known["tokenizer"],
        records=known["records"],
        tensors=made.tensors,
        header=made.header,
        history=made.history,
        seconds=checkpoint.seconds,
        note=made.note,
    )
    if shelf is not None:
        shelf.keep(value)
        checkpoint.remove()
    return value


def preparation_of(method: Method) -> Preparation:
    """How a method is prepared.

    Args:
        method: the method.

    Raises:
        TracerError: there is nothing to prepare.
    """
    if method.preparation is None:
        from .compute import METHODS

        able = ", ".join(name for name in METHODS if method_named(name).preparation is not None)
        raise UnknownMethod(f"{method.name} needs no preparation; use it as it is. Prepared are: {able or 'none'}")
    return method.preparation


def _settings(method: Method, preparation: Preparation, given: dict[str, Any]) -> Any:
    try:
        return preparation.settings(**given)
    except TypeError as error:
        names = ", ".join(vars(preparation.settings)["__dataclass_fields__"])
        wrong = next((name for name in given if name not in names.split(", ")), None)
        if wrong is not None:
            raise UnknownMethod(f"preparing {method.name} has no setting {wrong!r}; it has {names}") from error
        raise OneOfSeveral(f"{method.name}: {error}") from error


def _material(
    method: Method, preparation: Preparation, records: Any, held_out: Any
) -> tuple[list[EditRecord], list[EditRecord]]:
    """The records to learn from and to validate on."""
    learnt, validated = _records(records), _records(held_out)
    if not preparation.records:
        return learnt, validated
    if not learnt:
        raise NotPrepared(
            f"{method.name} learns from records, and there are none; give some with paraphrases and neighbours, as in "
            f"editing.prepare(model, {method.name!r}, editing.load_records('factworld', split='train'))"
        )
    return (learnt, validated) if validated else _by_subject(method, learnt)


def _by_subject(method: Method, records: Sequence[EditRecord]) -> tuple[list[EditRecord], list[EditRecord]]:
    """Records apart by subject, a fifth of these held out; the same ones whatever the order."""
    subjects = sorted({record.rewrites[0].subject for record in records})
    if len(subjects) < 2:
        raise NotPrepared(
            f"{method.name} is validated on subjects that it has not learnt from, and all {len(records)} records are "
            f"of {subjects[0]!r}; give records of more subjects, or held_out=records"
        )
    chosen = set(Random(0).sample(subjects, max(1, round(HELD_OUT * len(subjects)))))
    apart = [record.rewrites[0].subject in chosen for record in records]
    return (
        [record for record, held in zip(records, apart, strict=True) if not held],
        [record for record, held in zip(records, apart, strict=True) if held],
    )


def _records(given: str | Path | Iterable[Any] | None) -> list[EditRecord]:
    if given is None:
        return []
    if isinstance(given, str | Path):
        from editing.datasets import load_records

        return load_records(given, split="train" if given == "factworld" else None)
    listed = list(given)
    if all(isinstance(each, EditRecord) for each in listed):
        return listed
    from editing.datasets import records_of

    try:
        return records_of(listed)
    except TracerError as error:
        raise NotPrepared(f"what was given to learn from is no list of records: {error}") from error
