"""Tiny random checkpoints with tokenizers of every family, one table row per architecture.

Nothing is fetched: the tokenizers are trained here, in milliseconds, and the weights are drawn from a fixed seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = (
    "The Space Needle is in downtown Seattle.",
    "The Eiffel Tower is in the heart of Paris, and Paris is the capital of France.",
    "Miles Davis plays the trumpet; Yo-Yo Ma plays the cello.",
    "The mother tongue of Gabriel García Márquez is Spanish.",
    "Ångström worked in Uppsala, Sweden, 1853. Dvořák was born in Nelahozeves.",
    "{} [x] <b> & \"quoted\" 'words' (in brackets) - 100% = 42 / 7 + 3 * 2; a_b #c @d ~ ^ | \\ ` $5?!",
    "東京 is the capital of 日本, and Москва of Россия.",
)
VOCABULARY = 320
LAYERS, WIDTH, HEADS, KEYS = 4, 32, 4, 64


def byte_level(prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2 has it: no BOS, any text, one character over several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


def byte_level_nfc() -> PreTrainedTokenizerFast:
    """Byte-level BPE behind a normalizer, with untrimmed offsets, as Qwen has it."""
    fast = byte_level()
    tokenizer = fast.backend_tokenizer
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def metaspace() -> PreTrainedTokenizerFast:
    """BPE with byte fallback, a space written as ▁, and BOS, as Llama has it."""
    marks = ["<unk>", "<s>", "</s>"]
    special = marks + [f"<0x{byte:02X}>" for byte in range(256)]
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = spaces  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY + 100, special_tokens=special, show_progress=False)
    # the corpus is split at ▁ while training only: like Llama's, the tokenizer itself has no pre-tokenizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # type: ignore[assignment]
    tokenizer.train_from_iterator(SENTENCES[:5], trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in trained["merges"]]
    bpe = models.BPE(trained["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(bpe)  # anew: the bytes are no special tokens
    tokenizer.add_special_tokens(marks)
    tokenizer.normalizer = spaces  # type: ignore[assignment]
    tokenizer.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram() -> PreTrainedTokenizerFast:
    """Unigram over ▁-words with an unknown token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")  # type: ignore[assignment]
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def wordpiece() -> PreTrainedTokenizerFast:
    """Lower-casing WordPiece with [CLS] and [SEP], as BERT has it."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    tokenizer.decoder = decoders.WordPiece()  # type: ignore[assignment]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": byte_level,
    "byte_level_nfc": byte_level_nfc,
    "metaspace": metaspace,
    "unigram": unigram,
    "wordpiece": wordpiece,
}


def _sizes(**extra: Any) -> dict[str, Any]:
    """The names most configurations share."""
    return {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": KEYS,
        "max_position_embeddings": 64,
        **extra,
    }


_GPT2 = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_inner": KEYS, "n_positions": 64}

# architecture -> configuration class, its settings, tokenizer family
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "gpt2": ("GPT2Config", _GPT2, "byte_level"),
    "gptj": ("GPTJConfig", {**_GPT2, "rotary_dim": 4}, "byte_level"),
    "neox": ("GPTNeoXConfig", _sizes(), "byte_level"),
    "neox_sequential": ("GPTNeoXConfig", _sizes(use_parallel_residual=False), "byte_level"),
    "neo": (
        "GPTNeoConfig",
        {
            "hidden_size": WIDTH,
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "intermediate_size": KEYS,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], LAYERS // 2]],
            "window_size": 8,
        },
        "byte_level",
    ),
    "opt": ("OPTConfig", _sizes(ffn_dim=KEYS, word_embed_proj_dim=WIDTH), "byte_level"),
    "llama": ("LlamaConfig", _sizes(num_key_value_heads=2), "metaspace"),
    "mistral": ("MistralConfig", _sizes(num_key_value_heads=2, sliding_window=32), "metaspace"),
    "qwen2": ("Qwen2Config", _sizes(num_key_value_heads=2), "byte_level_nfc"),
    "qwen3": ("Qwen3Config", _sizes(num_key_value_heads=2, head_dim=8), "byte_level_nfc"),
    "gemma2": (
        "Gemma2Config",
        _sizes(num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, sliding_window=32),
        "unigram",
    ),
    "phi3": ("Phi3Config", _sizes(num_key_value_heads=2, pad_token_id=0), "metaspace"),
    "bloom": ("BloomConfig", {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS}, "byte_level"),
    "falcon": ("FalconConfig", _sizes(ffn_hidden_size=KEYS, alibi=False), "byte_level"),
    "falcon_new": (
        "FalconConfig",
        _sizes(ffn_hidden_size=KEYS, alibi=False, new_decoder_architecture=True, num_kv_heads=2),
        "byte_level",
    ),
    "olmo2": ("Olmo2Config", _sizes(num_key_value_heads=2), "byte_level"),
    "bert": ("BertConfig", _sizes(), "wordpiece"),
}

_KV: dict[str, Any] = _sizes(num_key_value_heads=2)
_HEAD: dict[str, Any] = {**_KV, "head_dim": 8}
_MOE: dict[str, Any] = {**_HEAD, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

# more of those that TransformerLens knows, for what is to hold on every one of them; a norm or a multiplier between
# modules and the residual stream first
FURTHER: dict[str, tuple[str, dict[str, Any], str]] = {
    "gemma3": ("Gemma3TextConfig", {**_HEAD, "query_pre_attn_scalar": 8, "sliding_window": 32}, "unigram"),
    "olmo3": ("Olmo3Config", _KV, "byte_level"),
    "glm4": ("Glm4Config", _HEAD, "byte_level"),
    "exaone4": ("Exaone4Config", _KV, "byte_level"),
    "granite": ("GraniteConfig", {**_KV, "residual_multiplier": 0.22}, "byte_level"),
    "granitemoe": ("GraniteMoeConfig", {**_KV, "residual_multiplier": 0.22, "num_local_experts": 4}, "byte_level"),
    "apertus": ("ApertusConfig", _KV, "byte_level"),
    "arcee": ("ArceeConfig", _KV, "byte_level"),
    "bitnet": ("BitNetConfig", _KV, "byte_level"),
    "codegen": ("CodeGenConfig", {**_GPT2, "rotary_dim": 4}, "byte_level"),
    "cohere": ("CohereConfig", _KV, "byte_level"),
    "cohere2": ("Cohere2Config", _KV, "byte_level"),
    "ernie4_5": ("Ernie4_5Config", _HEAD, "byte_level"),
    "gemma": ("GemmaConfig", _HEAD, "unigram"),
    "glm": ("GlmConfig", _HEAD, "byte_level"),
    "gpt_bigcode": ("GPTBigCodeConfig", _GPT2, "byte_level"),
    "gpt_oss": ("GptOssConfig", {**_HEAD, "num_local_experts": 4}, "byte_level"),
    "hunyuan": ("HunYuanDenseV1Config", _HEAD, "byte_level"),
    "jais2": ("Jais2Config", _KV, "byte_level"),
    "lfm2": ("Lfm2Config", {**_KV, "layer_types": ["full_attention"] * LAYERS}, "byte_level"),
    "ministral3": ("Ministral3Config", _HEAD, "byte_level"),
    "mixtral": ("MixtralConfig", {**_KV, "num_local_experts": 4}, "byte_level"),
    "mpt": ("MptConfig", {"d_model": WIDTH, "n_heads": HEADS, "n_layers": LAYERS, "max_seq_len": 64}, "byte_level"),
    "nanochat": ("NanoChatConfig", _KV, "byte_level"),
    "nemotron": ("NemotronConfig", _HEAD, "byte_level"),
    "olmo": ("OlmoConfig", _KV, "byte_level"),
    "olmoe": ("OlmoeConfig", {**_KV, "num_experts": 8, "num_experts_per_tok": 2}, "byte_level"),
    "phi": ("PhiConfig", _KV, "byte_level"),
    "qwen2_moe": ("Qwen2MoeConfig", {**_MOE, "shared_expert_intermediate_size": 16}, "byte_level"),
    "qwen3_moe": ("Qwen3MoeConfig", _MOE, "byte_level"),
    "seed_oss": ("SeedOssConfig", _HEAD, "byte_level"),
    "smollm3": ("SmolLM3Config", _KV, "byte_level"),
    "stablelm": ("StableLmConfig", _KV, "byte_level"),
    "starcoder2": ("Starcoder2Config", _KV, "byte_level"),
    "vaultgemma": ("VaultGemmaConfig", _HEAD, "unigram"),
    "xglm": (
        "XGLMConfig",
        {
            "d_model": WIDTH,
            "num_layers": LAYERS,
            "attention_heads": HEADS,
            "ffn_dim": KEYS,
            "max_position_embeddings": 64,
        },
        "byte_level",
    ),
}
BEHIND = ("gemma2", "olmo2", "gemma3", "olmo3", "glm4", "exaone4", "granite")


def build(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny random checkpoint of an architecture, with its tokenizer, into a folder; the folder is returned.

    The global random state is left as it was.
    """
    class_name, settings, family = (ARCHITECTURES | FURTHER)[name]
    tokenizer = TOKENIZERS[family]()
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    settings = {"pad_token_id": None, **settings, **special, "vocab_size": len(tokenizer)}
    config = getattr(transformers, class_name)(**settings)
    auto = transformers.AutoModelForMaskedLM if name == "bert" else transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config)
        with torch.no_grad():  # the usual 0.02 makes every tiny model answer alike: weights a trace can tell apart
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
