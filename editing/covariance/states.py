"""States of a model over a corpus, read as keys are for a covariance: what enters an MLP at tokens of plain text."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from tracer.engine.batch import logits_of, pad
from tracer.engine.forward import Stop
from tracer.engine.frame import Frame, attach, evaluating
from tracer.engine.layout import sources
from tracer.engine.memories import resting
from tracer.errors import TracerError
from tracer.files import cache_folder
from tracer.files import tensors as tensorfile
from tracer.inference import ordinary

from .estimate import WINDOW
from .identity import identity
from .text import Text, windows

if TYPE_CHECKING:
    from tracer.model import Model

FORMAT = "States/1"
BATCH = 4096  # tokens of a forward


@ordinary()
def states_over_text(
    model: Model, layer: int, tokens: int, text: Text | None = None, *, kind: str = "mlp_in", cache: bool | Path = True
) -> Tensor:
    """States at a site at the first tokens of a text, [tokens, width], in the model's number type, on the CPU.

    They are those of the bare weights, and kept in the cache under their hash, as covariances are.

    Args:
        model: any; it is left as it is.
        layer: of the site.
        tokens: number of tokens read, special ones that the tokenizer puts before texts among them.
        text: as in [`editing.estimate_covariance`][].
        kind: of the site.
        cache: keep them under the user's cache folder (or TRACER_CACHE), and take them from there. A path: that folder.

    Raises:
        TracerError: an invalid text.
    """
    window = min(model.n_ctx, WINDOW)
    told = identity(model, text, window, tokens) if cache else None
    path = None
    if told is not None:
        known = json.dumps([model.weights_fingerprint(), told, kind, layer, str(model.dtype)])
        folder = cache_folder() / "states" if cache is True else Path(str(cache))
        path = folder / f"{blake3(known.encode()).hexdigest()[:32]}.safetensors"
        with suppress(TracerError):  # missing or damaged: it is made again
            return tensorfile.read(path, FORMAT)[0]["states"].clone()  # aligned, so that products are the same bits
    found = []
    with windows(model, text, window, tokens) as corpus, torch.no_grad(), evaluating(model), resting(model):
        for first, stop in corpus.groups(BATCH):
            found.append(_read(model, corpus.rows(first, stop), kind, layer))
    states = torch.cat(found)
    if path is not None:
        with suppress(TracerError, OSError):  # a folder that cannot be written costs time only
            path.parent.mkdir(parents=True, exist_ok=True)
            tensorfile.write(path, FORMAT, {"states": states}, {"kind": kind, "layer": layer})
    return states


def _read(model: Model, rows: list[np.ndarray], kind: str, layer: int) -> Tensor:
    ids = pad(sources(model, rows))
    real = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    kept: list[Tensor] = []

    def keep(state: Tensor) -> None:
        kept.append(state[real.to(state.device)].cpu())
        raise Stop

    handle = attach(model, kind, layer, keep, Frame(ids.shape[1]))
    try:
        with suppress(Stop):
            logits_of(model, ids, None if bool(real.all()) else real)
    finally:
        handle.remove()
    return kept[0]
