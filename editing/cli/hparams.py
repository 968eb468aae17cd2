"""Hyper-parameters from the command line: `name=value`, read by the types of a method's settings."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from editing.methods.compute import settings_of
from tracer.checks import written_layers
from tracer.errors import CommandOptionError, HyperparameterError, UnknownMethod

if TYPE_CHECKING:
    from editing.methods.method import Method

NUMBERS = re.compile(r"\s*-?\d+(\.\d*)?([eE][-+]?\d+)?(\s*,\s*-?\d+(\.\d*)?([eE][-+]?\d+)?)+\s*")
RANGE = re.compile(r"(\d+)-(\d+)")
NEEDS = {"origin": "str | None", "max_rows": "int | None"}


def read(method: Method, assignments: Sequence[str], layers: str | None, seed: int | None) -> dict[str, Any]:
    """Hyper-parameters from the command line, by name.

    A value is JSON, "none", numbers with commas between, or text as it stands.

    Args:
        method: whose hyper-parameters they are.
        assignments: texts "name=value".
        layers: of the option --layers.
        seed: of the option --seed.

    Raises:
        TracerError: a name that the method does not have, a value of another type, and one that is set twice.
    """
    found: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise HyperparameterError(f"--set {assignment!r} sets nothing; write name=value, such as v_lr=0.1")
        if name in found:
            raise CommandOptionError(f"--set gives {name} twice; leave one of them out")
        found[name] = _value(method, name, text.strip())
    if layers is not None:
        if method.layers == "none":
            raise UnknownMethod(f"{method.name} takes no layers; leave --layers out")
        if "layers" in found:
            raise CommandOptionError("--layers and --set layers=... both say where to write; leave one of them out")
        written = written_layers(layers, kind=HyperparameterError)
        found["layers"] = _value(method, "layers", json.dumps(written))
    if seed is not None and method.seeded:
        if "seed" in found:
            raise CommandOptionError("--seed and --set seed=... both give the seed; leave one of them out")
        found["seed"] = seed
    settings_of(method, found)  # TracerError for values that do not go together
    return found


def read_for(methods: Sequence[str], assignments: Sequence[str]) -> dict[str, Any]:
    """Hyper-parameters for several methods at once, each value read by the first that has the name.

    Args:
        methods: names.
        assignments: texts "name=value".

    Raises:
        TracerError: as `read` does; a name that no method has.
    """
    from editing.methods.compute import method_named

    found: dict[str, Any] = {}
    several = [method_named(name) for name in methods]
    for assignment in assignments:
        name = assignment.partition("=")[0].strip().replace("-", "_")
        if name in found:
            raise CommandOptionError(f"--set gives {name} twice; leave one of them out")
        having = [method for method in several if name in _types(method)]
        found |= read((having or several)[0], [assignment], None, None)
    return found


def layers_of(text: str) -> tuple[int, ...]:
    """Layers from "2,3" or "3-8", or both.

    Args:
        text: as typed.

    Raises:
        TracerError: anything else.
    """
    return written_layers(text, kind=HyperparameterError)


def covariance(method: Method, path: Path) -> dict[str, Any]:
    """The covariance in a file, as a hyper-parameter.

    Args:
        method: that uses it.
        path: of the file.

    Raises:
        TracerError: a method without a covariance.
    """
    from editing.covariance.covariance import Covariance

    if "covariance" not in method.needs:
        raise UnknownMethod(f"{method.name} uses no covariance; leave --covariance out")
    return {"covariance": Covariance.load(path)}


def prepared(method: Method, path: Path) -> dict[str, Any]:
    """What was prepared for a method, as a hyper-parameter.

    Args:
        method: that uses it.
        path: of its file.

    Raises:
        TracerError: a method that needs nothing prepared.
    """
    from editing.prepared.prepared import load_prepared

    if "prepared" not in method.needs:
        raise UnknownMethod(f"{method.name} uses nothing that is prepared; leave --prepared out")
    return {"prepared": load_prepared(path)}


def _value(method: Method, name: str, text: str) -> Any:
    """A value of the type the settings have; TracerError for an unknown name or an invalid value."""
    types = _types(method)
    if name == "covariance" and name in method.needs:
        raise HyperparameterError("a covariance is read from a file; name it by --covariance FILE")
    if name == "prepared" and name in method.needs:
        raise HyperparameterError("what was prepared is read from a file; name it by --prepared FILE")
    if name not in types:
        raise UnknownMethod(f"{method.name} has no hyper-parameter {name!r} to set here; it has {', '.join(types)}")
    adapter = types[name]
    annotation = next((str(field.type) for field in fields(method.settings) if field.name == name), NEEDS.get(name, ""))
    candidates: list[Any] = [_plain(text), text, [text]]
    if NUMBERS.fullmatch(text):
        candidates.insert(0, [_plain(part.strip()) for part in text.split(",")])
    elif "," not in text:
        candidates.append([_plain(text)])
    for candidate in candidates:
        if isinstance(candidate, bool) and "bool" not in annotation:
            continue  # true is not 1
        try:
            return adapter.validate_python(candidate)
        except ValidationError:
            continue
    raise HyperparameterError(
        f"{name} is {text!r}; expected {annotation.replace(' | ', ' or ').replace('None', 'none')}"
    )


def _plain(text: str) -> Any:
    if text.lower() in ("none", "null"):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _types(method: Method) -> dict[str, Any]:
    """Reader of each hyper-parameter that can be written as text."""
    found: dict[str, Any] = {}
    for field in fields(method.settings):
        owner = next(
            cls for cls in reversed(method.settings.__mro__) if field.name in vars(cls).get("__annotations__", {})
        )
        kind = field.type
        try:
            if isinstance(kind, str):
                kind = eval(kind, dict(vars(sys.modules[owner.__module__])))
            found[field.name] = TypeAdapter(kind)
        except (PydanticSchemaGenerationError, NameError):  # an object, no text; a type for type checkers alone
            continue
    kinds = {"origin": TypeAdapter(str | None), "max_rows": TypeAdapter(int | None)}
    return found | {name: kinds[name] for name in kinds if name in method.needs}
