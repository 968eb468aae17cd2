"""Tiny GGUF files, written with the ``gguf`` package from tiny checkpoints: what llama.cpp's converter would make."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

from tracer.model import Model

ARCHITECTURES = {  # of checkpoints.py -> llama.cpp's name
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gpt2": "gpt2",
}
Fields = Callable[[GGUFWriter], object]


def write(
    model: Model,
    file: Path,
    *,
    quantise: GGMLQuantizationType = GGMLQuantizationType.F32,
    architecture: str = "",
    add_bos: bool | None = None,
    fields: Fields = lambda writer: None,
    extra: Mapping[str, np.ndarray] = {},
    drop: tuple[str, ...] = (),
    parts: int = 1,
    theta: float | None = None,
) -> Path:
    """Write ``model`` as a GGUF file (the first of several ``parts``); its path is returned.

    Args:
        quantise: how matrices are stored.
        architecture: llama.cpp's name of it, where it is to be another than the model's.
        add_bos: what the file says about BOS; without it nothing.
        fields: adds fields of its own.
        extra: tensors besides the model's.
        drop: tensors to leave out, as GGUF names them.
        parts: files to split the tensors into.
        theta: base of rotary positions, where it is to be another than the model's.
    """
    config, hf = model.hf.config, model.hf
    known = ARCHITECTURES.get(config.model_type, config.model_type)
    name = architecture or known
    tensors = {**_tensors(hf, known), **extra}
    tensors = {key: value for key, value in tensors.items() if key not in drop}
    names = list(tensors)
    share = -(-len(names) // parts)
    for part in range(parts):
        path = file if parts == 1 else file.with_name(f"{file.stem}-{part + 1:05d}-of-{parts:05d}.gguf")
        writer = GGUFWriter(path, name)
        if parts > 1:
            writer.add_uint16("split.no", part)
            writer.add_uint16("split.count", parts)
        if part == 0:
            _describe(writer, config, theta)
            _tokenize(writer, model, add_bos)
            fields(writer)
        for key in names[part * share : (part + 1) * share]:
            value = tensors[key]
            kind = quantise if value.ndim == 2 and value.shape[-1] % 32 == 0 else GGMLQuantizationType.F32
            writer.add_tensor(key, gguf.quantize(value, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return file if parts == 1 else file.with_name(f"{file.stem}-00001-of-{parts:05d}.gguf")


def _tensors(hf: torch.nn.Module, architecture: str) -> dict[str, np.ndarray]:
    config: Any = hf.config
    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    found = {}
    for key, weight in hf.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        module, _, suffix = key.rpartition(".")
        name = names.get_name(module)
        assert name is not None, key
        value = weight.detach().float().numpy()
        if architecture == "llama" and (
            "attn_q" in name or "attn_k" in name
        ):  # pairs of rotary dimensions lie together
            heads = config.num_attention_heads if "attn_q" in name else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
        if architecture == "gemma2" and "norm" in name:
            value = value + 1
        if architecture == "gpt2" and value.ndim == 2 and name.startswith("blk."):  # Conv1D stores them the other way
            value = value.T
        found[f"{name}.{suffix}"] = np.ascontiguousarray(value)
    return found


def _describe(writer: GGUFWriter, config: Any, theta: float | None) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(theta or config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(size)
    writer.add_key_length(size)
    if config.model_type == "gemma2":
        writer.add_sliding_window(config.sliding_window)


def _tokenize(writer: GGUFWriter, model: Model, add_bos: bool | None) -> None:
    tokenizer: Any = model.tokenizer
    stated = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_tokens)
    kinds = [
        TokenType.CONTROL if t in special else TokenType.BYTE if t.startswith("<0x") else TokenType.NORMAL
        for t in tokens
    ]
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if stated["type"] == "BPE":
        writer.add_tokenizer_model("llama" if stated.get("byte_fallback") else "gpt2")
        writer.add_token_merges([" ".join(pair) for pair in stated["merges"]])
    else:
        writer.add_tokenizer_model("llama")
    if stated["type"] != "BPE" or stated.get("byte_fallback"):
        scores = [-float(i) for i in range(len(tokens))]
        writer.add_token_scores(scores)
    for name in ("bos", "eos", "unk", "pad"):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
