"""The widgets of the panels, all in one look, and the style they share.

Labels stand above their fields, and texts are shown as they are: descriptions of widgets are plain text by ipywidgets'
own default, and all texts in HTML pass through `editing.workbench.texts.shown`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tracer.errors import WorkbenchError
from tracer.extras import install

if TYPE_CHECKING:
    import ipywidgets

NO_WIDGETS = f"the workbench needs ipywidgets and anywidget; install them: {install('lab')}"

# JupyterLab's own colours, so that light and dark themes are followed; fallbacks behind a comma are for other places
STYLE = """<style>
.tw { max-width: 1320px; color: var(--jp-ui-font-color1, #222); font-family: var(--jp-ui-font-family, sans-serif);
  font-size: 13px; line-height: 1.45; }
.tw .widget-html, .tw .widget-html-content { line-height: 1.45; height: auto; color: inherit; }
.tw .tw-panel { border: 1px solid var(--jp-border-color2, #ddd); border-radius: 4px; padding: 8px 12px 10px;
  margin: 0 0 10px; background: var(--jp-layout-color1, #fff); overflow: visible; }
.tw .tw-title { font-weight: 600; font-size: 14px; margin: 0; }
.tw .tw-label { color: var(--jp-ui-font-color2, #666); font-size: 12px; line-height: 1.3; margin: 4px 2px 0; }
.tw .tw-quiet { color: var(--jp-ui-font-color2, #666); font-size: 12px; }
.tw .tw-row { display: flex; flex-flow: row wrap; gap: 2px 10px; align-items: flex-end; overflow: visible; }
.tw .tw-row > * { margin: 0; }
.tw .tw-figure { overflow-x: auto; background: #fff; border-radius: 4px; }
.tw table.tw-table { border-collapse: collapse; width: 100%; font-size: 12.5px; }
.tw table.tw-table th { text-align: left; font-weight: 600; color: var(--jp-ui-font-color2, #666); font-size: 12px;
  border-bottom: 1px solid var(--jp-border-color2, #ddd); padding: 2px 8px 2px 0; }
.tw table.tw-table td { padding: 2px 8px 2px 0; vertical-align: top; text-align: left; overflow-wrap: anywhere;
  background: none; }
.tw table.tw-table th, .tw table.tw-table td.tw-quiet { white-space: nowrap; }
.tw table.tw-table tr.tw-group td { font-weight: 600; padding-top: 7px; }
.tw table.tw-table .tw-number { font-variant-numeric: tabular-nums; white-space: nowrap; text-align: right; }
.tw .tw-numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 2px 18px;
  margin: 6px 0; }
.tw .tw-numbers > div { display: flex; justify-content: space-between; gap: 8px; font-variant-numeric: tabular-nums;
  border-bottom: 1px dotted var(--jp-border-color2, #ddd); }
.tw .tw-tokens { display: flex; flex-flow: row wrap; gap: 3px; margin: 4px 0; }
.tw .tw-token { font-family: var(--jp-code-font-family, monospace); font-size: 12px; padding: 1px 5px;
  border: 1px solid var(--jp-border-color2, #ddd); border-radius: 3px; white-space: pre; }
.tw .tw-subject { border-color: var(--jp-brand-color1, #1976d2);
  box-shadow: inset 0 -2px var(--jp-brand-color1, #1976d2); }
.tw .tw-goal { border-style: dashed; }
.tw .tw-message { margin: 4px 0 0; padding: 3px 8px; border-left: 3px solid var(--jp-border-color1, #bbb);
  overflow-wrap: anywhere; }
.tw .tw-message.tw-error { border-left-color: var(--jp-error-color1, #d32f2f); }
.tw .tw-message.tw-warning { border-left-color: var(--jp-warn-color1, #f57c00); }
.tw .tw-message pre { font-size: 11.5px; white-space: pre-wrap; margin: 4px 0; color: inherit; background: none; }
.tw .tw-bad { color: var(--jp-error-color1, #d32f2f); }
.tw .tw-good { color: var(--jp-success-color1, #388e3c); }
</style>"""


def library() -> Any:
    """The module ipywidgets.

    Raises:
        TracerError: it is missing, or anywidget for figures is.
    """
    try:
        import anywidget  # noqa: F401  plotly's live figures are made of it
        import ipywidgets
    except ImportError as error:
        raise WorkbenchError(NO_WIDGETS) from error
    return ipywidgets


def markup(html: str = "", *classes: str) -> ipywidgets.HTML:
    """A piece of HTML. Texts in it have to be escaped already."""
    return _named(library().HTML(html), "", classes)


def panel(title: str, *children: Any) -> ipywidgets.VBox:
    """A framed part of the page with its title."""
    head = markup(f'<p class="tw-title">{title}</p>')
    return column(head, *children, classes=("tw-panel",))


def column(*children: Any, width: str | None = None, classes: Sequence[str] = ()) -> ipywidgets.VBox:
    """Children below each other."""
    return _named(library().VBox(list(children), layout={"width": width} if width else {}), "", classes)


def row(*children: Any) -> ipywidgets.Box:
    """Children beside each other, in as many lines as they need."""
    return _named(library().Box(list(children)), "", ("tw-row",))


def labelled(label: str, control: Any, width: str = "auto", grow: int = 0) -> ipywidgets.VBox:
    """A control below its label."""
    control.layout.width = "100%"
    control.layout.margin = "0"
    control.tooltip = label  # its name for a screen reader
    box = column(markup(f'<div class="tw-label">{label}</div>'), control, width=width)
    box.layout.flex = f"{grow} {1 if grow else 0} {width}"
    box.layout.overflow = "visible"
    return box


def text(name: str, value: str = "", placeholder: str = "") -> ipywidgets.Text:
    """A line to type into; its value changes when it is left or Enter is pressed."""
    return _named(library().Text(value, placeholder=placeholder, continuous_update=False), name)


def file(name: str, placeholder: str = "") -> ipywidgets.Combobox:
    """A path to type, or to choose from those that are offered."""
    return _named(library().Combobox(value="", placeholder=placeholder, continuous_update=False), name)


def lines(name: str, placeholder: str = "") -> ipywidgets.Textarea:
    """Several lines to type into."""
    return _named(library().Textarea("", placeholder=placeholder, continuous_update=False, rows=4), name)


def whole(name: str, value: int, least: int, most: int) -> ipywidgets.BoundedIntText:
    """A whole number."""
    return _named(library().BoundedIntText(value, min=least, max=most), name)


def real(name: str, value: float, least: float, most: float) -> ipywidgets.BoundedFloatText:
    """A number."""
    return _named(library().BoundedFloatText(value, min=least, max=most, step=0.5), name)


def choice(name: str, options: Sequence[Any], value: Any = None) -> Any:
    """One of several: values, or (text, value) pairs."""
    return _named(library().Dropdown(options=list(options), value=value), name)


def toggle(name: str, options: Sequence[Any]) -> Any:
    """One of a few, as buttons."""
    buttons = library().ToggleButtons(options=list(options))
    buttons.style.button_width = "auto"
    return _named(buttons, name)


def tick(name: str, label: str, value: bool) -> ipywidgets.Checkbox:
    """Yes or no."""
    box = library().Checkbox(value, description=label, indent=False)
    box.layout.width = "auto"
    box.layout.margin = "0 8px 0 0"
    return _named(box, name)


def button(name: str, label: str, pressed: Callable[[], None], main: bool = False) -> ipywidgets.Button:
    """A button that calls `pressed`."""
    made = library().Button(description=label, button_style="primary" if main else "")
    made.layout.width = "auto"
    made.layout.margin = "2px 0 0"
    made.on_click(lambda _: pressed())
    return _named(made, name)


def _named(widget: Any, name: str, classes: Sequence[str] = ()) -> Any:
    for each in (*([f"tw-{name}"] if name else []), *classes):
        widget.add_class(each)
    return widget
