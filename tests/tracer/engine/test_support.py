"""What a model supports is found by one trial, and another than the fastest way is told."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from agreement import NOISE, Tiny, fact, variant

from tracer.engine.follow import Line, follow
from tracer.engine.kv_cache import Prefix
from tracer.engine.sweep import record
from tracer.engine.trial import unlike
from tracer.errors import TracerError, TracerNote
from tracer.model import Model
from tracer.tracing.causal import causal_trace

TEXTS = ("The Space Needle is in", "Paris")


def lines(model: Model) -> list[Line]:
    return [Line(tuple(model.tokenizer(text)["input_ids"]), tokens=4) for text in TEXTS]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "bert"])
def test_of_the_fastest_way_nothing_is_said(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        causal_trace(model, fact(model), corruption=NOISE)
        if model.causal:
            follow(model, lines(model))


def test_a_batch_that_cannot_grow_is_told() -> None:
    model = variant("GPTBigCodeConfig", {"n_embd": 32, "n_layer": 4, "n_head": 4})
    said = r"GPTBigCodeConfig runs slower, with the same numbers: every branch is run from the first layer on \(\w"
    with pytest.warns(TracerNote, match=said):
        causal_trace(model, fact(model), corruption=NOISE)


def test_keys_and_values_that_are_refused_are_told(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    expected, forward = follow(model, lines(model)), model.hf.forward

    def refuses(*args: Any, past_key_values: Any = None, use_cache: Any = None, **given: Any) -> Any:
        if past_key_values is not None:
            raise NotImplementedError("no cache here")
        return forward(*args, **given)

    monkeypatch.setattr(model.hf, "forward", refuses)
    said = r"takes no keys and values of earlier tokens \(NotImplementedError: no cache here\)"
    with pytest.warns(TracerNote, match=said), torch.no_grad():
        base = record(model, TEXTS[0])
    assert base.prefix is None and base.grows and "over all tokens" in base.note
    with pytest.warns(TracerNote, match=said + ", so every token of a text"):
        again = follow(model, lines(model))
    assert [each.written for each in again] == [each.written for each in expected]


def test_keys_and_values_that_are_not_kept_are_told(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    monkeypatch.setattr(Prefix, "read", staticmethod(lambda *_: None))
    with pytest.warns(TracerNote, match="does not keep the keys and values of every layer"):
        follow(model, lines(model))


def test_rows_that_cannot_share_a_step_are_told(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    expected, forward = follow(model, lines(model)), model.hf.forward

    def deaf(*args: Any, attention_mask: Any = None, **given: Any) -> Any:
        return forward(*args, **given)

    monkeypatch.setattr(model.hf, "forward", deaf)
    with pytest.warns(TracerNote, match="rows of other lengths cannot share .*: other numbers come out"):
        again = follow(model, lines(model))
    assert [each.written for each in again] == [each.written for each in expected]


@pytest.mark.parametrize(
    ("again", "why"),
    [
        (torch.tensor([1.0, 2.0]), ""),
        (torch.tensor([1.0, 2.001]), ""),
        (torch.tensor([1.0, 2.01]), "other numbers"),
        (torch.tensor([1.0, float("nan")]), "other numbers"),
        (torch.tensor([1.0]), r"states of shape [1] instead of [2]"),
        (IndexError("here\nand there"), "IndexError: here"),
    ],
)
def test_what_is_unlike(again: Any, why: str) -> None:
    def run() -> torch.Tensor:
        if isinstance(again, Exception):
            raise again
        return again

    found = unlike(torch.tensor([1.0, 2.0]), run, torch.float32)
    assert (why in found and "there" not in found) if why else found == ""


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), TracerError("wrong")])
def test_memory_and_bad_input_are_no_way_of_running(error: Exception) -> None:
    def run() -> torch.Tensor:
        raise error

    with pytest.raises(type(error)) as raised:
        unlike(torch.zeros(1), run, torch.float32)
    assert raised.value is error
