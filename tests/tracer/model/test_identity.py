"""Fingerprints: the same on any device, another one for every write wherever it comes from, and those of before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from blake3 import blake3
from torch import Tensor, nn

from editing import Editor, EditRequest
from editing.covariance import estimate_covariance
from editing.covariance.covariance import Covariance
from editing.methods.context import EditContext
from editing.prepared import Prepared
from editing.prepared.identity import tokenizer_hash
from tracer import Fact, Model, TracerError, average_traces
from tracer.model import identity, xxh3
from tracer.model.identity import EARLIER, fingerprint_of

Tiny = Callable[[str], Model]
NAME = "transformer.h.1.mlp.c_fc.weight"
FACTS = [Fact("The Space Needle is in downtown", "The Space Needle"), Fact("Miles Davis plays the", "Miles Davis")]
TEXT = ["The Space Needle is in downtown Seattle. " * 40]


@pytest.fixture
def model(tiny: Tiny) -> Model:
    return tiny("gpt2")


def words(*sizes: int) -> list[tuple[str, Tensor]]:
    """Tensors of these many bytes, of random bits."""
    torch.manual_seed(0)
    return [(f"t{place}", torch.randint(0, 256, (size,), dtype=torch.uint8)) for place, size in enumerate(sizes)]


# --- the arithmetic ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fill", ["random", 0x00, 0xFF, 0x80])
def test_tensor_operations_give_the_library_s_hashes(monkeypatch: pytest.MonkeyPatch, fill: Any) -> None:
    monkeypatch.setattr(xxh3, "PIECE", 2)
    raw = words(3 * xxh3.CHUNK)[0][1]
    if fill != "random":
        raw.fill_(fill)
    expected = b"".join(xxhash.xxh3_128_digest(bytes(part.tolist())) for part in raw.split(xxh3.CHUNK))
    assert xxh3.finished(xxh3.sums_on_device(raw)) == expected == xxh3.digests_on_host(raw)


def test_a_fingerprint_does_not_depend_on_where_the_tensors_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = xxh3.CHUNK
    wide = torch.randn(200, 300)
    named = [
        *words(0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk + 4),
        ("turned", wide.T),
        ("apart", torch.randn(4 * chunk + 3)[3:].view(torch.uint8)[4:]),  # at an odd multiple of four
        ("half", torch.randn(chunk).bfloat16()),
        ("flags", torch.rand(chunk) > 0.5),
        ("number", torch.tensor(3)),
    ]
    here = fingerprint_of(named)
    monkeypatch.setattr(identity, "DEVICES", ("cpu",))
    assert fingerprint_of(named) == here == fingerprint_of(reversed(named))


def test_names_shapes_and_types_count() -> None:
    tensor = torch.randn(6, 4)
    others = [("b", tensor), ("a", tensor.reshape(4, 6)), ("a", tensor.view(torch.int32)), ("a", tensor.T.contiguous())]
    found = {fingerprint_of([pair]) for pair in [("a", tensor), *others]}
    assert len(found) == 5 and all(each.startswith("v2_") for each in found)
    pair = [("a", tensor), ("b", tensor + 1)]
    assert fingerprint_of(pair) != fingerprint_of([("a", tensor + 1), ("b", tensor)])


@pytest.mark.parametrize("place", [0, 1, 7, 8, 15, 255, 256, 4095, 16383, 16384, 20000])
def test_every_change_of_a_bit_is_seen(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """On the host and by tensor operations: a sign, the least bit, and two numbers that changed places."""
    tensor = torch.randn(20001)
    seen = set()
    for where in ((), ("cpu",)):
        monkeypatch.setattr(identity, "DEVICES", where)
        one, least, swapped, signs = tensor.clone(), tensor.clone(), tensor.clone(), tensor.clone()
        one[place] *= -1
        least.view(torch.int32)[place] ^= 1
        swapped[[place, place + 1 if place < 20000 else 3]] = swapped[[place + 1 if place < 20000 else 3, place]]
        signs[[place, 2]] *= -1
        seen |= {fingerprint_of([("a", each)]) for each in (tensor, one, least, swapped, signs)}
    assert len(seen) == 5


# --- writes --------------------------------------------------------------------------------------------------------
def by_data(weight: nn.Parameter, _: nn.Module) -> None:
    weight.data[3, 4] += 1


def by_view(weight: nn.Parameter, _: nn.Module) -> None:
    weight.detach().T[5:6].mul_(2)


def by_optimiser(weight: nn.Parameter, _: nn.Module) -> None:
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=1e-3).step()
    weight.grad = None


def by_numpy(weight: nn.Parameter, _: nn.Module) -> None:
    weight.detach().numpy()[0, 0] = 7


def by_storage(weight: nn.Parameter, _: nn.Module) -> None:
    weight.untyped_storage()[17] ^= 1


def by_another_handle(weight: nn.Parameter, _: nn.Module) -> None:
    raw: Any = weight.detach().numpy()
    torch.frombuffer(memoryview(raw).cast("B"), dtype=torch.uint8)[9] ^= 128


def by_replacement(weight: nn.Parameter, hf: nn.Module) -> None:
    hf.get_submodule(NAME.removesuffix(".weight")).weight = nn.Parameter(-weight.detach())


def of_a_buffer(_: nn.Parameter, hf: nn.Module) -> None:
    hf.register_buffer("extra", torch.ones(1))


WRITES = (by_data, by_view, by_optimiser, by_numpy, by_storage, by_another_handle, by_replacement, of_a_buffer)


@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_seen_whatever_makes_it_and_so_is_its_way_back(
    model: Model, write: Callable[[nn.Parameter, nn.Module], None]
) -> None:
    weight, before, edited = model.hf.get_parameter(NAME), model.fingerprint(), ""
    kept, count = weight.detach().clone(), weight._version
    try:
        write(weight, model.hf)
        edited = model.fingerprint()
        assert edited != before
        if write in (by_data, by_numpy, by_another_handle):
            assert weight._version == count  # torch does not know
    finally:
        model.hf.get_submodule(NAME.removesuffix(".weight")).weight = weight
        weight.data.copy_(kept)
        model.hf._buffers.pop("extra", None)
    assert model.fingerprint() == before


# --- those of earlier versions -------------------------------------------------------------------------------------
def test_the_fingerprint_of_earlier_versions_is_still_taken(model: Model) -> None:
    digest = blake3()
    for name, tensor in sorted({**dict(model.hf.named_parameters()), **dict(model.hf.named_buffers())}.items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    saved = digest.hexdigest()
    assert model.fingerprint(saved) == saved == model.weights_fingerprint(EARLIER) != model.fingerprint()
    pinned = model.pinned()
    assert (pinned.fingerprint(saved), pinned.fingerprint()) == (saved, model.fingerprint())
    assert model.pinned(saved).fingerprint() == saved == model.pinned(saved).pinned().fingerprint()


def test_a_pinned_handle_never_gives_a_hash_of_other_weights(model: Model) -> None:
    pinned, asked, weight = model.pinned(), model.pinned(), model.hf.get_parameter(NAME)
    earlier, kept = asked.fingerprint(EARLIER), weight.detach().clone()
    weight.data[0, 0] += 1
    try:
        assert asked.pinned().fingerprint(EARLIER) == earlier != model.fingerprint(EARLIER)  # asked for before
        with pytest.raises(TracerError, match="changed meanwhile, so that they cannot be compared with 000000000000"):
            pinned.fingerprint(EARLIER)
    finally:
        weight.data.copy_(kept)


def test_a_run_of_traces_goes_on_with_the_kind_it_began_with(model: Model, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"kind": "mlp", "window": 1, "resamples": 20}
    begun = average_traces(model.pinned(EARLIER), FACTS[:1], folder=tmp_path, **settings)
    assert begun.fingerprint == model.fingerprint(EARLIER)
    whole = average_traces(model, FACTS, folder=tmp_path, **settings)
    assert whole.fingerprint == begun.fingerprint and len(list(tmp_path.glob("*.npz"))) == 2


def test_a_covariance_in_the_cache_of_an_earlier_version_is_found(model: Model, tmp_path: Path) -> None:
    given: dict[str, Any] = {"layers": [1], "text": TEXT, "cache": tmp_path}
    former = estimate_covariance(model.pinned(EARLIER), **given)
    assert former.fingerprint == model.fingerprint(EARLIER) and len(list(tmp_path.glob("*.safetensors"))) == 1
    found = estimate_covariance(model, **given)
    assert found.fingerprint == model.fingerprint() and torch.equal(found.matrix(1), former.matrix(1))
    assert {Covariance.load(each).fingerprint for each in tmp_path.glob("*.safetensors")} == {
        found.fingerprint,
        former.fingerprint,
    }


def test_what_was_made_on_the_first_weights_is_known_after_edits(model: Model) -> None:
    """A covariance and a prepared value that note the weights before any edit, by the hash of an earlier version."""
    earlier, before = model.fingerprint(EARLIER), model.fingerprint()
    covariance = replace(estimate_covariance(model, [1], TEXT, cache=False), fingerprint=earlier)
    known = (model.name, tokenizer_hash(model), "", {"a": torch.ones(1)})
    prepared = Prepared("mine", {}, 0, earlier, *known)
    editor = Editor(model)
    covariance.check(model, [1])
    given: dict[str, Any] = {"template_lengths": ((4, 2),), "layers": [1], "damping": 1e-2, "v_steps": 2}
    try:
        for target in (" Rome", " Paris"):
            request = EditRequest("{} is in downtown", "The Space Needle", target)
            editor.edit(request, covariance=covariance, check=None, **given)
        context = replace(editor.context(covariance), prepared=prepared)
        assert context.model.fingerprint() != before == context.origin
        assert context.prepared_for("mine") is prepared
        with pytest.raises(TracerError, match="this was prepared for mine on the weights"):
            EditContext(model, origin=before, prepared=prepared).prepared_for("mine")  # nothing to compare with
    finally:
        editor.reset()
    assert model.fingerprint() == before
