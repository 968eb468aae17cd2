"""The whole examination."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

from tracer.model import models
from tracer.plots.export import NO_BROWSER, NO_KALEIDO

from .finding import Finding
from .machine import files, machine
from .packages import extras, versions


def examine() -> tuple[Finding, ...]:
    """Look at versions, machine, cache, browser, extras and models; nothing is loaded, installed or fetched."""
    return (*versions(), *machine(), *files(), *_figures(), *extras(), *_models())


def _figures() -> Iterator[Finding]:
    yield Finding("figures", "html", "needs nothing")
    if find_spec("kaleido") is None:
        yield Finding("figures", "png, svg, pdf", "no kaleido", "missing", NO_KALEIDO)
        return
    from choreographer.browsers.chromium import Chromium

    found = os.environ.get("BROWSER_PATH") or Chromium.find_browser(skip_local=False)
    if found is None:
        yield Finding("figures", "png, svg, pdf", "no browser", "missing", NO_BROWSER)
    else:
        yield Finding("figures", "png, svg, pdf", f"drawn by {found}")


def _models() -> Iterator[Finding]:
    for each in models():
        if each.name and each.ready:
            yield Finding("models", each.name, each.what)
        elif each.name:
            yield Finding("models", each.name, each.what, "missing", each.how)
