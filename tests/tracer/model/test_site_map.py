"""A map of sites written by hand: for an architecture that TransformerLens does not know, and beside its own map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from agreement import KINDS, agrees, fact
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import editing
from tracer import Model, SiteMap, TracerError, load
from tracer.errors import SiteError, UnknownArchitecture
from tracer.model.architecture import LAYER_SITES, MODEL_SITES

Tiny = Callable[[str], Model]
OF_BLOCKS = [site for site in LAYER_SITES if site != "cross"]
SITES = [*((site, layer) for site in OF_BLOCKS for layer in range(4)), *((site, None) for site in MODEL_SITES)]
GPT2 = SiteMap(
    blocks="transformer.h",
    attn="attn",
    mlp="mlp",
    mlp_in="mlp.c_fc",
    mlp_out="mlp.c_proj",
    embed="transformer.wte",
    ln_final="transformer.ln_f",
    unembed="lm_head",
)
OPT = SiteMap(
    blocks="model.decoder.layers",
    attn="self_attn",
    mlp="fc2",
    mlp_in="fc1",
    mlp_out="fc2",
    embed="model.decoder.embed_tokens",
    ln_final="model.decoder.final_layer_norm",
    unembed="lm_head",
)
GEMMA2 = SiteMap(
    blocks="model.layers",
    attn="self_attn",
    mlp="mlp",
    mlp_in="mlp.gate_proj",
    mlp_out="mlp.down_proj",
    ln1_post="post_attention_layernorm",
    ln2_post="post_feedforward_layernorm",
    embed="model.embed_tokens",
    ln_final="model.norm",
    unembed="lm_head",
)
NEOX = SiteMap(
    blocks="gpt_neox.layers",
    attn="attention",
    mlp="mlp",
    mlp_in="mlp.dense_h_to_4h",
    mlp_out="mlp.dense_4h_to_h",
    embed="gpt_neox.embed_in",
    ln_final="gpt_neox.final_layer_norm",
    unembed="lm_head",
    parallel=True,
)
KNOWN = {"gpt2": GPT2, "opt": OPT, "gemma2": GEMMA2, "neox": NEOX}


# --- an architecture of nobody's -------------------------------------------------------------------------------------
class PebbleConfig(PretrainedConfig):
    model_type = "pebble"

    def __init__(self, width: int = 32, depth: int = 4, vocab_size: int = 320, **more: Any) -> None:
        self.width, self.depth, self.vocab_size, self.max_position_embeddings = width, depth, vocab_size, 64
        super().__init__(**more)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.back = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4)
        return self.back(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Stone(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.look, self.norm1, self.norm2 = Attention(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.think = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.look(self.norm1(x))
        return x + self.think(self.norm2(x))


class PebbleForCausalLM(PreTrainedModel):
    config_class = PebbleConfig

    def __init__(self, config: PebbleConfig) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.places = nn.Embedding(config.max_position_embeddings, config.width)
        self.stones = nn.ModuleList(Stone(config.width) for _ in range(config.depth))
        self.last, self.out = nn.LayerNorm(config.width), nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor, **_: Any) -> CausalLMOutput:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        for stone in self.stones:
            x = stone(x)
        return CausalLMOutput(logits=self.out(self.last(x)))  # type: ignore[arg-type]


PEBBLE = SiteMap(
    blocks="stones",
    attn="look",
    mlp="think",
    mlp_in="think.0",
    mlp_out="think.2",
    embed="words",
    ln_final="last",
    unembed="out",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint of it. Its classes are known to transformers meanwhile, as a package of its own makes them."""
    AutoConfig.register("pebble", PebbleConfig)
    AutoModelForCausalLM.register(PebbleConfig, PebbleForCausalLM)
    place, tokenizer = tmp_path_factory.mktemp("pebble") / "pebble", checkpoints.byte_level()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PebbleForCausalLM(PebbleConfig(vocab_size=len(tokenizer)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
    model.eval().save_pretrained(place)
    tokenizer.save_pretrained(place)
    yield place
    CONFIG_MAPPING._extra_content.pop("pebble")
    MODEL_FOR_CAUSAL_LM_MAPPING._extra_content.pop(PebbleConfig)


@pytest.fixture
def pebble(folder: Path) -> Model:
    return load(folder, sites=PEBBLE)


def test_it_is_refused_without_a_map_and_loaded_with_one(folder: Path, pebble: Model) -> None:
    with pytest.raises(UnknownArchitecture, match=r"PebbleForCausalLM, for which .* sites=tracer\.SiteMap"):
        load(folder)
    assert (pebble.n_layers, pebble.d_model, pebble.d_mlp, pebble.n_ctx) == (4, 32, 64, 64)
    assert pebble.causal and not pebble.parallel
    assert pebble.path("key", 2) == pebble.path("value", 2) == "stones.2.think.2"
    assert pebble.module("pre", 1) is pebble.hf.get_submodule("stones.1.think.0")
    with pytest.raises(UnknownArchitecture, match="no bridge"):
        pebble.bridge()


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_of_it_equals_the_loop(kind: Any, pebble: Model) -> None:
    agrees(pebble, fact(pebble), kind)


def said(model: Model, request: editing.EditRequest) -> float:
    """Probability of the target's first token."""
    found = request.fact.align(model)
    with torch.no_grad():
        return float(model.hf(torch.tensor([found.input_ids])).logits[0, -1].softmax(-1)[found.target_ids[0]])


def test_an_edit_of_it_is_made_and_undone(pebble: Model) -> None:
    before, bits = pebble.fingerprint(), {name: p.clone() for name, p in pebble.hf.named_parameters()}
    request = editing.EditRequest("{} is in downtown", "The Space Needle", " Paris")
    likely, editor = said(pebble, request), editing.Editor(pebble)
    covariance = editing.estimate_covariance(pebble, 1, list(checkpoints.SENTENCES), cache=False)
    edit = editor.edit(request, "rome", layers=1, covariance=covariance, known="edit", check=None)
    assert edit.weights == ("stones.1.think.2.weight",) and edit.rank() == {"stones.1.think.2.weight": 1}
    assert said(pebble, request) > 2 * likely
    changed = [name for name, p in pebble.hf.named_parameters() if not torch.equal(p, bits[name])]
    assert changed == ["stones.1.think.2.weight"]
    editor.undo()
    assert pebble.fingerprint() == before
    assert all(torch.equal(p, bits[name]) for name, p in pebble.hf.named_parameters())


def test_a_model_that_is_held_takes_a_map(pebble: Model) -> None:
    with pytest.raises(UnknownArchitecture, match="for which there is no map"):
        Model.of(pebble.hf, pebble.tokenizer)
    held = Model.of(pebble.hf, pebble.tokenizer, sites=PEBBLE)
    assert held.hf is pebble.hf and held.path("attn", 3) == "stones.3.look"


# --- beside the map that is known ------------------------------------------------------------------------------------
@pytest.mark.parametrize("architecture", KNOWN)
def test_it_says_what_the_adapter_says(architecture: str, tiny: Tiny) -> None:
    known = tiny(architecture)
    model = Model.of(known.hf, known.tokenizer, sites=KNOWN[architecture])
    assert {at: model.path(*at) for at in SITES} == {at: known.path(*at) for at in SITES}
    for one in (model, known):
        with pytest.raises(TracerError, match="has no site 'cross'"):
            one.path("cross", 0)
    sizes = ("n_layers", "d_model", "d_mlp", "d_embed", "n_tokens", "n_ctx", "parallel", "causal")
    assert [getattr(model, size) for size in sizes] == [getattr(known, size) for size in sizes]
    assert model.down_projection(1).orientation == known.down_projection(1).orientation


# --- wrong maps ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"blocks": "transformer.layers"},
            r"blocks='transformer.layers', but GPT2LMHeadModel has no module",
        ),
        ({"blocks": "transformer.wte"}, "blocks='transformer.wte' .* is a Embedding; expected the ModuleList"),
        ({"embed": "wte"}, "embed='wte', but"),
        ({"ln_final": "ln_f"}, "ln_final='ln_f', but"),
        ({"unembed": "head"}, "unembed='head', but"),
        ({"attn": "attention"}, r"attn='attention', but no block of transformer.h has .* has ln_1, attn"),
        ({"mlp": "transformer.h.0.mlp"}, "mlp='transformer.h.0.mlp', but no block"),
        ({"mlp_out": "mlp.out"}, "mlp_out='mlp.out', but no block"),
        ({"mlp_out": "mlp.act"}, "transformer.h.0.mlp.act is a NewGELUActivation; a Conv1D or Linear was expected"),
        ({"mlp_in": "mlp.up"}, "mlp_in='mlp.up', but no block"),
        ({"ln1_post": "norm"}, "ln1_post='norm', but no block"),
        ({"ln2_post": "norm"}, "ln2_post='norm', but no block"),
    ],
)
def test_a_path_that_is_none_is_named(wrong: dict[str, str], message: str, tiny: Tiny) -> None:
    model = tiny("gpt2")
    with pytest.raises(UnknownArchitecture, match=message):
        Model.of(model.hf, model.tokenizer, sites=replace(GPT2, **wrong))  # type: ignore[arg-type]


def test_a_path_that_is_none_is_named_on_loading(folder: Path) -> None:
    with pytest.raises(UnknownArchitecture, match="mlp='mlp', but no block of stones has"):
        load(folder, sites=replace(PEBBLE, mlp="mlp"))


def test_what_a_map_leaves_out_is_said(pebble: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    less = Model.of(pebble.hf, pebble.tokenizer, sites=replace(PEBBLE, mlp_in=None, n_ctx=9))
    assert less.n_ctx == 9
    with pytest.raises(SiteError, match=r"no site 'pre' .*the SiteMap has no mlp_in"):
        less.path("pre", 0)
    monkeypatch.delattr(pebble.hf.config, "max_position_embeddings")
    with pytest.raises(TracerError, match=r"no max_position_embeddings; say in the SiteMap .* n_ctx="):
        Model.of(pebble.hf, pebble.tokenizer, sites=PEBBLE)
