"""Writing a model as a Hugging Face folder, also one that transformers read from GGUF and would refuse to save."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.files import new_folder

from .checkpoint import quiet

if TYPE_CHECKING:
    from torch import nn

    from .model import Model


MEMORIES = "memory"
"""Folder of the memories' files in that of the model."""
README = """# {model}, with memories

The weights in this folder are those of the model without its memories. `tracer.load` attaches the memories in
`{folder}`, and what it gives answers with them. Plain transformers, and everything else that reads the weights alone,
gives the unedited model.

{memories}
"""


def save(model: Model, folder: str | Path, overwrite: bool = False) -> Path:
    """Write the model as it is, with its tokenizer, as a Hugging Face folder, whole or not at all; return it.

    Memories that the model has are written beside the weights, into `memory`, and a README says so: `tracer.load`
    attaches them, everything else that reads the folder has the weights alone.

    Args:
        model: any model; one dequantised from GGUF is written as a plain one.
        folder: where to; made if need be.
        overwrite: replace what `folder` holds.

    Raises:
        TracerError: the folder is not empty, or cannot be written.
    """
    with new_folder(folder, overwrite) as temporary:
        write(model, temporary)
        if model.memories:
            _write_memories(model, temporary)
    return Path(folder)


def _write_memories(model: Model, folder: Path) -> None:
    inner = folder / MEMORIES
    inner.mkdir()
    lines = []
    for place, memory in enumerate(model.memories):
        file = f"{place}-{re.sub(r'[^A-Za-z0-9_-]+', '_', memory.name)}.safetensors"
        memory.save(inner / file)  # type: ignore[attr-defined]
        lines.append(f"- `{MEMORIES}/{file}`: {memory!r}")
    text = README.format(model=model.name, folder=MEMORIES, memories="\n".join(lines))
    (folder / "README.md").write_text(text, encoding="utf-8")


def write(model: Model, folder: Path) -> None:
    """Write model and tokenizer into a folder, file by file."""
    with _unmarked(model.hf), quiet(show_bars=False):
        model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def quantised(hf: nn.Module) -> bool:
    """Whether a module's weights are quantised; those that transformers dequantised from GGUF are only marked so."""
    config: Any = getattr(hf, "config", None)
    marked = getattr(hf, "is_quantized", False) or getattr(config, "quantization_config", None)
    return bool(marked) and not _dequantised(hf)


def _dequantised(hf: nn.Module) -> bool:
    config: Any = getattr(hf, "config", None)
    marks = (getattr(hf, "hf_quantizer", None), config)
    methods = {_method(getattr(mark, "quantization_config", None)) for mark in marks} - {None}
    # packed blocks are bytes
    return methods == {"gguf"} and all(weight.is_floating_point() for weight in hf.parameters())


def _method(config: Any) -> str | None:
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    return None if method is None else str(getattr(method, "value", method))


@contextmanager
def _unmarked(hf: Any) -> Iterator[None]:
    """Take GGUF's mark off a dequantised module inside the block; it is given back as it was."""
    if not _dequantised(hf):
        yield
        return
    quantiser, config = hf.hf_quantizer, getattr(hf.config, "quantization_config", None)
    named = hf.config.architectures
    try:
        hf.hf_quantizer, hf.config.architectures = None, named or [type(hf).__name__]
        if config is not None:
            del hf.config.quantization_config
        yield
    finally:
        hf.hf_quantizer, hf.config.architectures = quantiser, named
        if config is not None:
            hf.config.quantization_config = config
