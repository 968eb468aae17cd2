"""Models in GGUF files, read through transformers and dequantised into a plain Hugging Face module.

The numbers are those of the file: 4 bits a weight, say, written out in float32. What comes out holds nothing of GGUF
any more, so it can be edited and saved like a model that was never quantised.
"""

from __future__ import annotations

import io
import sys
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tracer.errors import GGUFError, out_of_memory
from tracer.progress import bar

from .adapter import adapter_for
from .checkpoint import complete, device_of, dtype_of, quiet
from .gguf_file import AGAIN, Header, opened
from .model import Model
from .soundness import check_sound

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from .site_map import SiteMap

# fields of the file that transformers drops, though the configuration has a place for them
_LEFT_OUT = {
    "gpt2": {"context_length": "n_positions", "feed_forward_length": "n_inner"},
    "qwen3": {"attention.key_length": "head_dim"},
}


def load_gguf(
    file: Path,
    name: str,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | dict | None = None,
    sites: SiteMap | None = None,
) -> Model:
    """The model in a GGUF file (or in the parts whose first this is), in float32 where no `dtype` is given.

    Raises:
        TracerError: as [`tracer.load`][].

    Warns:
        TracerNote: the model finds plain English as surprising as noise, or something in the file is not read.
    """
    with opened(file, name) as header, bar(f"Reading {file.name}", 3) as progress:
        config = _config(header)
        adapter, style = adapter_for(config, name) if sites is None else (None, "causal")
        progress.advance(progress.task_ids[0])
        tokenizer = _tokenizer(header)
        progress.advance(progress.task_ids[0])
        hf = _weights(header, config, device, dtype, device_map)
        progress.advance(progress.task_ids[0])
    hf.name_or_path = hf.config._name_or_path = name
    model = Model(hf, tokenizer, name, adapter if sites is None else sites.on(hf, name), style)
    check_sound(model)
    return model


def _config(header: Header) -> PretrainedConfig:
    """The configuration in a GGUF file, with the architecture spelled out."""
    from transformers import AutoConfig, __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    try:
        config = AutoConfig.from_pretrained(header.file.parent, gguf_file=header.file.name, local_files_only=True)
    except Exception as error:  # the reader has errors of every kind for values it does not expect
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        raise GGUFError(
            f"the GGUF file {header.name!r} holds a model of the architecture {header.architecture!r}, which cannot be "
            f"read from GGUF by transformers {__version__} ({reason}); take the model's safetensors, or another file"
        ) from error
    if not config.architectures and config.model_type in CLASSES:
        config.architectures = [CLASSES[config.model_type]]
    for setting, attribute in _LEFT_OUT.get(header.architecture, {}).items():
        if setting in header.settings:
            setattr(config, attribute, header.settings[setting])
    if header.scaling is not None:
        header.scaling.into(config, header.name)
    return config


def _tokenizer(header: Header) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file, which puts BOS in front or not as the file has it."""
    from transformers import AutoTokenizer

    advice = "take a file that llama.cpp's converter made from the whole model folder, or the safetensors"
    try:
        with quiet(show_bars=False):
            made = AutoTokenizer.from_pretrained(header.file.parent, gguf_file=header.file.name, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception
        if out_of_memory(error):
            raise
        raise GGUFError(f"the tokenizer in {header.name!r} cannot be read ({error}); {advice}") from error
    if not made.is_fast:
        raise GGUFError(f"the tokenizer in {header.name!r} is a slow one and gives no character offsets; {advice}")
    return made


def _weights(
    header: Header,
    config: PretrainedConfig,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    device_map: str | dict | None,
) -> PreTrainedModel:
    """The model in eval mode, in float32 where no `dtype` is given, as a plain module without a trace of GGUF."""
    from transformers import AutoModelForCausalLM, GgufConfig

    target = device_of(device, device_map)
    number = torch.float32 if dtype in (None, "auto") else dtype_of(dtype, target)
    options: dict[str, Any] = {"gguf_file": header.file.name, "config": config, "dtype": number}
    options |= {"quantization_config": GgufConfig(dequantize=True)}
    # wrong shapes and missing weights are reported together, and refused below
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    options |= {"local_files_only": True} | ({"device_map": device_map} if device_map is not None else {})
    # transformers draws its bar wherever standard error leads
    hushed = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
    try:
        with quiet(show_bars=False), hushed:
            loaded: Any = AutoModelForCausalLM.from_pretrained(header.file.parent, **options)
        hf, report = loaded
    except Exception as error:  # numpy, torch and transformers each complain in their own way
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        raise GGUFError(
            f"the tensors of {header.name!r} cannot be read ({reason}); {AGAIN}, or another file"
        ) from error
    if report["mismatched_keys"]:
        key, stored, expected = min(report["mismatched_keys"])
        raise GGUFError(
            f"weight {key!r} of {header.name!r} has shape {tuple(stored)}, but the file's own settings ask for "
            f"{tuple(expected)}; transformers reads this {header.architecture!r} wrongly: take the model's safetensors"
        )
    complete(report, header.name)
    # dequantised: only the mark is left, which would forbid saving
    hf.hf_quantizer = None
    vars(hf.config).pop("quantization_config", None)
    if device_map is None:
        hf.to(target)
    return hf.eval()
