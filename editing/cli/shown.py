"""Output of `tracer edit`: the edit, its place, and the answers before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from editing.edits.content import header_of
from editing.edits.weights import parameter
from editing.questions.table import tables, written
from tracer.cli import printing
from tracer.plots.labels import cut

if TYPE_CHECKING:
    from editing.edits.edit import Edit
    from editing.layers.located import Located
    from editing.questions.outcome import Outcome
    from editing.questions.probes import Probes
    from editing.request import EditRequest
    from tracer.model import Model


def show_edit(model: Model, edit: Edit, probes: Probes) -> None:
    """Print the request, and the place, size and time of the edit; the model is as it was before."""
    printing.say(title(edit.requests, probes), style="bold")
    printing.say("   ".join([edit.method, *_where(model, edit), f"{edit.seconds:.2f} s", _bytes(edit.memory)]))
    if edit.on_text:
        printing.say(edit.on_text)
    printing.notes([edit.note])


def show_located(located: Located) -> None:
    """Print the layers suggested, with their evidence."""
    window = located.window
    around = f", in layers {window[0]} to {window[-1]}" if len(window) > 1 else ""
    printing.say(f"located by {located.using}: best at layer {located.layers[0]}{around}")
    printing.notes([located.note])


def show_outcome(outcome: Outcome, judged: bool = True) -> None:
    """Print the answers before and after."""
    for table in tables(outcome, judged):
        printing.show(table)
    for prompt, before, after in written(outcome):
        printing.say(prompt, style="bold")
        printing.say(f"  before: {before}")
        printing.say(f"  after:  {after}")


def edit_values(edit: Edit) -> dict[str, Any]:
    """An edit as json values: how it was made, and how large it is."""
    return {**header_of(edit), "rank": edit.rank(), "norm": edit.norm(), "on_text": edit.on_text}


def outcome_values(outcome: Outcome) -> dict[str, Any]:
    """Answers before and after as json values: a row for each question, one for each group, and the texts written."""
    texts = [{"prompt": prompt, "before": before, "after": after} for prompt, before, after in written(outcome)]
    tables = {"questions": outcome.to_frame(), "summary": outcome.summary()}
    return {**{name: table.to_dict("records") for name, table in tables.items()}, "texts": texts}


def title(requests: Sequence[EditRequest], probes: Probes) -> str:
    """The fact as it should be, or the number of facts."""
    if len(requests) != 1:
        return f"{len(requests):,} requests"
    (request,) = requests
    true = next((q.true for q in probes.questions if q.prompt == request.text and q.kind == "rewrite"), None)
    was = f"   (was {true.strip()})" if true else ""
    return f"{request.text} → {request.target_new.strip()}{was}"


def _where(model: Model, edit: Edit) -> list[str]:
    """Layers or weights, the rank of the change, and its norm beside the weight's."""
    memories = [change.describe() for change in edit.memories]
    if not edit.weights:
        return memories or ["no weight changed"]
    layers = {model.down_projection(layer).name: layer for layer in range(model.n_layers)}
    if {*edit.weights} <= {*layers}:
        places = sorted(layers[name] for name in edit.weights)
        where = f"layer {places[0]}" if len(places) == 1 else f"layers {', '.join(map(str, places))}"
    else:
        names = edit.weights
        where = cut(names[0], 60) if len(names) == 1 else f"{len(names)} weights"
    relative = [norm / max(_norm(model, name), 1e-30) for name, norm in edit.norm().items()]
    ranks = edit.rank().values()
    return [
        where,
        f"rank {_span(min(ranks), max(ranks), 'd')}",
        f"|change| {_span(min(relative), max(relative), '.2%')} of |W|",
        *memories,
    ]


def _norm(model: Model, name: str) -> float:
    return float(parameter(model, name).detach().float().norm())


def _span(low: float, high: float, form: str) -> str:
    first, last = format(low, form), format(high, form)
    return first if first == last else f"{first} to {last}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
