"""Second moments of a model's keys over text: one forward per batch for every layer, interruptible, cached."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tracer import checks
from tracer.errors import CovarianceTextError, EncoderDecoderError, TracerError
from tracer.inference import ordinary
from tracer.model import EMBEDDED, Model
from tracer.model.identity import EARLIER
from tracer.progress import bar

from . import triangles as packed
from .accumulate import Sums
from .cache import Cache
from .covariance import DTYPES, Covariance
from .identity import identity
from .keys import GROUP, empty_sums, marks_of, reached, read_groups
from .parallel import shared_sums
from .text import DEFAULT, ENGLISH, Text, Windows, name_of, reads_english, windows

WINDOW = 512
NARROW = (
    "the keys were gathered on {text}, which is narrow; edits of {name} want text like its own "
    'training text: editing.estimate_covariance(model, layers={layers}, text="a file or a data set\'s name", '
    "max_tokens={tokens})"
)


def default_tokens(model: Model) -> int:
    """Default number of tokens of the default text: 50 per dimension of a key.

    Over the last doubling the moments of the embedded model then change by 2 to 10 %, by layer.
    """
    return 50 * model.d_mlp


@ordinary()
def estimate_covariance(
    model: Model,
    layers: Iterable[int] | int | None = None,
    text: Text | None = None,
    *,
    window: int | None = None,
    max_tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
    cache: bool | str | Path = True,
    resume: bool = True,
    batch_tokens: int = 4096,
    save_every: float = 30.0,
    origin: str | None = None,
    workers: int = 1,
    cluster: str | None = None,
) -> Covariance:
    """E[k k^T] of the keys (inputs of the MLPs' down-projections) over text, at several layers in one pass.

    The text is streamed: first its token ids go to a temporary file (four bytes a token), then the model reads them in
    batches, up to the last layer asked for. The sums lie where the model's layers lie.

    Every key counts once, those of special tokens that the tokenizer puts before a text too; padding never counts. The
    published code adds no special tokens; this follows the tokenizer, as prompts do.

    Args:
        model: any model; it is left as it is.
        layers: one layer, several, or None for all. Memory and files grow with each: d_mlp^2 numbers.
        text: a path, or a string that names an existing file: one text, UTF-8. Another string: a data set of the
            Hugging Face hub, "name:configuration:split", each row's column "text" a text. A list or another iterable of
            strings: its texts (so a text itself is passed as `[text]`). None: English available on every machine,
            Python's help texts and FactWorld's sentences by turns; FactWorld's alone for the embedded model, and for
            others with a vocabulary too small for English.
        window: most tokens the model reads at once; each text is cut into windows that follow one another, the last one
            shorter. None: 512, or the model's context where that is less.
        max_tokens: stop after so many. None: at the end of the text; for the default text 50 x d_mlp.
        dtype: float32 or float64, in which the products of keys are taken and summed.
        cache: keep finished layers under the user's cache folder (or TRACER_CACHE), and take them from there. A path:
            keep them in that folder.
        resume: carry on where an earlier run of the same settings was interrupted; needs the cache.
        batch_tokens: tokens per forward.
        save_every: seconds after which the state of an unfinished run is kept in the cache.
        origin: hash of the weights before the model was edited: if the cache has their covariance, that is taken.
        workers: number of processes of this machine, see [`tracer.runs.run`][]. Each loads the model by its name. The
            numbers are the same for any workers, and differ in the last digits from those of one process here. Parts of
            the text that are done are kept instead of `save_every`.
        cluster: a Ray cluster to read on instead.

    Raises:
        TracerError: an invalid layer, window, dtype or text; keys that are not finite.
    """
    asked = _layers(model, layers)
    window = min(model.n_ctx, WINDOW) if window is None else window
    for name, value, most in (
        ("window", window, model.n_ctx),
        ("max_tokens", max_tokens, None),
        ("batch_tokens", batch_tokens, None),
    ):
        if value is not None and (not isinstance(value, int) or value < 1 or (most and value > most)):
            up_to = f" and at most {most}, the context of {model.name}" if most else ""
            raise CovarianceTextError(f"{name} is a whole number, at least 1{up_to}; got {value!r}")
    if dtype not in DTYPES.values():
        raise CovarianceTextError(f"dtype {dtype!r}: moments are summed in torch.float32 or torch.float64")
    note = ""
    if text is None:
        max_tokens = default_tokens(model) if max_tokens is None else max_tokens
        if model.name != EMBEDDED:
            name = ENGLISH if reads_english(model) else DEFAULT
            note = NARROW.format(text=name, name=model.name, layers=list(asked), tokens=100 * model.d_mlp)
    model = model.pinned()
    told = identity(model, text, window, max_tokens) if cache else None
    noted = Cache.windows(cache, told) if cache and told else None
    if cache and noted:  # read before it was: nothing has to be tokenised
        known = _known(model, noted["corpus"], name_of(model, text), window, noted["tokens"], note)
        _, parts = _cached(model, cache, known, dtype, asked, origin)
        if len(parts) == len(asked):
            return _joined(parts)
    with windows(model, text, window, max_tokens) as corpus:
        known = _known(model, corpus.hash, corpus.name, window, corpus.tokens, note)
        store, parts = _cached(model, cache, known, dtype, asked, origin) if cache else (None, {})
        if store is not None:
            known = store.known
            if told and not noted:
                store.note_windows(told)
        missing = [layer for layer in asked if layer not in parts]
        if missing:
            shared = workers != 1 or cluster is not None
            checkpoint = store.unfinished(missing, batch_tokens) if store and resume else None
            if shared:
                sums = shared_sums(model, corpus, missing, dtype, batch_tokens, checkpoint, workers, cluster)
            else:
                sums = _sums(model, corpus, missing, dtype, batch_tokens, checkpoint, save_every)
            for layer in missing:
                moment = (packed.mirror(sums.totals[layer]) / corpus.tokens).cpu()
                doublings = {layer: tuple(sums.doublings[layer])}
                parts[layer] = Covariance(moments={layer: moment}, doublings=doublings, **known)
                if store:
                    store.keep(layer, parts[layer])
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)
    return _joined(parts)


def _known(model: Model, corpus: str, text: str, window: int, tokens: int, note: str) -> dict[str, Any]:
    """Fields of every covariance of a model over a text."""
    names = {"fingerprint": model.fingerprint(), "model": model.name, "corpus": corpus, "text": text}
    return {**names, "window": window, "tokens": tokens, "note": note}


def _cached(
    model: Model,
    cache: bool | str | Path,
    known: dict[str, Any],
    dtype: torch.dtype,
    asked: Sequence[int],
    origin: str | None,
) -> tuple[Cache, dict[int, Covariance]]:
    """The cache that is used, and what it has of the layers; that of the weights before any edit if it has them all."""
    if origin not in (None, known["fingerprint"]):
        before = Cache.of(cache, {**known, "fingerprint": origin}, dtype)
        found = {layer: kept for layer in asked if (kept := before.find(layer))}
        if len(found) == len(asked):
            return before, found
    store = Cache.of(cache, known, dtype)
    found = {layer: kept for layer in asked if (kept := store.find(layer))}
    if len(found) < len(asked) and store.folder.exists():
        former = Cache.of(cache, {**known, "fingerprint": model.fingerprint(EARLIER)}, dtype)
        for layer in asked:
            if layer not in found and (kept := former.find(layer)):
                found[layer] = replace(kept, fingerprint=known["fingerprint"])
                store.keep(layer, found[layer])
    return store, found


def _joined(parts: dict[int, Covariance]) -> Covariance:
    """One covariance of all layers."""
    first = next(iter(parts.values()))
    return replace(
        first,
        moments={layer: parts[layer].moments[layer] for layer in sorted(parts)},
        doublings={layer: parts[layer].doublings[layer] for layer in sorted(parts)},
    )


def _layers(model: Model, layers: Iterable[int] | int | None) -> tuple[int, ...]:
    every = model.stacks.get("encoder", range(model.n_layers))
    found = checks.layers(every if layers is None else layers, kind=CovarianceTextError)
    for layer in found:
        model.path("key", layer)  # raises for a layer that the model does not have, or that has no key
        if layer in model.stacks.get("decoder", ()):
            raise EncoderDecoderError(
                f"layer {layer} of {model.name} is in the decoder, and running text is read by the encoder; name "
                f"layers of that, 0 to {model.stacks['encoder'][-1]}"
            )
    return found


def _sums(
    model: Model,
    corpus: Windows,
    layers: Sequence[int],
    dtype: torch.dtype,
    batch_tokens: int,
    checkpoint: Path | None,
    save_every: float,
) -> Sums:
    """The sums of k k^T over all windows; kept at `checkpoint` now and then, and carried on from there."""
    sums = empty_sums(model, layers, dtype)
    if checkpoint is not None and checkpoint.exists():
        try:
            sums.restore(checkpoint)
        except TracerError as error:
            warnings.warn(f"{error}; the covariance is estimated from the beginning", stacklevel=3)
    marks = marks_of(corpus)
    groups = corpus.groups(GROUP * batch_tokens, marks)[sums.groups :]
    due = time.monotonic() + save_every
    with bar("covariance", corpus.tokens) as progress:
        progress.advance(progress.task_ids[0], sums.tokens)
        for stop, count in read_groups(model, corpus, groups, sums, batch_tokens, reached(corpus.ends, marks)):
            progress.advance(progress.task_ids[0], count)
            if checkpoint is not None and stop and stop < len(corpus.ends) and time.monotonic() >= due:
                begun = time.monotonic()
                try:
                    sums.save(checkpoint)
                except TracerError as error:  # a full disk, which is no reason to stop
                    warnings.warn(f"the state is not kept: {error}", stacklevel=3)
                    checkpoint = None
                now = time.monotonic()  # large states take long to write: no more than a tenth of the time goes there
                due = now + (max(save_every, 9 * (now - begun)) if save_every else 0)
    return sums
