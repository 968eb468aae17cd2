"""Checks of settings: one value each, returned as it is to be used, or refused with the kind of error that is given."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection, Iterable
from importlib import import_module
from typing import Any, TypeVar

from tracer.errors import TracerError
from tracer.extras import install

Kind = type[TracerError]
Value = TypeVar("Value")
_LAYERS = re.compile(r"(\d+)(?:\s*(?:[-–]|to)\s*(\d+))?")
_MOST_IN_RANGE = 10_000


def whole(name: str, value: Any, least: int = 0, most: int | None = None, *, kind: Kind, expected: str = "") -> int:
    """A whole number from `least` to `most` as an int; numpy's too, but no bool.

    Args:
        name: of the setting, for the message.
        value: as given.
        least: the lowest that is taken.
        most: the highest that is taken; None: any.
        kind: raised for anything else.
        expected: what the message says was expected, where a range does not tell.

    Raises:
        TracerError: of that kind.
    """
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least or (most is not None and found > most):
        wanted = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
        raise kind(f"{name} is {value!r}; expected {expected or wanted}")
    return found


def finite(
    name: str,
    value: Any,
    least: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    kind: Kind,
    expected: str = "",
) -> float:
    """A finite number as a float; from `least` on, above one number, or below another.

    Args:
        name: of the setting, for the message.
        value: as given.
        least: the lowest that is taken.
        above: what it has to exceed.
        below: what it has to stay under.
        kind: raised for anything else: NaN, infinity, a text.
        expected: what the message says was expected, if not "a finite number".

    Raises:
        TracerError: of that kind.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    inside = (least is None or found >= least) and (above is None or found > above) and (below is None or found < below)
    if not math.isfinite(found):
        raise kind(f"{name} is {value!r}; expected {expected or 'a finite number'}")
    if not inside:
        raise kind(f"{name} is {value!r}; expected {expected or _range(least, above, below)}")
    return found


def _range(least: float | None, above: float | None, below: float | None) -> str:
    ends = (("of at least", least), ("above", above), ("below", below))
    return " ".join(["a number", *(f"{words} {end:g}" for words, end in ends if end is not None)])


def share(name: str, value: Any, *, kind: Kind, expected: str = "a share from 0 to 1") -> float:
    """A number from 0 to 1 as a float; no text, no bool.

    Args:
        name: of the setting, for the message.
        value: as given.
        kind: raised for anything else.
        expected: what the message says was expected.

    Raises:
        TracerError: of that kind.
    """
    try:
        found = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found <= 1:
        raise kind(f"{name} is {value!r}; expected {expected}")
    return found


def one_of(name: str, value: Value, known: Collection[Any], *, kind: Kind) -> Value:
    """A value that is among those that are known.

    Args:
        name: of the setting, for the message.
        value: as given.
        known: the values that are taken, in the order the message lists them.
        kind: raised for any other.

    Raises:
        TracerError: of that kind.
    """
    if value not in known:
        listed = [repr(each) for each in known]
        some = " or ".join(listed) if len(listed) < 3 else f"one of {', '.join(listed)}"
        raise kind(f"{name} is {value!r}; expected {some}")
    return value


def layers(given: Any, n_layers: int | None = None, *, kind: Kind) -> tuple[int, ...]:
    """Layers in order, each once.

    Args:
        given: one layer, or several.
        n_layers: of the model; None: not known yet.
        kind: raised for anything else.

    Raises:
        TracerError: of that kind: an empty sequence, anything but whole numbers, a layer the model does not have.
    """
    most = None if n_layers is None else n_layers - 1
    if not isinstance(given, Iterable):
        given = (given,)
    if isinstance(given, str):
        raise kind(f"layers is {given!r}; expected a layer, or several")
    found = tuple(sorted({whole("a layer", layer, 0, most, kind=kind) for layer in given}))
    if not found:
        has = "at least one" if n_layers is None else f"some of 0 to {n_layers - 1}"
        raise kind(f"layers is empty; name {has}, or leave it out")
    return found


def written_layers(text: str, *, kind: Kind) -> tuple[int, ...]:
    """Layers as people write them: "3", "2, 4", "2-4" or "2 to 4", in their order; () for an empty text.

    Args:
        text: as typed.
        kind: raised for anything else.

    Raises:
        TracerError: of that kind.
    """
    found: list[int] = []
    for part in filter(None, (part.strip() for part in re.split(r"[,;]", text))):
        numbers = _LAYERS.fullmatch(part)
        if numbers is None:
            raise kind(f"layers are {text!r}; expected numbers such as 2,3 or a range such as 3-8")
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if last < first or last - first > _MOST_IN_RANGE:
            raise kind(f"layers are {text!r}; expected the lower number first, such as 3-8")
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))


def installed(module: str, extra: str, what: str, *, kind: Kind) -> Any:
    """A module of a package that an extra brings.

    Args:
        module: its full name.
        extra: of `tracer.extras.EXTRAS`.
        what: needs it, for the message.
        kind: raised where it cannot be imported.

    Raises:
        TracerError: of that kind.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise kind(f"{what} needs {package}, which is missing ({error}): {install(extra)}") from error
