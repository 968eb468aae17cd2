"""Writing figures and results to files, by suffix: whole or not at all.

- `html`: one self-contained page that opens offline; it can load nothing and sends nothing
- `png`, `svg`, `pdf`: pictures, drawn by Kaleido with a Chromium-based browser
- `json`: a figure as Plotly's JSON; a result as its fields
- `csv`: a result's tidy table
- `npz`: one result, to be read again with its `load`
"""

from __future__ import annotations

import dataclasses
import html
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.errors import CannotWrite, ExportError, NoBrowser
from tracer.extras import install
from tracer.files import new_file

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PICTURES = ("png", "svg", "pdf")
# kind of result: the function of tracer.plots that draws one, and the one that draws several
PLOTTED = {
    "CausalTrace": ("plot_trace", "plot_trace"),
    "AverageTrace": ("plot_average", "plot_average"),
    "NeuronAttribution": ("plot_neurons", "plot_layers"),
    "NeuronEffects": ("plot_effects", "plot_effects"),
}
DISTINCT = ("prompt", "subject", "kind", "metric", "foil", "sever", "method", "action", "factor", "value", "model")
FORMATS = ("html", *PICTURES, "json", "csv", "npz")
NO_BROWSER = (
    "png, svg and pdf are drawn by a Chromium-based browser, and none was found; install one "
    "(Debian, Ubuntu: apt install chromium; anywhere: plotly_get_chrome) or name one in BROWSER_PATH. "
    "html needs no browser"
)
NO_KALEIDO = f"png, svg and pdf need Kaleido: {install('figures')}; html needs no more than there is"

