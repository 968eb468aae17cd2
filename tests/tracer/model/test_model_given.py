"""Models that are not plain: handed over in wrappers, made under inference mode, of blocks of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import peft
import pytest
import torch
import transformers
from agreement import KINDS, NOISE, PROMPT, Tiny, agrees, fact, variant
from torch import nn

import editing
from tracer import TracerError, attribute_neurons, attribution_trace, causal_trace
from tracer.engine.hooks import Add, Replace, Site, as_ids, capture, intervene
from tracer.model import Model, load

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
OPT_350M = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "ffn_dim": 64,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 16,
    "do_layer_norm_before": False,
}
OPENAI = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
HYBRID = {
    **SIZES,
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
REQUEST = {"prompt": "{} is in downtown", "subject": "The Space Needle", "target_new": "Paris"}
QUICK: dict[str, dict[str, Any]] = {
    "rome": {"layers": [1], "mom2_adjustment": False, "v_steps": 3, "context_templates": ["{}"]},
    "alphaedit": {"layers": [1], "v_steps": 3, "context_templates": ["{}"]},
    "ft_l": {"layers": [1], "steps": 2},
    "lora": {"layers": [1], "steps": 2},
    "kn": {},
}


def gpt2(kind: type = transformers.GPT2LMHeadModel) -> Any:
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_inner": 64, "n_positions": 64}
    tokenizer = checkpoints.byte_level()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(transformers.GPT2Config(**sizes, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0)).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "settings"), [("OPTConfig", OPT_350M), ("NanoChatConfig", SIZES), ("OpenAIGPTConfig", OPENAI)]
)
def test_without_a_final_norm_of_its_own_or_with_a_narrow_embedding_it_is_traced(
    name: str, settings: dict[str, Any], kind: Any
) -> None:
    model = variant(name, settings)
    agrees(model, fact(model), kind)


@pytest.mark.parametrize("method", ["rome", "alphaedit", "ft_l"])
@pytest.mark.parametrize(
    ("name", "settings"), [("OPTConfig", OPT_350M), ("NanoChatConfig", SIZES), ("OpenAIGPTConfig", OPENAI)]
)
def test_and_edited(name: str, settings: dict[str, Any], method: str) -> None:
    model = variant(name, settings)
    edit = editing.compute_edit(model, REQUEST, method, known="edit", check=None, **QUICK[method])
    assert all(float(change.norm()) > 0 for change in edit.to_dense().values())


def test_values_too_wide_for_every_embedding_are_refused_without_advice_that_fails() -> None:
    model = variant("OPTConfig", OPT_350M)
    for embed in ("embed", "unembed"):
        with pytest.raises(TracerError, match="are 16 wide and its values 32; kn cannot add"):
            editing.compute_edit(model, REQUEST, "kn", known="edit", check=None, embed=embed)


# --- wrappers --------------------------------------------------------------------------------------------------------
def test_a_class_made_from_one_of_transformers_is_known_by_that_one() -> None:
    class Mine(transformers.GPT2LMHeadModel):
        pass

    for architectures in (None, ["GPT2LMHeadModel"], ["Mine"]):
        hf = gpt2(Mine)
        hf.config.architectures = architectures
        model = Model.of(hf, checkpoints.byte_level())
        assert model.hf is hf
        agrees(model, fact(model), "mlp", atol=1e-8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports
def test_a_compiled_module_stands_for_the_one_inside() -> None:
    hf = gpt2()
    model = Model.of(torch.compile(hf), checkpoints.byte_level())  # type: ignore[arg-type]
    assert model.hf is hf
    assert model.down_projection(1).name == "transformer.h.1.mlp.c_proj.weight"
    assert model.fingerprint() == Model.of(hf, model.tokenizer).fingerprint()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # of peft
def test_adapters_that_act_beside_the_weights_are_refused_until_they_are_merged() -> None:
    config = peft.LoraConfig(r=2, target_modules=["c_proj"], fan_in_fan_out=True, init_lora_weights=False)
    wrapped: Any = peft.get_peft_model(gpt2(), config)
    for hf in (wrapped, wrapped.base_model, wrapped.base_model.model):
        with pytest.raises(TracerError, match=r"with adapters of peft .*merge_and_unload"):
            Model.of(hf, checkpoints.byte_level())  # type: ignore[arg-type]
    merged = wrapped.merge_and_unload()
    model = Model.of(merged, checkpoints.byte_level())
    assert model.fingerprint() != Model.of(gpt2(), model.tokenizer).fingerprint()


def test_an_adapter_folder_is_told_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "owner/base"}')
    with pytest.raises(TracerError, match="is an adapter of peft for owner/base, no model; merge it once"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: nn.Linear(2, 2), "is a Linear; expected a language model of transformers"),
        (lambda: nn.DataParallel(gpt2()), "is a DataParallel; .*give the GPT2LMHeadModel inside it"),
        (lambda: Model.of(gpt2(), checkpoints.byte_level()), "is a Model; .*give the GPT2LMHeadModel inside it"),
        (lambda: gpt2(transformers.GPT2Model), "is a GPT2Model, for which there is no map"),
        (lambda: gpt2(transformers.GPT2ForSequenceClassification), "is a GPT2ForSequenceClassification, for which"),
        (lambda: "gpt2", "is a str; expected a language model"),
    ],
)
def test_what_is_no_language_model_is_refused(given: Callable[[], Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        Model.of(given(), checkpoints.byte_level())


def test_a_headless_model_whose_configuration_names_a_whole_one_is_refused() -> None:
    hf = gpt2(transformers.GPT2Model)
    hf.config.architectures = ["GPT2LMHeadModel"]
    with pytest.raises(TracerError, match=r"is a GPT2Model that lacks parts of what .* names, GPT2LMHeadModel"):
        Model.of(hf, checkpoints.byte_level())


# --- inference mode --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", QUICK)
def test_under_inference_mode_an_edit_is_the_same(method: str, tiny_folder: Callable[[str], Path]) -> None:
    hparams = QUICK[method]
    expected = editing.compute_edit(load(tiny_folder("gpt2")), REQUEST, method, known="edit", check=None, **hparams)
    with torch.inference_mode():
        model = load(tiny_folder("gpt2"))
        before = model.fingerprint()
        editor = editing.Editor(model)
        edit = editor.edit([REQUEST], method, known="edit", check=None, **hparams)
        assert model.fingerprint() != before
        editor.undo()
        assert model.fingerprint() == before
    for name, change in expected.to_dense().items():
        torch.testing.assert_close(edit.to_dense()[name], change, rtol=1e-5, atol=1e-7)


def test_under_inference_mode_traces_are_the_same(tiny: Tiny) -> None:
    model = tiny("gpt2")

    def everything() -> list[Any]:
        traced: Any = causal_trace
        followed: Any = attribution_trace
        return [
            traced(model, fact(model), corruption=NOISE).scores,
            followed(model, fact(model), corruption=NOISE).scores,
            attribute_neurons(model, fact(model), 3).scores,
        ]

    expected = everything()
    with torch.inference_mode():
        found = everything()
    for one, other in zip(expected, found, strict=True):
        assert (one == other).all()


def test_weights_made_under_inference_mode_are_named() -> None:
    with torch.inference_mode():
        hf = gpt2()
    model = Model.of(hf, checkpoints.byte_level())
    causal_trace(model, fact(model), corruption=NOISE)  # needs no gradient
    for work in (
        lambda: attribute_neurons(model, fact(model), 3),
        lambda: editing.compute_edit(model, REQUEST, "ft_l", known="edit", layers=[1], steps=2),
    ):
        with pytest.raises(TracerError, match=r"made under torch\.inference_mode.*load the model outside of it"):
            work()


# --- blocks of several kinds, states of several streams --------------------------------------------------------------
def test_a_hybrid_model_is_traced_where_its_sites_are_and_says_where() -> None:
    model = variant("Qwen3NextConfig", HYBRID)
    agrees(model, fact(model), "hidden")
    agrees(model, fact(model), "mlp")
    assert model.path("attn", 1) and model.path("attn", 3)
    for work in (
        lambda: model.path("attn", 0),
        lambda: causal_trace(model, fact(model), kind="attn", corruption=NOISE),
    ):
        with pytest.raises(TracerError, match=r"no site 'attn' .*of several kinds, and layers 1, 3 have it"):
            work()


def test_several_streams_of_states_are_named() -> None:
    model = variant("LlamaConfig", SIZES)
    handle = model.module("hidden", 0).register_forward_hook(
        lambda _, args, output: output[:, :, None].expand(-1, -1, 2, -1)
    )
    try:
        for work in (
            lambda: causal_trace(model, fact(model), corruption=NOISE),
            lambda: capture(model, PROMPT, [Site("hidden", 0)]),
        ):
            with pytest.raises(TracerError, match="LlamaForCausalLM keeps several streams of states"), torch.no_grad():
                work()
    finally:
        handle.remove()


# --- text that is written with a cache -------------------------------------------------------------------------------
def test_interventions_inside_generate_hold_or_say_what_to_do(tiny: Tiny) -> None:
    model = tiny("gpt2")
    ids = as_ids(model, PROMPT)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    value = 3 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    everywhere, last, third = (Add(Site("mlp", 1, token), value) for token in (None, -1, 2))
    with torch.no_grad():
        for item in (everywhere, last):
            with intervene(model, [item]):
                found = model.hf.generate(ids, use_cache=True, **options)  # type: ignore[operator]
            expected = ids
            for step in range(4):
                places = [None] if item is everywhere else list(range(ids.shape[1] - 1, ids.shape[1] + step))
                with intervene(model, [Add(Site("mlp", 1, place), value) for place in places]):
                    logits = model.hf(input_ids=expected).logits[0, -1]
                expected = torch.cat([expected, logits.argmax()[None, None]], 1)
            assert torch.equal(found[:, : expected.shape[1]], expected[:, : found.shape[1]])
        with intervene(model, [third]), pytest.raises(TracerError, match=r"one token per forward: .*use_cache=False"):
            model.hf.generate(ids, use_cache=True, **options)  # type: ignore[operator]
        with intervene(model, [Replace(third.site, value)]):
            model.hf.generate(ids, use_cache=False, **options)  # type: ignore[operator]


@pytest.mark.parametrize("from_disk", [False, True])
def test_a_model_that_should_write_and_reads_both_ways_is_refused(from_disk: bool, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    tokenizer = checkpoints.TOKENIZERS["wordpiece"]()
    hf = transformers.BertLMHeadModel(transformers.BertConfig(**sizes, vocab_size=len(tokenizer))).eval()

    def given() -> Model:
        if not from_disk:
            return Model.of(hf, tokenizer)
        hf.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return load(tmp_path)

    with pytest.raises(TracerError, match=r"BertLMHeadModel with is_decoder=False, .*BertForMaskedLM"):
        given()
    hf.config.is_decoder = True
    assert given().causal
