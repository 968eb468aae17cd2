"""Every architecture: it answers as plain transformers does, every site is the right module, errors say what."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
import transformers
from agreement import variant
from recorded import LAYER_SITES, prompt_ids, record
from torch import nn
from transformers.activations import ACT2FN

from tracer.engine.hooks import Add, Replace, Site, capture, intervene
from tracer.errors import TracerError
from tracer.facts.fact import Fact
from tracer.model import Model, checkpoint, load

ARCHITECTURES = tuple(checkpoints.ARCHITECTURES)
GATED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "olmo2")


# --- every architecture --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_equal_plain_transformers(architecture: str, tiny: Callable, tiny_folder: Callable) -> None:
    model = tiny(architecture)
    auto = transformers.AutoModelForMaskedLM if architecture == "bert" else transformers.AutoModelForCausalLM
    plain = auto.from_pretrained(tiny_folder(architecture)).eval()
    ids = prompt_ids(model)
    with torch.no_grad():
        ours, theirs = model.hf(ids).logits, plain(ids).logits
    assert torch.equal(ours, theirs)
    assert ours.std() > 0.1  # not a model that answers alike everywhere
    assert type(model.hf) is type(plain)
    assert not model.hf.training


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes(architecture: str, tiny: Callable) -> None:
    model = tiny(architecture)
    keys = 4 * checkpoints.WIDTH if architecture == "bloom" else checkpoints.KEYS  # BLOOM's is not to be chosen
    assert (model.n_layers, model.d_model, model.d_mlp) == (checkpoints.LAYERS, checkpoints.WIDTH, keys)
    assert model.n_ctx == (2048 if architecture == "bloom" else 64)  # BLOOM has no limit of its own
    assert model.causal == (architecture != "bert")
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert len(model.hf.get_submodule(model.path("hidden", 0).rpartition(".")[0])) == model.n_layers  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_has_its_own_sites(architecture: str, tiny: Callable) -> None:
    model = tiny(architecture)
    for site in (*LAYER_SITES, *(() if architecture == "phi3" else ("pre",))):
        assert len({id(model.module(site, layer)) for layer in range(model.n_layers)}) == model.n_layers
        assert dict(model.hf.named_modules())[model.path(site, 2)] is model.module(site, 2)
    assert model.module("mlp", np.int64(2)) is model.module("mlp", 2)  # as a peak or an index array gives it
    assert model.module("embed") is model.hf.get_input_embeddings()
    assert model.module("unembed") is model.hf.get_output_embeddings()
    assert isinstance(model.module("final_norm"), nn.Module)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *checkpoints.FURTHER])
def test_contributions_add_up_to_the_block(architecture: str, tiny: Callable) -> None:
    """Input + attention + MLP = output, through the norms and multipliers that some architectures put behind either."""
    model = tiny(architecture)
    sites = {kind: Site(kind, 2) for kind in ("hidden", "attn", "mlp")}
    found = capture(model, prompt_ids(model), [*sites.values(), Site("hidden", 1)])
    attn, mlp, before = found[sites["attn"]], found[sites["mlp"]], found[Site("hidden", 1)]
    total = before + attn + mlp
    if architecture == "bert":  # a norm behind the sum
        block = model.module("hidden", 2)
        middle = block.get_submodule("attention.output.LayerNorm")(before + attn)
        total = block.get_submodule("output.LayerNorm")(middle + mlp)
    assert min(attn.norm(), mlp.norm()) > 0.01 * before.norm()
    assert (total - found[sites["hidden"]]).norm() < 1e-5 * (found[sites["hidden"]] - before).norm()


@pytest.mark.parametrize("architecture", [*checkpoints.BEHIND, "gpt2", "opt", "bloom"])
@pytest.mark.parametrize("kind", ["attn", "mlp"])
def test_what_is_added_to_a_contribution_arrives(architecture: str, kind: str, tiny: Callable) -> None:
    model = tiny(architecture)
    ids, hidden = prompt_ids(model), Site("hidden", 2, -1)
    more = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    before = capture(model, ids, [hidden])[hidden]
    with intervene(model, [Add(Site("mlp", 2, -1), more)]):
        after = capture(model, ids, [hidden])[hidden]
    torch.testing.assert_close((after - before)[0], more, atol=1e-5, rtol=1e-5)
    own = Site(kind, 2, -1)
    with intervene(model, [Replace(own, more)]):
        found = capture(model, ids, [own, hidden])
    torch.testing.assert_close(found[own][0], more, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_key_times_weight_is_value(architecture: str, tiny: Callable) -> None:
    model = tiny(architecture)
    found = model.down_projection(1)
    key, value = record({"key": model.module("key", 1)}, model.hf, prompt_ids(model))["key"]
    assert key.shape[-1] == model.d_mlp
    assert found.weight is dict(model.hf.named_parameters())[found.name]
    bias = getattr(model.module("key", 1), "bias", None)
    with torch.no_grad():
        product = key @ (found.weight if found.orientation == "in_out" else found.weight.T)
        product = product if bias is None else product + bias
    torch.testing.assert_close(product, value, atol=1e-6, rtol=1e-6)
    assert found.orientation == ("in_out" if architecture == "gpt2" else "out_in")


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "phi3"])
def test_key_is_the_activation_of_pre(architecture: str, tiny: Callable) -> None:
    model = tiny(architecture)
    config = model.hf.config
    named = ("activation_function", "hidden_activation", "hidden_act", "activation")  # BLOOM's is not to be chosen
    activation = ACT2FN[next((getattr(config, n) for n in named if hasattr(config, n)), "gelu")]
    sites = {site: model.module(site, 2) for site in ("pre", "key")}
    if architecture in GATED:
        sites["up"] = model.module("mlp_input", 2).get_submodule("up_proj")
    seen = record(sites, model.hf, prompt_ids(model))
    (_, pre), (key, _) = seen["pre"], seen["key"]
    assert pre.shape == key.shape
    expected = activation(pre) * seen["up"][1] if architecture in GATED else activation(pre)
    torch.testing.assert_close(key, expected, atol=1e-3 if architecture == "bloom" else 1e-6, rtol=1e-5)
    assert pre.abs().max() > 0.5  # where the activation function is not a straight line


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parallel_says_whether_the_mlp_sees_the_attention(architecture: str, tiny: Callable) -> None:
    model = tiny(architecture)
    keys = {"key": model.module("key", 1)}
    clean = record(keys, model.hf, prompt_ids(model))["key"][0]

    # one coordinate would do, but a shift of all of them is invisible behind a LayerNorm: scale it by a ramp
    ramp = torch.linspace(0, 1, model.d_model)

    def bend(module: nn.Module, args: tuple, output: object) -> object:
        return (output[0] + ramp, *output[1:]) if isinstance(output, tuple) else output + ramp  # type: ignore[operator]

    handle = model.module("attn", 1).register_forward_hook(bend)
    try:
        bent = record(keys, model.hf, prompt_ids(model))["key"][0]
    finally:
        handle.remove()
    assert torch.equal(clean, bent) == model.parallel
    assert model.parallel == (architecture in {"gptj", "neox", "falcon", "falcon_new"})


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_orientation_of_a_square_weight(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_name, settings, family = checkpoints.ARCHITECTURES[architecture]
    square = {**settings, "n_inner" if architecture == "gpt2" else "intermediate_size": checkpoints.WIDTH}
    monkeypatch.setitem(checkpoints.ARCHITECTURES, architecture, (class_name, square, family))
    model = load(checkpoints.build(architecture, tmp_path))
    assert model.down_projection(0).weight.shape == (checkpoints.WIDTH, checkpoints.WIDTH)
    test_key_times_weight_is_value(architecture, lambda _: model)


def test_sites_of_full_size_gpt2_are_its_modules() -> None:
    """GPT-2 small at full size: each site equals hooks put straight on the modules, named by hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    model = Model.of(hf, checkpoints.byte_level(), "gpt2-random")
    assert (model.n_layers, model.d_model, model.d_mlp, model.n_ctx) == (12, 768, 3072, 1024)
    ids = torch.tensor([[464, 4687, 10664, 293, 318, 287, 9436]])
    ours = {f"{site}.{layer}": model.module(site, layer) for site in (*LAYER_SITES, "pre") for layer in range(12)}
    ours |= {site: model.module(site) for site in ("embed", "final_norm", "unembed")}
    by_hand: dict[str, Any] = {}
    block: Any
    for layer, block in enumerate(hf.transformer.h):
        by_hand |= {f"hidden.{layer}": block, f"attn.{layer}": block.attn, f"mlp.{layer}": block.mlp}
        by_hand |= {f"key.{layer}": block.mlp.c_proj, f"pre.{layer}": block.mlp.c_fc}
    by_hand |= {"embed": hf.transformer.wte, "final_norm": hf.transformer.ln_f, "unembed": hf.lm_head}
    assert ours.keys() == by_hand.keys()
    captured, expected = record(ours, hf, ids), record(by_hand, hf, ids)
    for site in by_hand:
        assert all(torch.equal(a, b) for a, b in zip(captured[site], expected[site], strict=True)), site
    assert captured["key.3"][0].shape == (1, 7, 3072)
    assert model.down_projection(5).name == "transformer.h.5.mlp.c_proj.weight"


