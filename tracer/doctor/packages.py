"""Installed packages against what the project asks for, and what each extra would add."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from tracer.extras import DISTRIBUTION, EXTRAS, install

from .finding import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def versions() -> Iterator[Finding]:
    """Python and the packages that are always needed, each against its lower bound."""
    yield Finding("versions", "python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield _of_project()
    for need in _needs(None):
        yield _against(need)


def extras() -> Iterator[Finding]:
    """Extras, with what those that are not complete would add."""
    for extra, adds in EXTRAS.items():
        lacking = [need for need in _needs(extra) if _against(need).state != "good"]
        if not lacking:
            yield Finding("extras", extra, adds)
            continue
        names = ", ".join(str(need.name) for need in lacking)
        yield Finding("extras", extra, f"would add {adds} (lacks {names})", "missing", install(extra))


def _of_project() -> Finding:
    try:
        return Finding("versions", DISTRIBUTION, version(DISTRIBUTION))
    except PackageNotFoundError:
        return Finding("versions", DISTRIBUTION, "not installed, only found", "bad", "pip install -e . in its folder")


def _needs(extra: str | None) -> list[Requirement]:
    """Requirements of the project, or what an extra adds to them, those of extras it names included."""
    from packaging.requirements import Requirement

    try:
        listed = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return []
    found = []
    for need in listed:
        marked = need.marker is not None and "extra" in str(need.marker)
        if marked is (extra is not None) and (need.marker is None or need.marker.evaluate({"extra": extra or ""})):
            own = need.name == DISTRIBUTION
            found += [one for other in need.extras for one in _needs(other)] if own else [need]
    return found


def _against(need: Requirement) -> Finding:
    repair = f'pip install "{need.name}{need.specifier}"'
    try:
        found = version(need.name)
    except PackageNotFoundError:
        return Finding("versions", need.name, f"not installed; expected {need.specifier}", "bad", repair)
    if need.specifier.contains(found, prereleases=True):
        return Finding("versions", need.name, found)
    return Finding("versions", need.name, f"{found}; expected {need.specifier}", "bad", repair)
