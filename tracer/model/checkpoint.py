"""Finding a checkpoint's files and saying plainly what is wrong with them, before anything is built."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tracer.errors import DeviceError, IncompleteCheckpoint, NoSafetensors, NoTokenizer, out_of_memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from .adapter import Style

EMBEDDED = "factworld"
EMBEDDED_T5 = "factworld-t5"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
CONVERT = (
    "Pickled weights can run code and are not read. If you trust them, convert them once: "
    "transformers.AutoModelForCausalLM.from_pretrained({source}).save_pretrained(folder), and load that folder"
)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of any tokenizer."""
    return any((folder / file).is_file() for file in _TOKENIZER_FILES)


def check_files(folder: Path, name: str) -> list[Path]:
    """The weight files of a checkpoint folder, each with a readable safetensors header.

    Raises:
        TracerError: no config, an adapter, no weights, only pickled weights, a shard missing, or a corrupt file.
    """
    from safetensors import SafetensorError, safe_open

    if not (folder / "config.json").is_file() and (folder / ADAPTER).is_file():
        base = read_json(folder / ADAPTER).get("base_model_name_or_path") or "its base model"
        raise IncompleteCheckpoint(
            f"{name!r} is an adapter of peft for {base}, no model; merge it once, with peft: "
            f"AutoPeftModelForCausalLM.from_pretrained({str(folder)!r}).merge_and_unload().save_pretrained(other), and "
            "load the other folder, with the base model's tokenizer in it"
        )
    if not (folder / "config.json").is_file():
        raise IncompleteCheckpoint(
            f"{name!r} has no config.json (looked in {folder}); give the folder that save_pretrained wrote"
        )
    if (folder / INDEX).is_file():
        shards = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        files = [folder / shard for shard in shards]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise IncompleteCheckpoint(
                f"{name!r} lacks {', '.join(missing)}, named in its {INDEX}; complete the folder"
            )
    elif (folder / WEIGHTS).is_file():
        files = [folder / WEIGHTS]
    else:
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(pattern))
        if pickled:
            raise NoSafetensors(f"{name!r} holds only {pickled[0]}. {CONVERT.format(source=repr(name))}")
        raise IncompleteCheckpoint(f"{name!r} has no weights: expected {WEIGHTS} (or {INDEX}) in {folder}")
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise IncompleteCheckpoint(
                f"{file} is no valid safetensors file ({error}); it is corrupt or cut short: fetch or save it again"
            ) from error
    return files


def read_json(path: Path) -> dict:
    """A JSON object from a file of the checkpoint.

    Raises:
        TracerError: the file is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # bad JSON and bad UTF-8 alike
        raise IncompleteCheckpoint(f"{path} is not readable JSON ({error}); restore the file") from error
    if not isinstance(content, dict):
        raise IncompleteCheckpoint(
            f"{path} should hold a JSON object, got a {type(content).__name__}; restore the file"
        )
    return content


def read_config(folder: Path, name: str) -> PretrainedConfig:
    """The configuration, of a class transformers itself holds.

    Raises:
        TracerError: a model type transformers does not know (its code would have to come with the checkpoint).
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    raw = read_json(folder / "config.json")
    model_type = raw.get("model_type")
    if model_type not in CONFIG_MAPPING:  # asked first, since AutoConfig would offer to run the checkpoint's own code
        why = "code that comes with a checkpoint is never run; " if "auto_map" in raw else ""
        raise IncompleteCheckpoint(
            f"{name!r} has the model type {model_type!r} in its config.json, which transformers does not know; {why}"
            "expected a type such as gpt2, llama or bert"
        )
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each configuration class has its own complaints
        if out_of_memory(error):
            raise
        raise IncompleteCheckpoint(f"the config.json of {name!r} cannot be used: {error}") from error