# The page may run the script it contains and nothing else: no request leaves it, whatever a text holds.
# 'unsafe-eval' is for Plotly's WebGL traces, blob: and data: for its button that saves a picture.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; \
style-src 'unsafe-inline'; img-src data: blob:; font-src data:">
<title>{title}</title>
<style>
html {{ overflow-y: scroll; }} /* so that the room a figure has does not depend on its height */
body {{ margin: 24px 16px; background: #fff; }}
.figure {{ width: max-content; min-width: 100%; }}
</style>
</head>
<body>
<div class="figure">{figure}</div>
</body>
</html>
"""
# Of the arrangements a figure brings along (see tracer.plots.fit), the widest that the window has room for.
ARRANGE = """
const plot = document.getElementById("{plot_id}"), ways = plot.layout.meta?.arrangements ?? [];
ways.sort((a, b) => a.size[0] - b.size[0]);
let taken = ways.find(way => way.size[0] === plot.layout.width);
function arrange() {
  const best = ways.findLast(way => way.size[0] <= document.body.clientWidth) ?? ways[0];
  if (best === taken) return;
  taken = best;
  for (const {style} of [plot, plot.parentElement]) // Plotly's boxes are as large as the figure was at first
    [style.width, style.height] = best.size.map(pixels => `${pixels}px`);
  Plotly.update(plot, best.data, best.layout, best.traces);
}
addEventListener("resize", arrange);
arrange();
"""


def export(fig_or_result: Any, path: str | Path) -> Path:
    """Write a Plotly figure, a result, or a list of them to `path` in the format its suffix names; return the path.

    A result is plotted first where the format is a picture: a trace, an average, an attribution to neurons or effects
    of neurons, each by its function of `tracer.plots`. A list of results of one kind becomes one figure (of
    attributions the one of [`tracer.plot_layers`][]), or one table with columns that tell them apart. Missing folders
    are made. The file appears whole or not at all, and replaces one of the same name.

    Raises:
        TracerError: an unknown suffix, a format that does not fit (a figure has no table), no browser for a picture, a
            path that cannot be written.
    """
    path = Path(path)
    form = path.suffix[1:].lower()
    if form not in FORMATS:
        known = ", ".join("." + name for name in FORMATS)
        raise ExportError(f"cannot tell the format of {str(path)!r} from its suffix; expected one of {known}")
    if form in ("html", *PICTURES):
        content = _draw(_figure(fig_or_result), form)
    elif form == "json":
        content = _as_json(fig_or_result)
    elif form == "csv":
        content = _table(fig_or_result)
    else:
        content = None
        _one_result(fig_or_result)
    with replacing(path) as temporary:
        if content is None:
            fig_or_result.save(temporary)
        elif isinstance(content, str):
            temporary.write_text(content, encoding="utf-8", newline="")
        else:
            temporary.write_bytes(content)
    return path


@contextmanager
def writable_folder(folder: Path) -> Iterator[None]:
    """Make sure, before any work is done, that files can be written to `folder`; make it if it is missing.

    If the body fails, the folders made are removed again.

    Raises:
        TracerError: the folder cannot be written.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]  # innermost first
    probe = folder / f".{secrets.token_hex(4)}"
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            reason = error.strerror or str(error)
            raise CannotWrite(f"cannot write to the folder {folder} ({reason}); choose a writable one") from error
        yield
    except BaseException:
        for each in made:
            with suppress(OSError):  # never made, or somebody else uses it by now
                each.rmdir()
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes its place at the end, and is removed if anything fails.

    Raises:
        TracerError: `path` cannot be written.
    """
    with writable_folder(path.parent), new_file(path) as temporary:
        yield temporary


def _is_figure(item: Any) -> bool:
    from plotly.basedatatypes import BaseFigure

    return isinstance(item, BaseFigure)


def _figure(item: Any) -> go.Figure:
    """The figure itself, or the one that goes with a result, or with results of one kind."""
    if _is_figure(item):
        return item
    several = isinstance(item, Sequence) and not isinstance(item, str)
    results = list(item) if several else [item]
    if not results:
        raise ExportError("nothing to draw: the list is empty")
    kinds = {_kind(each) for each in results}
    if len(kinds) > 1:
        raise ExportError(f"one file shows results of one kind, not {' and '.join(sorted(kinds))}; write each alone")
    return _plotter(kinds.pop(), several)(item)


def _kind(result: Any) -> str:
    """The name of the class of results that this is one of."""
    names = [each.__name__ for each in type(result).__mro__]
    return next((name for name in names if name in PLOTTED), names[0])


def _plotter(kind: str, several: bool) -> Callable[[Any], go.Figure]:
    from tracer import plots

    if kind not in PLOTTED:
        raise ExportError(f"no figure is known for {kind}; pass a figure or one of {', '.join(PLOTTED)}")
    return getattr(plots, PLOTTED[kind][several])


def _draw(figure: go.Figure, form: str) -> str | bytes:
    if form != "html":
        return _picture(figure, form)
    import plotly.io

    from .fit import adaptive

    body = plotly.io.to_html(
        adaptive(figure),
        full_html=False,
        include_plotlyjs=True,
        include_mathjax=False,
        div_id="figure",  # a fixed name, so that the same figure is the same file
        # no button that would upload the figure
        config={"displaylogo": False, "responsive": False, "showSendToCloud": False},
        post_script=ARRANGE,
    )
    return PAGE.format(title=html.escape(_title(figure)), figure=body)


def _title(figure: go.Figure) -> str:
    """The figure's title as plain text, for the browser's tab."""
    import re

    layout: Any = figure.layout
    text = layout.title.text or "tracer"
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def _picture(figure: go.Figure, form: str) -> bytes:
    try:
        import kaleido
        from choreographer.errors import BrowserClosedError, BrowserDepsError, BrowserFailedError, ChromeNotFoundError
    except ImportError as error:
        raise NoBrowser(NO_KALEIDO) from error
    layout: Any = figure.layout
    options = {"format": form, "width": layout.width, "height": layout.height, "scale": 2 if form == "png" else 1}
    try:
        # MathJax would be fetched from the network, and labels hold no formulas
        return kaleido.calc_fig_sync(figure.to_dict(), opts=options, kopts={"mathjax": False})
    except ChromeNotFoundError as error:
        raise NoBrowser(NO_BROWSER) from error
    except (BrowserClosedError, BrowserDepsError, BrowserFailedError, TimeoutError) as error:
        raise NoBrowser(
            f"the browser that draws {form} files did not start or did not answer; html needs no browser"
        ) from error


def _results(item: Any, form: str) -> list[Any]:
    results = list(item) if isinstance(item, Sequence) and not isinstance(item, str) else [item]
    if not results:
        raise ExportError(f"nothing to write as {form}: the list is empty")
    for each in results:
        if _is_figure(each) or not hasattr(each, "to_frame"):
            kind = "figure" if _is_figure(each) else type(each).__name__
            raise ExportError(
                f"{form} holds the numbers of a result, not a {kind}; pass the result it was plotted from"
            )
    return results


def _one_result(item: Any) -> None:
    results = _results(item, "npz")
    if len(results) > 1 or results[0] is not item:
        raise ExportError("npz holds one result, not a list; write each to a file of its own, or all as csv or json")


def _table(item: Any) -> str:
    import pandas as pd

    results = _results(item, "csv")
    if len(results) == 1 and results[0] is item:
        return item.to_frame().to_csv(index=False)
    return pd.concat([_told_apart(each) for each in results]).to_csv(index=False)


def _told_apart(result: Any) -> pd.DataFrame:
    """A result's table, with what distinguishes results from each other in columns of its own."""
    frame = result.to_frame()
    return frame.assign(
        **{
            name: "" if getattr(result, name) is None else getattr(result, name)
            for name in DISTINCT
            if hasattr(result, name) and name not in frame.columns
        }
    )


def _as_json(item: Any) -> str:
    if _is_figure(item):
        return item.to_json()
    results = [plain(each) for each in _results(item, "json")]
    content = results if isinstance(item, Sequence) else results[0]
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def plain(value: Any) -> Any:
    """Results, other dataclasses, arrays and numpy numbers as JSON values; NaN and infinity become None.

    Args:
        value: any of these, or lists and dicts of them; anything else becomes text.
    """
    if hasattr(value, "to_plain"):
        return plain(value.to_plain())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