def test_real_gpt2_knows_the_space_needle() -> None:
    named = os.environ.get("TRACER_GPT2")
    if not named:
        from huggingface_hub import snapshot_download

        try:
            named = snapshot_download("gpt2", local_files_only=True)
            checkpoint.check_files(Path(named), "gpt2")
        except (OSError, TracerError):
            pytest.skip("gpt2 is not in the local cache and TRACER_GPT2 names no folder")
    model = load(named)
    found = Fact("The Space Needle is in downtown", "The Space Needle", "Seattle").align(model)
    assert found.input_ids == (464, 4687, 10664, 293, 318, 287, 9436)
    assert found.subject_range == (0, 4)
    with torch.no_grad():
        logits = model.hf(torch.tensor([found.input_ids])).logits[0, -1]
    assert model.tokenizer.decode(logits.argmax()) == " Seattle"
    assert found.target_ids == (int(logits.argmax()),)


# --- bad sites -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("site", "layer", "message"),
    [
        ("mpl", 0, "site 'mpl'; the sites are hidden, attn, cross, mlp, key, value, pre, mlp_input, mlp_in, entering"),
        ("mlp", 4, "layer from 0 to 3, got 4"),
        ("mlp", -1, "layer from 0 to 3, got -1"),
        ("mlp", None, "layer from 0 to 3, got None"),
        ("mlp", True, "layer from 0 to 3, got True"),
        ("embed", 1, "once per model"),
    ],
)
def test_bad_sites(site: str, layer: int | None, message: str, tiny: Callable) -> None:
    with pytest.raises(TracerError, match=message):
        tiny("gpt2").module(site, layer)


def test_a_site_the_architecture_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_name, settings, family = checkpoints.ARCHITECTURES["opt"]
    late = {**settings, "do_layer_norm_before": False}  # no norm at the end
    monkeypatch.setitem(checkpoints.ARCHITECTURES, "opt", (class_name, late, family))
    model = load(checkpoints.build("opt", tmp_path))
    with pytest.raises(TracerError, match="OPTForCausalLM has no site 'final_norm'"):
        model.module("final_norm")


def test_activations_inside_an_mlp_that_has_none_to_see(tiny: Callable) -> None:
    with pytest.raises(TracerError, match=r"Phi3ForCausalLM has no site 'pre'.*may be one.*use site 'key'"):
        tiny("phi3").module("pre", 0)
    experts = variant("MixtralConfig", {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4})
    for site in ("key", "pre"):
        with pytest.raises(TracerError, match=rf"MixtralForCausalLM has no site '{site}'.*experts.*use site"):
            experts.module(site, 0)
