"""Where a codebook's key tells questions apart, and how far it reaches: what GRACE measures, against real questions.

    python benchmarks/memory_radius.py run factworld --records 120        # or smollm2-135m, or gemma-3-270m
    python benchmarks/memory_radius.py table factworld                    # layers and radii, as Markdown

Of each record the state of the request's prompt is compared with those of its paraphrases (which an entry is to act on)
and of its neighbours and the subject's other facts (which it is not), at every layer. What ``editing.compute_edit(...,
"grace")`` measures knows none of these: it has the prompt behind text that the model writes, and about random subjects.
Interrupted, a run goes on at the next record.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

import editing
import tracer
from editing.methods.codebook.separation import Separation, best_layer, separations
from editing.methods.context import EditContext
from tracer import Fact
from tracer.engine.prompt_states import prompt_states
from tracer.plots.export import replacing
from tracer.progress import track

RUNS = Path("runs") / "memory_radius"
EMBEDDED = "factworld"
READ = "mlp_in"
PUBLISHED = 1.0
NEAR, FAR = ("paraphrase",), ("neighbour", "same_subject")
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def run(
    model: str, records: Annotated[int, typer.Option(help="Records of the model's set.")] = 120, read: str = READ
) -> None:
    """Measure the states of records, one file each."""
    loaded = tracer.load(None if model == EMBEDDED else model)
    layers = tuple(range(loaded.n_layers))
    context = EditContext(loaded)
    folder = RUNS / model / read
    folder.mkdir(parents=True, exist_ok=True)
    for number, record in enumerate(track(_records(model, records), "records")):
        path = folder / f"{number:04d}.npz"
        if path.exists():
            continue
        request = record.requests()[0]
        questions = record.questions()
        near, far = ([each.prompt for each in questions if each.kind in kinds] for kinds in (NEAR, FAR))
        prompts = [tuple(Fact(text, text).align(loaded).input_ids) for text in (request.text, *near, *far)]
        found = prompt_states(loaded, prompts, [(read, layer) for layer in layers])
        states = torch.stack([found[read, layer] for layer in layers], 1).float()  # [prompts, layers, width]
        measured = separations(request, read, layers, "last", 0, context)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                key=states[0],
                near=states[1 : 1 + len(near)],
                far=states[1 + len(near) :],
                same=[measured[layer].same for layer in layers],
                other=[measured[layer].other for layer in layers],
            )


@app.command()
def table(model: str, read: str = READ) -> None:
    """Print, for each layer, what is measured and what it comes to."""
    files = [dict(np.load(path)) for path in sorted((RUNS / model / read).glob("*.npz"))]
    keys = np.stack([each["key"] for each in files])  # [records, layers, width]
    measured = [_separations(each) for each in files]
    typer.echo(f"{len(files)} records of {model}; the layer that would be chosen, by records: {_chosen(measured)}\n")
    typer.echo(
        "| layer | key norm | ratio | radius / norm | paraphrases | others | in one memory | others | radius 1 |"
    )
    typer.echo("|---|---|---|---|---|---|---|---|---|")
    for layer in range(keys.shape[1]):
        norm = np.linalg.norm(keys[:, layer], axis=1)
        radius = np.array([one[layer].radius for one in measured]) * norm
        ratio = np.median([one[layer].ratio for one in measured])
        alone = [_alone(files, name, layer, radius) for name in ("near", "far")]
        together = [_together(files, name, keys[:, layer], layer, radius) for name in ("near", "far")]
        one = _alone(files, "near", layer, np.full(len(files), PUBLISHED))
        share = np.median(radius / norm)
        shares = " | ".join(f"{value:.0%}" for value in (alone[0], alone[1], *together, one))
        typer.echo(f"| {layer} | {norm.mean():.1f} | {ratio:.2f} | {share:.2f} | {shares} |")


def _separations(arrays: dict[str, np.ndarray]) -> dict[int, Separation]:
    return {
        layer: Separation(*map(float, pair))
        for layer, pair in enumerate(zip(arrays["same"], arrays["other"], strict=True))
    }


def _chosen(measured: list) -> str:
    layers, counts = np.unique([best_layer([one])[0] for one in measured], return_counts=True)
    return ", ".join(f"{layer} ({count})" for layer, count in zip(layers, counts, strict=True))


def _alone(files: list, name: str, layer: int, radius: np.ndarray) -> float:
    """Share of questions that a record's own entry acts on."""
    hits = [
        np.linalg.norm(each[name][:, layer] - each["key"][layer], axis=1) <= size
        for each, size in zip(files, radius, strict=True)
    ]
    return float(np.concatenate(hits).mean())


def _together(files: list, name: str, keys: np.ndarray, layer: int, radius: np.ndarray) -> float:
    """With every record's entry in one memory: paraphrases that their own one acts on, others that any acts on."""
    hits = []
    for number, each in enumerate(files):
        distances = np.linalg.norm(each[name][:, None, layer] - keys[None], axis=2)  # [questions, entries]
        nearest = distances.argmin(1)
        hit = distances.min(1) <= radius[nearest]
        hits.append(hit & (nearest == number) if name == "near" else hit)
    return float(np.concatenate(hits).mean())


def _records(model: str, limit: int) -> list:
    if model == EMBEDDED:
        return editing.load_records("factworld", split="test", limit=limit)
    return editing.load_records("counterfact", limit=limit)


if __name__ == "__main__":
    app()
