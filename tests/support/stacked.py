"""Tiny encoder-decoder models: T5 v1.0, v1.1 (gated), the layout of flan (gated, its own unembedding), and BART."""

from __future__ import annotations

from typing import Any

import checkpoints
import torch
from tokenizers import AddedToken, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tracer.facts import Fact, Readout
from tracer.facts.prompt import source_length
from tracer.model import Model

T5 = {
    "t5": {},
    "t5 v1.1": {"feed_forward_proj": "gated-gelu"},
    "flan": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
NAMES = (*T5, "bart")


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """The byte-level tokenizer of the other tiny models, with the special tokens of T5 or BART."""
    own: Any = checkpoints.TOKENIZERS["byte_level"]()
    bpe = own.backend_tokenizer
    front = [] if family != "bart" else ["<s>"]
    marks = ["<extra_id_0>", "<extra_id_1>"] if family != "bart" else ["<mask>"]
    bpe.add_special_tokens(["<pad>", *front, "</s>", *(AddedToken(mark, lstrip=True) for mark in marks)])
    used = [*front, "</s>"]
    template = processors.TemplateProcessing(
        single=" ".join([*front, "$A", "</s>"]),
        pair=None,
        special_tokens=[(token, bpe.token_to_id(token)) for token in used],
    )
    bpe.post_processor = template
    more = {"bos_token": "<s>", "mask_token": "<mask>"} if family == "bart" else {"extra_special_tokens": marks}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="</s>", **more)


def stacked(name: str, dtype: torch.dtype = torch.float32, *, certain: bool = False, positions: int = 64) -> Model:
    """A tiny model with random weights, two blocks in the encoder and in the decoder (three in T5's).

    One that can become `certain` has logits far apart, as a trained one has. BART reads as many tokens as it has
    `positions`.
    """
    tokenizer = tokenizer_of(name)
    pad: Any = tokenizer.pad_token_id
    end: Any = tokenizer.eos_token_id
    special: dict[str, Any] = {"pad_token_id": pad, "eos_token_id": end, "vocab_size": len(tokenizer)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        hf: Any
        if name == "bart":
            sizes = {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": positions}
            heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
            layers = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 16, "bos_token_id": tokenizer.bos_token_id}
            special |= {"forced_bos_token_id": tokenizer.bos_token_id, "forced_eos_token_id": None}
            config = BartConfig(**special, **sizes, **heads, **layers)
            config.decoder_start_token_id = end
            hf = BartForConditionalGeneration(config)
        else:
            sizes = {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_heads": 2}
            config = T5Config(**special, **sizes, num_layers=2, num_decoder_layers=3, **T5[name])
            config.decoder_start_token_id = pad
            hf = T5ForConditionalGeneration(config)
        with torch.no_grad():
            for parameter in hf.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
            if name == "bart":  # what is unembedded has a norm of its own: with short rows no token could be certain
                hf.model.shared.weight.mul_(6)
            elif certain and hf.config.tie_word_embeddings:
                hf.decoder.final_layer_norm.weight.mul_(6)
    return Model.of(hf.to(dtype).eval(), tokenizer, name)


def fact_for(model: Model, target: str | None = " Rome") -> Fact:
    """A fact as a span whose target has several tokens."""
    return Fact.span(model, "The city of {} is in", "Paris", target)


def loss_by_labels(model: Model, fact: Fact) -> float:
    """Mean of -log p over a fact's target, with the library's own shift of labels."""
    readout = Readout.of(model, fact.align(model))
    source, hf = source_length(model, readout.ids), model.hf
    labels = torch.tensor([[*readout.ids[source + 1 : readout.read[0] + 1], *readout.target]])
    labels[:, : -len(readout.target)] = -100
    forced = torch.tensor([[*readout.ids[source:]]])
    with torch.no_grad():
        asked: Any = {"input_ids": torch.tensor([readout.ids[:source]]), "decoder_input_ids": forced}
        return float(hf(**asked, labels=labels).loss)
