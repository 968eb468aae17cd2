"""Checkpoints that cannot be used, and hub names without a network: one clear error, nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tracer.errors import TracerError
from tracer.model import load


@pytest.fixture
def variant(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A private copy of a tiny checkpoint, with some of its weights or settings changed."""

    def make(architecture: str, weights: Callable[[dict], object] | None = None, **config: object) -> Path:
        folder = tmp_path / architecture
        shutil.copytree(tiny_folder(architecture), folder)
        if weights:
            tensors = load_file(folder / "model.safetensors")
            weights(tensors)
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        if config:
            raw = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**raw, **config}))
        return folder

    return make


# --- bad checkpoints -----------------------------------------------------------------------------------------------
UP = "model.layers.1.mlp.up_proj.weight"
BAD_WEIGHTS: dict[str, tuple[Callable[[dict], object], str]] = {
    "missing": (lambda w: w.pop(UP), rf"lacks weights.*{UP}"),
    "untied head missing": (lambda w: w.pop("lm_head.weight"), r"lacks weights.*lm_head\.weight"),
    "shape": (lambda w: w.update({UP: torch.zeros(3, 3)}), rf"{UP}.*\(3, 3\).*\(64, 32\)"),
    "nan": (lambda w: w[UP].__setitem__((0, 0), float("nan")), rf"{UP}.*not finite"),
    "infinite": (lambda w: w[UP].__setitem__((0, 0), float("-inf")), rf"{UP}.*not finite"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights(case: str, variant: Callable) -> None:
    change, message = BAD_WEIGHTS[case]
    with pytest.raises(TracerError, match=message):
        load(variant("llama", change))


def test_offloaded_weights_are_checked_too(variant: Callable) -> None:
    folder = variant("gpt2", lambda w: w["transformer.h.3.mlp.c_fc.weight"].__setitem__((0, 0), float("nan")))
    offloaded = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.h": "disk", "transformer.ln_f": "cpu"}
    with pytest.raises(TracerError, match=r"transformer\.h\.3\.mlp\.c_fc\.weight.*NaN"):
        load(folder, device_map={**offloaded, "lm_head": "cpu"})


def test_a_tied_head_is_not_missing(variant: Callable) -> None:
    assert "lm_head.weight" not in load_file(variant("gpt2") / "model.safetensors")


def test_fewer_layers_than_weights_warns(variant: Callable) -> None:
    with pytest.warns(UserWarning, match=r"no place for.*model\.layers\.3\."):
        load(variant("llama", num_hidden_layers=3))


BAD_CONFIGS: dict[str, tuple[dict, str]] = {
    "more layers": ({"num_hidden_layers": 5}, r"lacks weights.*model\.layers\.4\."),
    "other width": ({"hidden_size": 16}, r"shape"),
    "impossible": ({"num_attention_heads": 5}, r"config\.json.*cannot be used"),
    "unknown type": ({"model_type": "zebra"}, r"model type 'zebra'.*expected a type such as gpt2"),
    "own code": ({"model_type": "zebra", "auto_map": {"AutoConfig": "evil.Config"}}, r"code.*never run"),
    "encoder-decoder": (
        {"model_type": "pegasus", "architectures": ["PegasusForConditionalGeneration"]},
        r"no map.*GPT2LMHeadModel",
    ),
    "classifier": ({"model_type": "vit", "architectures": ["ViTForImageClassification"]}, r"no map.*LlamaForCausalLM"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configs(case: str, variant: Callable) -> None:
    change, message = BAD_CONFIGS[case]
    with pytest.raises(TracerError, match=message):
        load(variant("llama", **change))


def _drop(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _index(folder: Path) -> None:
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (_drop("config.json"), r"no config\.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), r"config\.json is not readable JSON"),
    "no object": (lambda f: (f / "config.json").write_text("[]"), r"should hold a JSON object"),
    "no weights": (_drop("model.safetensors"), r"no weights: expected model\.safetensors"),
    "pickled": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        r"pytorch_model\.bin.*save_pretrained",
    ),
    "cut short": (_cut, r"model\.safetensors is no valid safetensors file.*fetch or save it again"),
    "not safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"hello"), r"no valid safetensors"),
    "shard missing": (_index, r"lacks model-00002-of-00002\.safetensors"),
    "no tokenizer": (_drop("tokenizer.json", "tokenizer_config.json"), r"no tokenizer; put"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), r"tokenizer of .* cannot be read"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folders(case: str, variant: Callable) -> None:
    change, message = BAD_FOLDERS[case]
    folder = variant("llama")
    change(folder)
    left = sorted(folder.iterdir())
    with pytest.raises(TracerError, match=message):
        load(folder)
    assert sorted(folder.iterdir()) == left  # nothing left behind


def test_pickled_weights_beside_safetensors_are_not_read(variant: Callable, tiny: Callable) -> None:
    folder = variant("llama")
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert load(folder).fingerprint() == tiny("llama").fingerprint()


def test_sharded_checkpoint(tmp_path: Path, tiny: Callable) -> None:
    tiny("llama").hf.save_pretrained(tmp_path, max_shard_size="40KB")
    tiny("llama").tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert load(tmp_path).fingerprint() == tiny("llama").fingerprint()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "name is empty"),
        (3, "got int"),
        ("./nowhere", "no folder './nowhere'"),
        (Path("nowhere"), "no folder 'nowhere'"),
        ("no such model", "no folder 'no such model'"),
        ("a/b/c", "no folder 'a/b/c'"),
        (__file__, "is a file"),
    ],
)
def test_bad_names(name: object, message: str) -> None:
    with pytest.raises(TracerError, match=message):
        load(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cellar"}, "device 'cellar' cannot be used"),
        ({"dtype": "int8"}, "dtype 'int8'.*'float32'"),
        ({"dtype": "float33"}, "dtype 'float33'"),
        ({"dtype": 3}, "dtype 3"),
        ({"device": "cpu", "device_map": "auto"}, "give one of them"),
        ({"device_map": {"": "cellar"}}, "cannot be loaded"),
    ],
)
def test_bad_options(options: dict, message: str, tiny_folder: Callable) -> None:
    with pytest.raises(TracerError, match=message):
        load(tiny_folder("llama"), **options)


# --- the hub, without a network ------------------------------------------------------------------------------------
@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a hub that fails the test when it is asked."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def _put_in_cache(cache: Path, folder: Path, name: str) -> Path:
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    return repository / "snapshots" / ("0" * 40)


def test_cached_hub_model_needs_no_network(cache: Path, tiny_folder: Callable, tiny: Callable) -> None:
    _put_in_cache(cache, tiny_folder("gpt2"), "someone/tiny")
    model = load("someone/tiny")
    assert model.name == model.hf.config._name_or_path == model.hf.name_or_path == "someone/tiny"
    assert model.fingerprint() == tiny("gpt2").fingerprint()
    with pytest.raises(TracerError, match=r"at revision 'other' is neither.*--revision other"):
        load("someone/tiny", revision="other")


def test_no_network_names_the_cache(cache: Path, tiny_folder: Callable) -> None:
    with pytest.raises(TracerError, match=rf"(?s)hub cannot be reached.*hf download gpt2.*{cache}.*HF_HOME"):
        load("gpt2")
    snapshot = _put_in_cache(cache, tiny_folder("gpt2"), "someone/part")
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer_config.json").unlink()
    with pytest.raises(TracerError, match=r"cached copy of 'someone/part'.*lacks.*tokenizer.*hf download someone/part"):
        load("someone/part")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepositoryNotFoundError", "unknown model 'someone/else'"),
        ("GatedRepoError", "'someone/else' is gated"),
        ("RevisionNotFoundError", "no revision 'v9'"),
    ],
)
def test_the_hub_says_no(error: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*args: object, local_files_only: bool = False, **options: object) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not cached")
        request = SimpleNamespace(url="https://hub", method="GET", headers={})
        response = SimpleNamespace(request=request, headers={}, status_code=404, text="", content=b"")
        raise getattr(errors, error)("no", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(TracerError, match=message):
        load("someone/else", revision="v9")


def test_a_hub_model_with_pickled_weights_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.errors

    asked: list[dict] = []

    def fetch(*args: object, **options: object) -> str:
        if options.get("local_files_only"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        asked.append(options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(TracerError, match=r"offers no safetensors weights.*save_pretrained"):
        load("someone/old")
    assert not any(str(pattern).endswith((".bin", ".py")) for pattern in asked[-1]["allow_patterns"])  # type: ignore[union-attr]
