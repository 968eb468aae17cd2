"""An edit as a value: sizes without dense matrices, sums and multiples, and the way to disk and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from handmade import REQUEST, handmade
from safetensors.torch import save_file

from editing.edits.edit import Edit, load_edit
from editing.edits.weights import applied
from editing.request import EditRequest
from tracer.errors import TracerError
from tracer.files import tensors as editfile
from tracer.model import Model

Tiny = Callable[[str], Model]


@pytest.fixture(scope="module")
def edit(tiny: Tiny) -> Edit:
    return handmade(tiny("gpt2"), (0, 2, 3), (1, 4, 2))


@pytest.fixture(scope="module")
def other(tiny: Tiny) -> Edit:
    """Shares a weight with ``edit`` and has one of its own."""
    return handmade(tiny("gpt2"), (1, 2), (3, 1), seed=9)


# --- size ----------------------------------------------------------------------------------------------------------
def test_norm_and_rank_are_those_of_the_dense_change(edit: Edit) -> None:
    dense = edit.to_dense()
    assert list(dense) == list(edit.factors) == list(edit.norm()) == list(edit.rank())
    for name, (u, v) in edit.factors.items():
        assert dense[name].dtype == torch.float32
        torch.testing.assert_close(dense[name], torch.einsum("ir,jr->ij", u, v))
        assert edit.norm()[name] == pytest.approx(float(dense[name].norm()), rel=1e-6)
        assert edit.rank()[name] == torch.linalg.matrix_rank(dense[name]) == u.shape[1]


def test_norm_of_what_cancels_is_zero(edit: Edit) -> None:
    nothing = edit.compose(edit.scale(-1))
    assert all(norm == pytest.approx(0, abs=1e-7) for norm in nothing.norm().values())
    assert edit.scale(0).norm() == dict.fromkeys(edit.factors, 0.0)


def test_factors_are_kept_as_the_attribute_says() -> None:
    u = torch.randn(2, 6, dtype=torch.float64, requires_grad=True).T
    made = Edit({"w": (u, torch.ones(3, 2, dtype=torch.bfloat16))}, "x", {}, (REQUEST,), "", "")
    for factor in made.factors["w"]:
        assert (factor.dtype, factor.device.type, factor.requires_grad) == (torch.float32, "cpu", False)
        assert factor.is_contiguous()
    assert torch.equal(made.factors["w"][0], u.float())


@pytest.mark.parametrize(("u", "v"), [((3,), (3,)), ((3, 2), (4, 1)), ((3, 2), (4, 2, 1))])
def test_factors_that_do_not_fit_together(u: tuple, v: tuple) -> None:
    with pytest.raises(
        TracerError, match=r"'w' has factors U .* and V .*; expected U \[rows, r\] and V \[columns, r\]"
    ):
        Edit({"w": (torch.ones(u), torch.ones(v))}, "x", {}, (), "", "")


# --- arithmetic ----------------------------------------------------------------------------------------------------
def test_scale(edit: Edit) -> None:
    double = edit.scale(4).scale(0.5)
    for name, dense in edit.to_dense().items():
        assert torch.equal(double.to_dense()[name], 2 * dense)
    assert double.settings["scale"] == 2.0
    assert double.rank() == edit.rank()
    with pytest.raises(TracerError, match="cannot be scaled by nan"):
        edit.scale(math.nan)


def test_composition_is_the_sum(edit: Edit, other: Edit, tiny: Tiny) -> None:
    model = tiny("gpt2")
    both = edit.compose(other, edit)
    one, two, sums = edit.to_dense(), other.to_dense(), both.to_dense()
    assert sums.keys() == one.keys() | two.keys()
    for name, dense in sums.items():
        expected = 2 * one.get(name, torch.zeros(())) + two.get(name, torch.zeros(()))
        torch.testing.assert_close(dense, expected, rtol=1e-6, atol=1e-6)
        assert both.rank()[name] == 2 * edit.rank().get(name, 0) + other.rank().get(name, 0)
    assert both.method == "handmade+handmade+handmade"
    assert both.requests == (REQUEST,)
    assert [part["seed"] for part in both.settings["parts"]] == [0, 9, 0]
    assert (both.seconds, both.memory, both.note) == (0.75, 3_000_000, "drawn at random")
    assert set(both.evidence or {}) == {f"{i}/{name}" for i in range(3) for name in ("loss", "key")}
    assert both.settings["orientation"] == "in_out"
    # applied at once = applied one in the other, but for the rounding in between
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        with applied(model, edit.compose(other).factors):
            at_once = model.hf(ids).logits
        with applied(model, edit.factors), applied(model, other.factors):
            torch.testing.assert_close(model.hf(ids).logits, at_once, rtol=1e-5, atol=1e-5)
    assert edit.compose().same_as(dataclasses.replace(edit, settings=edit.compose().settings))


def test_requests_are_joined_in_order(edit: Edit) -> None:
    more = EditRequest("{} speaks", "Miles", "Dutch")
    joined = edit.compose(dataclasses.replace(edit, requests=(more, REQUEST)))
    assert joined.requests == (REQUEST, more)


def test_edits_of_different_weights_have_no_sum(edit: Edit, tiny: Tiny) -> None:
    with pytest.raises(TracerError, match=r"computed on different weights .* compute both on the same"):
        edit.compose(handmade(tiny("llama")))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "other"},
        {"settings": {}},
        {"requests": ()},
        {"fingerprint": "0"},
        {"note": ""},
        {"model": "other"},
        {"factors": {}},
        "bit",
        "order",
    ],
)
def test_same_as_sees_every_difference(change: dict | str, edit: Edit) -> None:
    if change == "bit":
        factors = {name: (u.clone(), v.clone()) for name, (u, v) in edit.factors.items()}
        last = factors[list(factors)[-1]][1]
        last[-1, -1] = torch.nextafter(last[-1, -1], torch.tensor(9.0))
        change = {"factors": factors}
    if change == "order":
        change = {"factors": dict(list(edit.factors.items())[::-1])}
    assert isinstance(change, dict)
    assert not edit.same_as(dataclasses.replace(edit, **change))
    assert edit.same_as(dataclasses.replace(edit, seconds=9.0, memory=9, evidence=None))


# --- on disk -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "written"), [("e", "e.safetensors"), ("e.edit", "e.edit"), ("e.safetensors", "e.safetensors")]
)
def test_saved_and_loaded_it_is_the_same(given: str, written: str, edit: Edit, tmp_path: Path) -> None:
    assert edit.save(tmp_path / given) == tmp_path / written
    assert [file.name for file in tmp_path.iterdir()] == [written]
    for found in (load_edit(tmp_path / given), Edit.load(str(tmp_path / written))):
        assert found.same_as(edit)
        assert (found.seconds, found.memory) == (edit.seconds, edit.memory)
        assert found.evidence is not None and edit.evidence is not None
        assert found.evidence.keys() == edit.evidence.keys()
        for name, tensor in edit.evidence.items():
            assert found.evidence[name].dtype == tensor.dtype
            assert torch.equal(found.evidence[name], tensor)


def test_what_is_hard_to_write(tiny: Tiny, tmp_path: Path) -> None:
    """No evidence, no weights, tensors that share memory, and text of every kind."""
    request = EditRequest('{} "x" \\ [日本]\n', "Dvořák \u2028 ❄", " Å")
    base = torch.randn(4, 4)
    made = Edit({"a": (base, base), "b": (base[:2], base)}, "x", {"nan": [1e-300, None]}, (request,), "f", "m")
    assert load_edit(made.save(tmp_path / "a")).same_as(made)
    assert load_edit(dataclasses.replace(made, factors={}).save(tmp_path / "b")).factors == {}


def test_it_is_kilobytes(edit: Edit, tmp_path: Path) -> None:
    numbers = sum(u.numel() + v.numel() for u, v in edit.factors.values())
    assert edit.save(tmp_path / "e").stat().st_size < 4 * numbers + 3000


def test_a_loaded_edit_is_checked_against_the_model(edit: Edit, tiny: Tiny, tmp_path: Path) -> None:
    path = edit.save(tmp_path / "e")
    model = tiny("gpt2")
    assert load_edit(path, model).same_as(edit)
    with applied(model, edit.factors), pytest.raises(TracerError, match=r"computed on the weights .* force=True"):
        load_edit(path, model)
    with pytest.raises(TracerError, match=f"of {model.name}, but {tiny('llama').name} has"):
        load_edit(path, tiny("llama"))
    assert load_edit(path, tiny("llama"), force=True).same_as(edit)


def test_every_cut_and_every_flipped_bit_is_seen(edit: Edit, tmp_path: Path) -> None:
    whole = edit.save(tmp_path / "whole").read_bytes()
    bad = tmp_path / "bad.safetensors"
    for length in (0, 4, 8, 200, len(whole) // 2, len(whole) - 1):
        bad.write_bytes(whole[:length])
        with pytest.raises(TracerError, match=r"bad.safetensors is not a saved Edit"):
            load_edit(bad)
    for place in range(9, len(whole), 101):
        bad.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(TracerError, match="not a saved Edit"):
            load_edit(bad)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TracerError, match=r"there is no file .*none.safetensors; expected one written by Edit.save"):
        load_edit(tmp_path / "none")
    save_file({"a": torch.ones(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(TracerError, match="holds 'plain tensors', expected 'Edit/1'"):
        load_edit(tmp_path / "plain")
    editfile.write(tmp_path / "next", "Edit/4", {}, {})
    with pytest.raises(TracerError, match="holds 'Edit/4'"):
        load_edit(tmp_path / "next")
    editfile.write(tmp_path / "short", "Edit/1", {}, {"weights": ["w"], "requests": []})
    with pytest.raises(TracerError, match=r"not a saved Edit .*U/w"):
        load_edit(tmp_path / "short")
    (tmp_path / "folder").mkdir()
    with pytest.raises(TracerError, match="there is no file"):
        load_edit(tmp_path / "folder")


def test_what_cannot_be_written_leaves_the_old_file(edit: Edit, tmp_path: Path) -> None:
    path = edit.save(tmp_path / "e")
    before = path.read_bytes()
    with pytest.raises(TracerError, match=r"cannot be written as json .* keep settings plain"):
        dataclasses.replace(edit, settings={"t": torch.ones(2)}).save(path)
    with pytest.raises(TracerError, match=r"cannot write to .*writable folder"):
        edit.save(tmp_path / "missing" / "e")
    (tmp_path / "folder.x").mkdir()
    with pytest.raises(TracerError, match="cannot write to"):
        edit.save(tmp_path / "folder.x")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["e.safetensors", "folder.x"]
    assert path.read_bytes() == before


def test_an_interrupt_while_writing_leaves_nothing(edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(tensors: dict, path: Path, metadata: dict) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(editfile, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        edit.save(tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


# --- to read -------------------------------------------------------------------------------------------------------
def test_repr_and_text_say_what_it_is(edit: Edit) -> None:
    total = math.hypot(*edit.norm().values())
    assert repr(edit) == (
        f"Edit(handmade on {edit.model}, 1 request: 'The Space Needle is in downtown' -> 'Paris' (was 'Seattle'); "
        f"3 weights, rank 1-4, norm {total:.3g})"
    )
    lines = str(edit).splitlines()
    assert lines[0] == f"handmade on {edit.model} ({edit.fingerprint[:12]}), 0.2 s, 3 MB"
    assert lines[1] == "  'The Space Needle is in downtown' -> 'Paris' (was 'Seattle')"
    name = "transformer.h.2.mlp.c_proj.weight"
    assert lines[3] == f"  {name} [64, 32]: rank 4, norm {edit.norm()[name]:.4g}"
    assert lines[-1] == "  drawn at random"
    many = dataclasses.replace(edit, requests=[EditRequest("{} is", f"S{i}\n\x1b[0m", "x") for i in range(9)])
    assert "... and 4 more requests" in str(many)
    assert "\x1b" not in str(many) + repr(many)
    assert repr(dataclasses.replace(edit, requests=(), factors={})).endswith("0 requests; 0 weights, rank 0, norm 0)")


def test_frame(edit: Edit) -> None:
    frame = edit.to_frame()
    assert list(frame.columns) == ["weight", "rows", "columns", "rank", "norm"]
    assert frame["rank"].tolist() == [1, 4, 2]
    assert frame["norm"].tolist() == list(edit.norm().values())
    assert frame.loc[1, ["rows", "columns"]].tolist() == [64, 32]


def test_a_header_is_plain_json(edit: Edit, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(edit.save(tmp_path / "e"), framework="pt") as file:
        header = json.loads(file.metadata()["content"].partition(" ")[2])["header"]
    assert header["requests"][0]["subject"] == "The Space Needle"
    assert header["settings"]["seed"] == 0
