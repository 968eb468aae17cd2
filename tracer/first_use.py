"""Public names that are imported when they are first used, so that a package itself imports in no time (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def at_first_use(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose names lie in modules that are heavy to import.

    A name is looked up in its module once and kept in the package. Modules and rooms of the package are found under
    their own names, imported or not. A module that is imported under a public name, as a former place may be, does not
    take the place of what the name stands for.

    Args:
        package: its name.
        places: names, with spaces between, by the module that defines them.
    """
    place_of = {name: place for place, names in places.items() for name in names.split()}

    class Package(ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            if name not in place_of or not isinstance(value, ModuleType):  # the import system sets modules it has read
                super().__setattr__(name, value)

    sys.modules[package].__class__ = Package

    def get(name: str) -> Any:
        if name in place_of:
            value = getattr(import_module(place_of[name]), name)
        elif not name.startswith("_") and _is_module(f"{package}.{name}"):
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        vars(sys.modules[package])[name] = value
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *place_of})

    return get, listed


def _is_module(name: str) -> bool:
    spec = find_spec(name)
    return spec is not None and spec.has_location  # former places have none: the import system warns of those
