"""The covariance as a value: files, checks, condition, and solving with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from covariances import Tiny, same

from editing.covariance import text as texts
from editing.covariance import triangles as packed
from editing.covariance.covariance import Covariance
from editing.covariance.estimate import estimate_covariance
from tracer import Model, TracerError
from tracer.facts.encoding import body_ids
from tracer.factworld import held_out_text
from tracer.files import tensors as tensorfile

WIDTH = 24


def made(values: torch.Tensor, tokens: int = 10_000, **fields: Any) -> Covariance:
    """A covariance of layer 1 with these eigenvalues."""
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(1)).double())[0]
    moment = (q * values.double()) @ q.T
    moment = ((moment + moment.T) / 2).to(values.dtype)
    known: dict[str, Any] = {"fingerprint": "ab" * 32, "model": "m", "corpus": "cd" * 32, "text": "t", "window": 8}
    return Covariance(**{**known, "moments": {1: moment}, "tokens": tokens, "doublings": {1: ((10, 0.5),)}, **fields})


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Model:
    return tiny("gpt2").pinned()


@pytest.fixture(scope="module")
def found(model: Model) -> Covariance:
    return estimate_covariance(model, [0, 2], ["The Space Needle is in downtown Seattle. " * 40], cache=False)


# --- packing ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [1, 2, 7, 130, 300])
def test_upper_triangles(width: int) -> None:
    keys = torch.randn(50, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = torch.zeros(width, width, dtype=torch.float64)
    for part in keys.split(20):
        packed.add_upper(total, part)
    expected = keys.T @ keys
    assert torch.allclose(packed.mirror(total), expected, rtol=1e-12, atol=1e-12)
    triangle = packed.pack(total)
    assert triangle.shape == (width * (width + 1) // 2,)
    assert torch.equal(packed.unpack(triangle), packed.mirror(total))


def test_what_is_no_triangle() -> None:
    with pytest.raises(ValueError, match="no upper triangle"):
        packed.unpack(torch.zeros(5))


# --- files -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_and_loaded(found: Covariance, model: Model, tmp_path: Path, dtype: torch.dtype) -> None:
    kept = dataclasses.replace(found, moments={i: m.to(dtype) for i, m in found.moments.items()}, note="a note")
    path = kept.save(tmp_path / "c.safetensors")
    again = Covariance.load(path, model)
    assert same(kept, again) and again.dtype == dtype and again.note == "a note" and again.text == kept.text
    some = Covariance.load(path, layers=[2])
    assert some.layers == (2,) and torch.equal(some.matrix(2), kept.matrix(2))
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert kept.save(tmp_path / "again").read_bytes() == path.read_bytes()
    whole = sum(m.numel() * m.element_size() for m in kept.moments.values())
    assert path.stat().st_size < 0.6 * whole  # upper triangles only
    with pytest.raises(TracerError, match=r"has layers \[0, 2\] and lacks \[1\]"):
        Covariance.load(path, layers=[1, 2])


def test_bad_files(found: Covariance, tmp_path: Path) -> None:
    """Every cut and some damage is noticed; the message names the file."""
    path = found.save(tmp_path / "c.safetensors")
    good = path.read_bytes()
    bad = [good[:size] for size in (0, 5, 100, len(good) // 2, len(good) - 1)]
    bad += [good + b"x", good.replace(b"Covariance/1", b"Covariance/9"), b"{}" * 100]
    for place in (len(good) - 1, len(good) // 2, len(good) - 9000):
        flipped = bytearray(good)
        flipped[place] ^= 64
        bad.append(bytes(flipped))
    assert good not in bad
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(TracerError, match="is not a saved Covariance"):
            Covariance.load(path)
    tensorfile.write(path, "Covariance/1", {"layer0": torch.zeros(3)}, {"layers": [0]})
    with pytest.raises(TracerError, match="is not a saved Covariance"):
        Covariance.load(path)
    with pytest.raises(TracerError, match="there is no file"):
        Covariance.load(tmp_path / "none")


def test_a_file_that_cannot_be_written(found: Covariance, tmp_path: Path) -> None:
    with pytest.raises(TracerError, match="cannot write to"):
        found.save(tmp_path / "no folder" / "c.safetensors")
    assert list(tmp_path.iterdir()) == []


# --- checks ----------------------------------------------------------------------------------------------------------
def test_check(found: Covariance, model: Model, tiny: Tiny, tmp_path: Path) -> None:
    found.check(model, [2])
    other = tiny("gptj")
    with pytest.raises(TracerError, match=r"other weights.*estimate_covariance\(model, layers=\[2\]\)"):
        found.check(other, [2])
    found.check(other, [2], fingerprint=model.fingerprint())
    with pytest.raises(TracerError, match=r"lacks \[1\].*estimate_covariance\(model, layers=\[0, 1\]\)"):
        found.check(model, [0, 1])
    with pytest.raises(TracerError, match="other weights"):
        Covariance.load(found.save(tmp_path / "c"), other)
    for ask in (found.matrix, found.condition, found.change, found.solver):
        with pytest.raises(TracerError, match=r"has layers \[0, 2\], not 1"):
            ask(1)


def test_the_value_cannot_be_changed_from_outside(found: Covariance) -> None:
    before = found.matrix(0)
    found.matrix(0).zero_()
    assert torch.equal(found.matrix(0), before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.tokens = 3  # type: ignore[misc]


def test_what_it_shows(found: Covariance) -> None:
    assert repr(found).startswith("Covariance of ") and "layers 0, 2: 64 x 64 over" in repr(found)
    assert "note: mind this" in repr(dataclasses.replace(found, note="mind this"))
    frame = found.to_frame()
    assert list(frame["layer"]) == [0, 2] and set(frame["tokens"]) == {found.tokens}
    assert list(frame["mean_square"])[1] == pytest.approx(float(found.matrix(2).double().trace()))


# --- solving ---------------------------------------------------------------------------------------------------------
def test_condition_and_solve() -> None:
    values = torch.logspace(0, -6, WIDTH, dtype=torch.float64)
    covariance = made(values)
    assert covariance.condition(1) == pytest.approx(1e6, rel=1e-6)
    solver = covariance.solver(1)
    assert 0.5e6 < solver.condition < 1.01e6
    assert covariance.solver(1) is solver and covariance.solver(1, damping=1e-3) is not solver
    keys = torch.randn(WIDTH, 3, generator=torch.Generator().manual_seed(2))
    solved = solver.solve(keys)
    assert solved.dtype == torch.float64 and solved.shape == (WIDTH, 3)
    assert torch.allclose(covariance.matrix(1) @ solved, keys.double(), atol=1e-9)
    assert torch.allclose(solver.solve(keys[:, 0]), solved[:, 0], rtol=1e-9)
    with pytest.raises(TracerError, match=f"expected \\[{WIDTH}\\]"):
        solver.solve(torch.ones(WIDTH + 1))


def test_damping_is_a_share_of_the_mean_diagonal() -> None:
    covariance = made(torch.logspace(0, -3, WIDTH, dtype=torch.float64))
    matrix, keys = covariance.matrix(1), torch.ones(WIDTH)
    damped = matrix + 0.1 * matrix.diagonal().mean() * torch.eye(WIDTH, dtype=torch.float64)
    solved = covariance.solver(1, damping=0.1).solve(keys)
    assert torch.allclose(solved, torch.linalg.solve(damped, keys.double()), rtol=1e-9)
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(TracerError, match="damping"):
            covariance.solver(1, damping=wrong)


@pytest.mark.parametrize(
    ("values", "tokens", "reason"),
    [
        (torch.ones(WIDTH), WIDTH - 1, "fewer tokens than dimensions"),
        (torch.cat([torch.ones(WIDTH - 1), -torch.ones(1)]), 1000, "not positive definite"),
        (torch.cat([torch.ones(WIDTH - 1), torch.tensor([1e-15])]).double(), 1000, "condition number"),
        (torch.zeros(WIDTH), 1000, "not positive definite"),
    ],
)
def test_what_cannot_be_inverted(values: torch.Tensor, tokens: int, reason: str) -> None:
    covariance = made(values, tokens)
    with pytest.raises(TracerError) as refused:
        covariance.solver(1)
    for words in (reason, f"{tokens:,} tokens", f"d_mlp {WIDTH}", "damping=1e-4", "more text"):
        assert words in str(refused.value)


def test_too_little_text_is_refused_and_damping_helps(tiny: Tiny) -> None:
    """Few tokens, and many tokens that are the same few again."""
    model = tiny("gpt2")
    for text in (["The Space Needle is in downtown Seattle."], ["Miles Davis plays the trumpet."] * 40):
        covariance = estimate_covariance(model, 1, text, cache=False)
        with pytest.raises(TracerError, match="cannot be inverted"):
            covariance.solver(1)
        solver = covariance.solver(1, damping=1e-3)
        assert np.isfinite(solver.condition) and solver.solve(torch.ones(model.d_mlp)).isfinite().all()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2", "gemma2", "bert"])
@pytest.mark.parametrize(
    ("text", "tokens"), [(None, 300), ([held_out_text()], 300), ([held_out_text()], 5000), (["東京タワー" * 900], 99)]
)
def test_few_tokens_of_a_text_are_the_first_of_it(
    architecture: str, text: list[str] | None, tokens: int, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr(texts, "body_ids", lambda tokenizer, each: read.append(len(each)) or body_ids(tokenizer, each))
    with texts.windows(tiny(architecture), text, 16, tokens) as few:
        rows = few.rows(0, len(few.ends))
    least = sum(read)
    monkeypatch.setattr(texts, "LONG", 1 << 20)  # nothing is that long: the whole text is read
    with texts.windows(tiny(architecture), text, 16, tokens) as whole:
        assert (few.hash, few.ends.tolist()) == (whole.hash, whole.ends.tolist())
        assert all(np.array_equal(*pair) for pair in zip(rows, whole.rows(0, len(whole.ends)), strict=True))
    between_words = text is None or " " in text[0]
    assert (least < tokens * 12) == between_words  # without a space there is no place to cut
