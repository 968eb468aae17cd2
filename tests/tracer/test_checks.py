"""Checks of settings: what is taken comes back as it is to be used, anything else is an error of the kind asked for."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tracer import checks
from tracer.errors import HyperparameterError, NoiseError, TracerError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_come_back_as_ints(value: Any) -> None:
    found = checks.whole("n", value, 3, 3, kind=NoiseError)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize("value", [2, 5, -1, 3.0, "3", True, None, [3], math.nan])
def test_anything_else_is_no_whole_number_in_range(value: Any) -> None:
    with pytest.raises(NoiseError) as raised:
        checks.whole("n", value, 3, 4, kind=NoiseError)
    assert str(raised.value) == f"n is {value!r}; expected a whole number from 3 to 4"


def test_the_message_says_what_was_expected() -> None:
    for kind in (NoiseError, HyperparameterError):
        with pytest.raises(kind, match=r"^n is 0; expected a whole number of at least 1$"):
            checks.whole("n", 0, 1, kind=kind)
        with pytest.raises(kind, match=r"^n is 0; expected some$"):
            checks.whole("n", 0, 1, kind=kind, expected="some")


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), "1", True])
def test_finite_numbers_come_back_as_floats(value: Any) -> None:
    found = checks.finite("x", value, 1, below=2, kind=NoiseError)
    assert found == 1.0 and type(found) is float


@pytest.mark.parametrize(
    ("value", "ends", "expected"),
    [
        (math.nan, {}, "a finite number"),
        (math.inf, {}, "a finite number"),
        ("one", {}, "a finite number"),
        (None, {"least": 0}, "a finite number"),
        (-0.5, {"least": 0}, "a number of at least 0"),
        (0, {"above": 0}, "a number above 0"),
        (1, {"least": 0, "below": 1}, "a number of at least 0 below 1"),
    ],
)
def test_numbers_that_are_refused(value: Any, ends: dict[str, Any], expected: str) -> None:
    with pytest.raises(NoiseError) as raised:
        checks.finite("x", value, **ends, kind=NoiseError)
    assert str(raised.value) == f"x is {value!r}; expected {expected}"
    with pytest.raises(NoiseError, match="expected a word"):
        checks.finite("x", value, **ends, kind=NoiseError, expected="a word")


@pytest.mark.parametrize("value", [0, 1, 0.25, np.float64(0.25)])
def test_shares(value: Any) -> None:
    found = checks.share("s", value, kind=NoiseError)
    assert found == value and type(found) is float


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, True, "0.5", None, [0.5]])
def test_what_is_no_share(value: Any) -> None:
    with pytest.raises(NoiseError, match="expected a share from 0 to 1"):
        checks.share("s", value, kind=NoiseError)


def test_one_of_several() -> None:
    assert checks.one_of("kind", "b", ("a", "b"), kind=NoiseError) == "b"
    for known, said in (("a",), "'a'"), (("a", None), "'a' or None"), (("a", "b", "d"), "one of 'a', 'b', 'd'"):
        with pytest.raises(NoiseError) as raised:
            checks.one_of("kind", "c", known, kind=NoiseError)
        assert str(raised.value) == f"kind is 'c'; expected {said}"


@pytest.mark.parametrize(
    ("given", "found"),
    [(3, (3,)), (np.int64(3), (3,)), ([4, 0, 4], (0, 4)), (range(2), (0, 1)), ({2, 1}, (1, 2)), (np.arange(2), (0, 1))],
)
def test_layers_are_in_order_each_once(given: Any, found: tuple[int, ...]) -> None:
    assert checks.layers(given, kind=NoiseError) == checks.layers(given, 5, kind=NoiseError) == found


@pytest.mark.parametrize(
    ("given", "n_layers", "message"),
    [
        ([], None, "layers is empty; name at least one, or leave it out"),
        ([], 4, "layers is empty; name some of 0 to 3, or leave it out"),
        ("3", None, "layers is '3'; expected a layer, or several"),
        ([1, 4], 4, "a layer is 4; expected a whole number from 0 to 3"),
        (-1, None, "a layer is -1; expected a whole number of at least 0"),
        ([1.5], None, "a layer is 1.5; expected a whole number"),
        (True, None, "a layer is True; expected a whole number"),
        (None, None, "a layer is None; expected a whole number"),
    ],
)
def test_layers_that_are_refused(given: Any, n_layers: int | None, message: str) -> None:
    with pytest.raises(NoiseError) as raised:
        checks.layers(given, n_layers, kind=NoiseError)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "found"),
    [("3", (3,)), ("2, 4", (2, 4)), ("2-4;0", (2, 3, 4, 0)), (" 7 , 1–2,7", (7, 1, 2)), ("", ()), (" , ", ())],
)
def test_layers_as_people_write_them(text: str, found: tuple[int, ...]) -> None:
    assert checks.written_layers(text, kind=NoiseError) == found


@pytest.mark.parametrize(("text", "said"), [("x", "numbers such as 2,3"), ("4-2", "the lower number first")])
def test_writing_that_is_refused(text: str, said: str) -> None:
    with pytest.raises(HyperparameterError, match=f"layers are '{text}'; expected {said}"):
        checks.written_layers(text, kind=HyperparameterError)


def test_a_package_that_is_missing_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.installed("xml.dom", "lora", "it", kind=NoiseError).__name__ == "xml.dom"
    monkeypatch.setitem(sys.modules, "surely", None)
    told = r'^an edit needs surely, which is missing \(.*\): pip install "tracer-workbench\[lora\]"$'
    with pytest.raises(NoiseError, match=told):
        checks.installed("surely.inside", "lora", "an edit", kind=NoiseError)


@pytest.mark.parametrize("check", [checks.whole, checks.finite, checks.share])
def test_the_kind_is_what_is_raised(check: Callable[..., Any]) -> None:
    with pytest.raises(TracerError) as raised:
        check("n", "no", kind=HyperparameterError)
    assert type(raised.value) is HyperparameterError