def read_tokenizer(folder: Path, name: str, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a checkpoint folder.

    Raises:
        TracerError: no tokenizer, or only a slow one, which gives no character offsets.
    """
    from transformers import AutoTokenizer
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

    advice = f"put the model's tokenizer.json and tokenizer_config.json into {folder}"
    settings = folder / "tokenizer_config.json"
    if not has_tokenizer(folder):
        raise NoTokenizer(f"{name!r} has no tokenizer; {advice}")
    if settings.is_file() and "auto_map" in read_json(settings) and type(config) not in TOKENIZER_MAPPING:
        raise NoTokenizer(f"the tokenizer of {name!r} is code of its own, which is never run; {advice}")
    try:
        with quiet(show_bars=False):
            tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception for a bad file
        if out_of_memory(error):
            raise
        raise NoTokenizer(f"the tokenizer of {name!r} cannot be read ({error}); {advice}") from error
    if not tokenizer.is_fast:
        raise NoTokenizer(f"the tokenizer of {name!r} is a slow one and gives no character offsets; {advice}")
    return tokenizer


def read_weights(
    folder: Path,
    name: str,
    config: PretrainedConfig,
    *,
    style: Style,
    blocks: str,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    device_map: str | dict | None,
) -> PreTrainedModel:
    """The Hugging Face model in eval mode, every weight of it read from the checkpoint.

    `blocks` is the dotted name of the list of blocks: a warning names weights in it that the config leaves out.

    Raises:
        TracerError: weights missing or of another shape than in the configuration, an invalid device or dtype.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    target = device_of(device, device_map)
    options: dict[str, Any] = {"config": config, "dtype": dtype_of(dtype, target), "local_files_only": True}
    # wrong shapes and missing weights are reported together, and refused below
    options |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    if device_map is not None:
        options |= {"device_map": device_map}
    kinds = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}
    auto: Any = kinds[style]
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    try:
        with quiet(show_bars=size > 1 << 29 and sys.stderr.isatty()):
            loaded: Any = auto.from_pretrained(folder, **options)
        hf, report = loaded
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        raise IncompleteCheckpoint(
            f"the weights of {name!r} cannot be loaded into the model its config.json describes: {reason}"
        ) from error
    if report["mismatched_keys"]:
        key, stored, expected = min(report["mismatched_keys"])
        raise IncompleteCheckpoint(
            f"weight {key!r} of {name!r} has shape {tuple(stored)}, but its config.json asks for {tuple(expected)}; "
            "config.json and weights belong to different models: fetch both again"
        )
    complete(report, name)
    stray = [key for key in report["unexpected_keys"] if re.search(rf"(^|\.){blocks.split('.')[-1]}\.\d+\.", key)]
    if stray:
        warnings.warn(
            f"{name!r} holds weights that its config.json has no place for, and which are left out: {_some(stray)}",
            stacklevel=3,
        )
    if device_map is None:
        hf.to(target)
    return hf.eval()


def complete(report: dict, name: str) -> None:
    """Check transformers' loading report.

    Raises:
        TracerError: it names weights that the checkpoint does not have.
    """
    if report["missing_keys"]:  # transformers would fill them with random numbers
        raise IncompleteCheckpoint(
            f"the checkpoint {name!r} lacks weights that its architecture needs: {_some(report['missing_keys'])}; "
            "it would answer from random numbers. Fetch it again, or give the checkpoint of the whole language model"
        )


def _some(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def device_of(device: str | torch.device | None, device_map: str | dict | None) -> torch.device:
    """The device that was asked for, else the first GPU, else the CPU."""
    if device is not None and device_map is not None:
        raise DeviceError(f"device={device!r} and device_map={device_map!r} were both given; give one of them")
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise DeviceError(f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); try 'cpu'") from error
    return target


def dtype_of(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | str:
    """The dtype that was asked for, else float32 on the CPU and `"auto"` (as stored) elsewhere."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise DeviceError(f"dtype {dtype!r} is none; give 'float32', 'bfloat16', 'float16', 'auto' or a torch.dtype")
    return found


@contextmanager
def quiet(*, show_bars: bool) -> Iterator[None]:
    """Hush transformers' bars and reports (what matters in them becomes an error here), and restore both settings."""
    from transformers.utils import logging

    def hidden(make: Any, args: tuple, kwargs: dict) -> Any:
        return make(*args, **{**kwargs, "disable": True})

    verbosity = logging.get_verbosity()
    # a hook, since switching the bars off and on would switch the hub's bars on with them
    hook = logging.set_tqdm_hook(hidden)
    if show_bars:
        logging.set_tqdm_hook(hook)
    try:
        logging.set_verbosity_error()
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(hook)
