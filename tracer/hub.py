"""Where a checkpoint lies: the embedded folder, a local one, or a hub name (local cache first, then the network)."""

from __future__ import annotations

import re
from pathlib import Path

from .checkpoint import CONVERT, EMBEDDED, INDEX, WEIGHTS, check_files, has_tokenizer
from .errors import TracerError

# What is fetched from the hub: safetensors only, and the small text files beside them.
_WANTED = (
    *("config.json", "generation_config.json", WEIGHTS, "model-*-of-*.safetensors", INDEX),
    *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*piece*.model"),
)
_UNWANTED = ("*/*", "*.bin", "*.py", "*.h5", "*.msgpack", "*.gguf")


def find_checkpoint(name_or_path: str | Path | None, revision: str | None = None) -> tuple[Path, str]:
    """The local folder of a checkpoint and the name to show for it.

    ``None`` is the embedded model, an existing folder is itself, anything else is a hub name: a complete copy in the
    local cache is used as it is, otherwise the files are fetched.

    Raises:
        TracerError: nothing usable under that name; the message says what to do.
    """
    if name_or_path is None:
        folder = Path(__file__).parent / EMBEDDED / "data" / "model"
        if not (folder / "config.json").is_file():
            raise TracerError(
                f"the embedded FactWorld model is missing from this installation (expected at {folder}); "
                "reinstall the package, or retrain it with: python -m tracer.factworld.train"
            )
        return folder, EMBEDDED
    if not isinstance(name_or_path, (str, Path)):
        raise TracerError(f"a hub name, a folder or None was expected as the model, got {type(name_or_path).__name__}")
    name = str(name_or_path)
    folder = Path(name).expanduser()
    if not name.strip():
        raise TracerError("the model's name is empty; give a hub name such as 'gpt2', a folder, or nothing at all")
    if folder.is_dir():
        return folder, name
    if folder.exists():
        raise TracerError(f"{name!r} is a file; give the folder that holds its config.json and model.safetensors")
    if isinstance(name_or_path, Path) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name[0] in ".~":
        raise TracerError(f"there is no folder {name!r} (and that is no hub name, which reads 'name' or 'owner/name')")
    return fetch(name, revision), name


def fetch(name: str, revision: str | None) -> Path:
    """The local folder of a hub model; fetched only where the cache does not hold a complete copy.

    Raises:
        TracerError: no such model or revision, no access, no network, or no safetensors.
    """
    from huggingface_hub import constants, errors, snapshot_download

    cached: Path | None = None
    try:  # a complete cached copy needs no network
        cached = Path(snapshot_download(name, revision=revision, local_files_only=True))
        check_files(cached, name)
        if has_tokenizer(cached):
            return cached
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError, TracerError):
        pass
    at = f" at revision {revision!r}" if revision else ""
    get = f"hf download {name}{f' --revision {revision}' if revision else ''}"
    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=list(_WANTED), ignore_patterns=list(_UNWANTED))
        )
    except errors.GatedRepoError as error:
        raise TracerError(f"{name!r} is gated: accept its terms on the hub and log in (hf auth login)") from error
    except errors.RevisionNotFoundError as error:
        raise TracerError(f"{name!r} has no revision {revision!r}; give a branch, tag or commit it has") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise TracerError(
            f"unknown model {name!r}: no such folder here and no such model on the hub; check the spelling "
            "(a private model needs: hf auth login)"
        ) from error
    except (OSError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled) as error:
        raise TracerError(
            f"model {name!r}{at} is neither a folder here nor completely in the local cache, and the hub cannot be "
            f"reached. On a machine with network run `{get}` and copy its cache folder to {constants.HF_HUB_CACHE} "
            "(set HF_HOME or HF_HUB_CACHE to use another place), or give the path of a folder with the model's files"
        ) from error
    # without a network the hub's client falls back to an incomplete cached copy
    if folder == cached and not (any(folder.glob("*.safetensors")) and has_tokenizer(folder)):
        raise TracerError(
            f"the cached copy of {name!r}{at} in {folder} lacks weights (safetensors) or tokenizer, and the hub gave "
            f"no more. With network run `{get}`, or give the path of a folder with the model's files"
        )
    if not any(folder.glob("*.safetensors")):
        raise TracerError(f"{name!r} offers no safetensors weights. {CONVERT.format(source=repr(name))}")
    return folder
