"""Finding a checkpoint: the embedded folder, a local one, a GGUF file, an installed package, or the hub."""

from __future__ import annotations

import re
from pathlib import Path

from tracer.errors import ModelNotFound

from . import packages
from .checkpoint import EMBEDDED, EMBEDDED_T5
from .gguf_file import SUFFIX, only_file
from .hub import fetch


def find_checkpoint(name_or_path: str | Path | None, revision: str | None = None) -> tuple[Path, str]:
    """The folder or GGUF file of a checkpoint, and the name to show for it.

    `None` is the embedded model, "factworld-t5" the embedded encoder-decoder model. A path that exists is used (for a
    folder without safetensors, the GGUF file in it). A name of `tracer.model.packages.PACKAGED` comes from the
    installed package, anything else is a hub name: a complete copy in the local cache is used as it is, otherwise the
    files are fetched.

    Raises:
        TracerError: nothing usable under that name; the message names the repair.
    """
    if name_or_path is None:
        return _embedded(), EMBEDDED
    if name_or_path == EMBEDDED_T5:
        return _embedded(EMBEDDED_T5), EMBEDDED_T5
    if not isinstance(name_or_path, (str, Path)):
        raise ModelNotFound(
            f"a hub name, a folder, a GGUF file or None was expected as the model, got {type(name_or_path).__name__}"
        )
    name = str(name_or_path)
    place = Path(name).expanduser()
    if not name.strip():
        raise ModelNotFound("the model's name is empty; give a hub name such as 'gpt2', a folder, or nothing at all")
    if place.is_dir():
        # repositories of GGUF files may hold the original model's config.json too
        inside = None if any(place.glob("*.safetensors")) else only_file(place, name)
        return inside or place, name
    if place.suffix.lower() == SUFFIX:
        if not place.is_file():
            raise ModelNotFound(f"there is no file {name!r}; check the path of the GGUF file")
        return place, name
    if place.exists():
        raise ModelNotFound(
            f"{name!r} is a file, and no GGUF file by its name; give the folder that holds its config.json and "
            "model.safetensors, or a .gguf file"
        )
    if name in packages.PACKAGED:
        return packages.folder(name), name
    if isinstance(name_or_path, Path) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name[0] in ".~":
        raise ModelNotFound(
            f"there is no folder {name!r} (and that is no hub name, which reads 'name' or 'owner/name')"
        )
    return fetch(name, revision), name


def _embedded(name: str = EMBEDDED) -> Path:
    own, recipe = ("model", "train") if name == EMBEDDED else ("t5", "t5")
    folder = Path(__file__).parents[1] / EMBEDDED / "data" / own
    if not (folder / "config.json").is_file():
        raise ModelNotFound(
            f"the embedded model {name} is missing from this installation (expected at {folder}); "
            f"reinstall the package, or retrain it with: python -m tracer.factworld.recipe.{recipe}"
        )
    return folder
