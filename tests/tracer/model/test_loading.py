"""Loading: quick, by one path, nothing changed in the process; types, several devices, and a model left alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest
import torch
from recorded import LAYER_SITES, prompt_ids, record

from tracer.errors import TracerError
from tracer.model import Model, find, load


# --- the embedded and the golden model -----------------------------------------------------------------------------
def test_warm_load_is_quick(golden: Path, golden_model: Model) -> None:
    start = time.perf_counter()
    again = load(golden / "model")
    assert time.perf_counter() - start < 2  # about 0.05 s here
    assert again.fingerprint() == golden_model.fingerprint()


def test_embedded_model_loads_through_the_same_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(find, "__file__", str(tmp_path / "tracer" / "model" / "find.py"))
    with pytest.raises(TracerError, match=r"reinstall the package"):
        load()
    checkpoints.build("gpt2", tmp_path / "tracer" / "factworld" / "data" / "model")
    assert load().name == "factworld"


def test_loading_leaves_the_process_as_it_was(tiny_folder: Callable[[str], Path]) -> None:
    from transformers.utils import logging

    def state() -> tuple:
        hook = logging.set_tqdm_hook(None)  # it can only be asked by setting it
        logging.set_tqdm_hook(hook)
        return (
            torch.random.get_rng_state().tolist(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            logging.get_verbosity(),
            logging.is_progress_bar_enabled(),
            hook,
        )

    kept = state()
    try:
        for bars, verbosity in ((True, 20), (False, 30)):
            (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
            logging.set_verbosity(verbosity)
            before = state()
            model = load(tiny_folder("gpt2"), dtype="bfloat16")
            assert state() == before
            with pytest.raises(TracerError):
                load(tiny_folder("gpt2"), device_map={"": "cellar"})
            assert state() == before
    finally:
        logging.set_verbosity(kept[-3])
        (logging.enable_progress_bar if kept[-2] else logging.disable_progress_bar)()
    assert model.dtype == torch.bfloat16
    assert all(parameter.requires_grad for parameter in model.hf.parameters())


def test_importing_and_loading_print_nothing_and_draw_nothing(tiny_folder: Callable[[str], Path]) -> None:
    code = (
        "import torch; before = torch.random.get_rng_state()\n"
        "from tracer.model import load\n"
        f"load({str(tiny_folder('gpt2'))!r})\n"
        "assert torch.equal(before, torch.random.get_rng_state()) and torch.is_grad_enabled()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_dtype_auto_is_as_stored(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    load(tiny_folder("gpt2"), dtype=torch.float16).hf.save_pretrained(tmp_path)
    shutil.copy(tiny_folder("gpt2") / "tokenizer.json", tmp_path)
    assert load(tmp_path, dtype="auto").dtype == torch.float16
    assert load(tmp_path).dtype == torch.float32  # the CPU's default


def test_fingerprint_sees_one_bit(tiny_folder: Callable[[str], Path]) -> None:
    one, two = load(tiny_folder("gpt2")), load(tiny_folder("gpt2"))
    assert one.fingerprint() == two.fingerprint()
    weight = two.down_projection(3).weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[1, 2] = torch.nextafter(weight[1, 2], torch.tensor(9.0))
    assert one.fingerprint() != two.fingerprint()
    with torch.no_grad():
        weight.copy_(kept)
    assert one.fingerprint() == two.fingerprint()


def test_model_is_read_only(tiny: Callable) -> None:
    with pytest.raises(AttributeError):
        tiny("gpt2").name = "other"
    with pytest.raises(AttributeError):
        tiny("gpt2").n_layers = 3
    assert repr(tiny("gpt2")).startswith("Model(name=")
    assert len(repr(tiny("gpt2"))) < 200


def test_bridge_leaves_the_model_alone(tiny: Callable) -> None:
    model = tiny("gpt2")
    before, names = model.fingerprint(), [name for name, _ in model.hf.named_modules()]
    ids = prompt_ids(model)
    bridge = model.bridge()
    with torch.no_grad():
        torch.testing.assert_close(bridge(ids), model.hf(ids).logits, atol=1e-5, rtol=1e-5)
    assert model.fingerprint() == before
    assert [name for name, _ in model.hf.named_modules()] == names


# --- more than one device ------------------------------------------------------------------------------------------
OFFLOADED = {
    "transformer.wte": "cpu",
    "transformer.wpe": "cpu",
    "transformer.h.0": "cpu",
    "transformer.h.1": "cpu",
    "transformer.h.2": "disk",
    "transformer.h.3": "disk",
    "transformer.ln_f": "cpu",
    "lm_head": "cpu",
}


@pytest.mark.parametrize("device_map", [OFFLOADED, {**OFFLOADED, "transformer.wte": "disk", "lm_head": "disk"}, "auto"])
def test_split_model_equals_the_whole_one(device_map: dict | str, tiny_folder: Callable, tiny: Callable) -> None:
    whole, split = tiny("gpt2"), load(tiny_folder("gpt2"), device_map=device_map)
    if device_map != "auto":
        assert split.down_projection(3).weight.device.type == "meta"  # it is offloaded, not just named so
    ids = prompt_ids(whole)
    sites = {f"{site}.{layer}": (site, layer) for site in LAYER_SITES for layer in range(4)}
    a = record({name: whole.module(*site) for name, site in sites.items()}, whole.hf, ids)
    b = record({name: split.module(*site) for name, site in sites.items()}, split.hf, ids)
    for name in sites:
        assert torch.equal(a[name][0], b[name][0]) and torch.equal(a[name][1], b[name][1]), name
    assert split.fingerprint() == whole.fingerprint()
    assert (split.device, split.dtype, split.d_mlp) == (whole.device, whole.dtype, whole.d_mlp)


def test_a_pinned_handle_is_the_same_model_hashed_once(tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("gpt2"))
    pinned = model.pinned()
    assert pinned.hf is model.hf
    assert (pinned.name, pinned.n_layers, pinned.d_mlp) == (model.name, model.n_layers, model.d_mlp)
    assert pinned.fingerprint() == model.fingerprint()
    with torch.no_grad():
        model.down_projection(0).weight[0, 0] += 1
    assert pinned.fingerprint() != model.fingerprint()
