"""What the machine at hand takes for traces and edits of real sizes, beside a plain loop: random weights, real shapes.

    python benchmarks/device.py                                  # on the first accelerator, or the processor
    python benchmarks/device.py --shapes gpt2 --device cpu --seconds 60
    python benchmarks/device.py --shapes gpt2-xl,llama-7b --out device.json

Every time includes everything, the hash of the weights too, and is that of the second run; the first one, by which a
device warms up, is not shown. Weights are random, so that only times mean something here. The plain loop restores one
site in a forward (`tests/support/reference.py`); it is timed on a few sites and told for all of them. A shape begins
no further part when the seconds that were given for it are over, and says which are missing.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TRACER_PROGRESS", "0")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import typer
from routed_records import records
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import editing
import tracer
from editing.methods.rome import default_layer
from editing.methods.value.spread import default_layers
from tests.support import reference
from tracer import Model
from tracer.tracing.corruption import GaussianNoise

SHAPES: dict[str, tuple[Any, dict[str, Any], torch.dtype]] = {
    "tiny": (GPT2Config, {"n_layer": 4, "n_embd": 64, "n_head": 4}, torch.float32),
    "gpt2": (GPT2Config, {}, torch.float32),
    "gpt2-xl": (GPT2Config, {"n_layer": 48, "n_embd": 1600, "n_head": 25}, torch.float32),
    "llama-7b": (LlamaConfig, {}, torch.bfloat16),
}
FACT = tracer.Fact("{} is in downtown", "The Space Needle")
TOKENS, SAMPLES, SITES = 40_000, 10, 6  # of text for a covariance; rows of noise; sites that the plain loop is timed on
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Part:
    """A part of the table.

    Attributes:
        name: what is measured.
        work: does it.
        plain: seconds of a plain loop over the same; None: there is none.
        again: whether it is done twice, and the second time counts.
    """

    name: str
    work: Callable[[], Any]
    plain: Callable[[], float] | None = None
    again: bool = True


def made(name: str, device: torch.device) -> Model:
    """A model of a shape, with random weights and the embedded model's tokenizer."""
    kind, settings, dtype = SHAPES[name]
    torch.manual_seed(0)
    with device:
        hf = AutoModelForCausalLM.from_config(kind(**settings), dtype=dtype).eval()
    return Model.of(hf, tracer.load().tokenizer, f"{name} (random)")


def seconds(model: Model, work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - began


def plain_loop(model: Model, kind: str) -> float:
    """Seconds of a trace by one restored site in a forward, from those of a few sites."""
    found = FACT.align(model)
    start, end = found.subject_range
    draw = np.random.RandomState(1).randn(SAMPLES, end - start, model.d_model).astype(np.float32)
    ids, read = found.input_ids, [found.answer_position]
    window = [model.n_layers // 2] if kind == "hidden" else range(max(0, model.n_layers // 2 - 5), model.n_layers // 2)

    def one() -> float:
        sites = [(kind, layer, start) for layer in window]
        return reference.run(model, ids, (start, end), lambda: draw, sites, read, [0], 1 + SAMPLES)

    seconds(model, one)
    return seconds(model, lambda: [one() for _ in range(SITES)]) / SITES * len(ids) * model.n_layers


def parts(model: Model) -> Iterator[Part]:
    """What is measured, in order; each uses what those before it made."""
    noise = GaussianNoise(level=0.1)
    yield Part("fingerprint", model.fingerprint)
    for kind in ("hidden", "mlp", "attn"):
        trace = _traced(model, kind, noise)
        yield Part(f"trace {kind}", trace, lambda kind=kind: plain_loop(model, kind))
    layers = tuple(dict.fromkeys((default_layer(model), *default_layers(model))))
    drawn = np.random.RandomState(0).randint(0, len(model.tokenizer), 2 * TOKENS)
    text = str(model.tokenizer.decode(drawn.tolist(), skip_special_tokens=True))
    kept: dict[str, Any] = {}

    def covariance() -> None:
        kept["covariance"] = editing.estimate_covariance(model, layers, text=[text], max_tokens=TOKENS, cache=False)

    yield Part(f"covariance, {TOKENS:,} tokens, {len(layers)} layers", covariance, again=False)
    for method, counts in (("rome", (1,)), ("memit", (4, 16, 64))):
        for count in counts:
            yield Part(f"{method}, {count}", _edited(model, method, count, kept))


def _traced(model: Model, kind: Any, noise: GaussianNoise) -> Callable[[], Any]:
    return lambda: tracer.causal_trace(model, FACT, kind=kind, corruption=noise)


def _edited(model: Model, method: str, count: int, kept: dict[str, Any]) -> Callable[[], Any]:
    requests = [record.requests()[0] for record in records(count)]
    return lambda: editing.compute_edit(
        model, requests, method, covariance=kept["covariance"], known="edit", check=None
    )


@app.command()
def main(
    shapes: str = "gpt2,gpt2-xl,llama-7b",
    device: Annotated[str, typer.Option(help="By default the first accelerator, else the processor.")] = "",
    limit: Annotated[float, typer.Option("--seconds", help="For a shape.")] = 120.0,
    out: Annotated[Path | None, typer.Option(help="Times as json.")] = None,
) -> None:
    """Measure shapes one after the other."""
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    named = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.processor() or platform.machine()
    rows: list[dict[str, Any]] = []
    typer.echo(f"{named}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for shape in shapes.split(","):
        model, began = made(shape, place), time.perf_counter()
        for part in parts(model):
            row: dict[str, Any] = {"shape": shape, "part": part.name}
            if time.perf_counter() - began > limit:
                row["missing"] = f"{limit:.0f} s were over"
            else:
                first = seconds(model, part.work)
                row["seconds"] = round(seconds(model, part.work) if part.again else first, 3)
                if part.plain is not None:
                    row["plain"] = round(part.plain(), 3)
                    row["ratio"] = round(row["plain"] / row["seconds"], 1)
            rows.append(row)
            typer.echo("  ".join(str(value) for value in row.values()))
        if out is not None:
            out.write_text(json.dumps({"device": named, "rows": rows}, indent=1), encoding="utf-8")
        del model
        if place.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    app()
