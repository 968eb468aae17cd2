"""Checkpoints of the hub: the local cache first, then the network."""

from __future__ import annotations

from pathlib import Path

from tracer.errors import ModelNotFound, NoSafetensors, TracerError

from .checkpoint import CONVERT, INDEX, WEIGHTS, check_files, has_tokenizer

# What is fetched from the hub: safetensors only, and the small text files beside them.
_WANTED = (
    *("config.json", "generation_config.json", WEIGHTS, "model-*-of-*.safetensors", INDEX),
    *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*piece*.model"),
)
_UNWANTED = ("*/*", "*.bin", "*.py", "*.h5", "*.msgpack", "*.gguf")


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
        raise ModelNotFound(f"{name!r} is gated: accept its terms on the hub and log in (hf auth login)") from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(f"{name!r} has no revision {revision!r}; give a branch, tag or commit it has") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ModelNotFound(
            f"unknown model {name!r}: no such folder here and no such model on the hub; check the spelling "
            "(a private model needs: hf auth login)"
        ) from error
    except (OSError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled) as error:
        raise ModelNotFound(
            f"model {name!r}{at} is neither a folder here nor completely in the local cache, and the hub cannot be "
            f"reached. On a machine with network run `{get}` and copy its cache folder to {constants.HF_HUB_CACHE} "
            "(set HF_HOME or HF_HUB_CACHE to use another place), or give the path of a folder with the model's files"
        ) from error
    # without a network the hub's client falls back to an incomplete cached copy
    if folder == cached and not (any(folder.glob("*.safetensors")) and has_tokenizer(folder)):
        raise ModelNotFound(
            f"the cached copy of {name!r}{at} in {folder} lacks weights (safetensors) or tokenizer, and the hub gave "
            f"no more. With network run `{get}`, or give the path of a folder with the model's files"
        )
    if not any(folder.glob("*.safetensors")):
        raise NoSafetensors(
            f"{name!r} offers no safetensors weights. {CONVERT.format(source=repr(name))}. If it has a GGUF file, "
            f"fetch that (hf download {name} FILE.gguf) and give its path"
        )
    return folder
