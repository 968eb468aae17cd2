"""Does the trace of a fact say where an edit of it works? Effects and edits layer by layer, for single facts.

    python benchmarks/where_edits_work.py run gemma-3-270m --every 3       # or smollm2-135m, or factworld
    python benchmarks/where_edits_work.py keep                             # what was measured, into a parquet file
    python benchmarks/where_edits_work.py table                            # correlations with intervals, as Markdown

Of each fact that the model knows, MLP outputs around each layer are restored at the subject's last token, as
``editing.locate(..., "trace")`` does, and ROME writes the fact at each layer alone, as ``"sweep"`` does. Hase et al.
("Does Localization Inform Editing?", 2023) found next to no relation of the two in GPT-J. The embedded model is the
other end, since the layers that recall its facts are known. Interrupted, a run goes on at the next fact; facts that are
kept count as measured, and ``real_edits.py`` tells which of the others the model knows.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from results import replace_rows

import editing
import tracer
from editing.layers import Located
from tracer.factworld import records as factworld_records
from tracer.progress import track
from tracer.statistics import clustered_mean, rank_correlation

HERE = Path(__file__).parent / "real"
RUNS = Path("runs") / "where_edits_work"
KEPT = HERE / "where_edits_work.parquet"
FILE = "counterfact/counterfact_portability_gpt4.json"
TEXT, TOKENS = "text/valid.txt", 100_000
EMBEDDED = "factworld"
SCORES = ("reliability", "generalisation", "locality")
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def run(
    model: str,
    every: Annotated[int, typer.Option(help="Measure every so many layers, the first and the last ones too.")] = 1,
    facts: Annotated[int, typer.Option(help="Facts that the model knows.")] = 30,
) -> None:
    """Measure traces and edits of single facts, one file each."""
    loaded = tracer.load(None if model == EMBEDDED else model)
    layers = tuple(sorted({*range(0, loaded.n_layers, every), loaded.n_layers - 1}))
    options: dict[str, Any] = {}
    if model != EMBEDDED:
        text = _data() / TEXT
        options["covariance"] = editing.estimate_covariance(loaded, layers, text=text, max_tokens=TOKENS)
    folder = RUNS / model
    folder.mkdir(parents=True, exist_ok=True)
    measured, knows = _measured(model), _asked(model)
    done = len(measured)
    for number, record in enumerate(track(list(_records(model)), "facts")):
        if done >= facts:
            break
        rewrite = record["requested_rewrite"]
        if rewrite["subject"] in measured or not knows.get(str(record["case_id"]), True):
            continue
        unknown, files = (
            folder / f"{number}.unknown",
            [folder / f"{number}-{using}.npz" for using in ("trace", "sweep")],
        )
        if unknown.exists():
            continue
        if not all(file.exists() for file in files):
            try:
                editing.locate(loaded, record, "trace", layers=layers).save(files[0])
            except tracer.errors.AverageError:  # the model does not give the true answer
                unknown.touch()
                continue
            editing.locate(loaded, record, "sweep", layers=layers, **options).save(files[1])
        done += 1


@app.command()
def keep() -> None:
    """Write what was measured beside this file, one row per fact and layer."""
    rows = []
    for model in sorted(folder.name for folder in RUNS.iterdir()):
        for file in sorted((RUNS / model).glob("*-sweep.npz"), key=lambda path: int(path.name.split("-")[0])):
            sweep, trace = Located.load(file), Located.load(str(file).replace("-sweep", "-trace"))
            for layer in np.flatnonzero(~np.isnan(sweep.evidence["reliability"][0])):
                scores = {name: sweep.evidence[name][0, layer] for name in sweep.evidence}
                about = {
                    "model": model,
                    "layers": sweep.n_layers,
                    "prompt": sweep.prompts[0],
                    "subject": sweep.subjects[0],
                }
                rows.append({**about, "layer": int(layer), "effect": trace.evidence["effect"][0, layer], **scores})
    replace_rows(KEPT, pd.DataFrame(rows), by=("model", "subject"))


@app.command()
def table() -> None:
    """Rank correlations of effect and edit, with 95 % intervals over facts."""
    print(correlations(pd.read_parquet(KEPT)).to_markdown(index=False))


def correlations(found: pd.DataFrame) -> pd.DataFrame:
    """Over a fact's layers (mean over facts), and over facts at a layer (mean over layers), by model and score.

    The score "all" is the mean of the three margins, which tells apart edits that all succeed.
    """
    rows = []
    for model, own in found.groupby("model", sort=False):
        margins = own.assign(all=own[[f"{name} margin" for name in SCORES]].mean(axis=1))
        effect = margins.pivot(index=["subject", "prompt"], columns="layer", values="effect")
        for score in ("all", *(f"{name} margin" for name in SCORES)):
            edited = margins.pivot(index=["subject", "prompt"], columns="layer", values=score)
            subjects = [str(subject) for subject, _ in effect.index]
            inside = np.array([rank_correlation(a, b) for a, b in zip(effect.values, edited.values, strict=True)])
            across, low, high = _across(effect.values, edited.values)
            mean, least, most = (float(each) for each in clustered_mean(inside, subjects))
            rows.append(
                {
                    "model": model,
                    "facts": len(effect),
                    "layers": effect.shape[1],
                    "score": score.replace(" margin", ""),
                    "over a fact's layers": f"{mean:.2f} [{least:.2f}, {most:.2f}]",
                    "over facts at a layer": f"{across:.2f} [{low:.2f}, {high:.2f}]",
                }
            )
    return pd.DataFrame(rows)


def _across(effect: np.ndarray, edited: np.ndarray, resamples: int = 2000) -> tuple[float, float, float]:
    """Mean over layers of the correlation over facts, with a bootstrap over facts."""
    random = np.random.default_rng(0)

    def mean(some: np.ndarray) -> float:
        every = [rank_correlation(a, b) for a, b in zip(effect[some].T, edited[some].T, strict=True)]
        return float(np.nanmean(every)) if np.isfinite(every).any() else float("nan")

    drawn = [mean(random.integers(len(effect), size=len(effect))) for _ in range(resamples)]
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return mean(np.arange(len(effect))), float(low), float(high)


def _records(model: str) -> list[dict[str, Any]]:
    if model == EMBEDDED:
        every = factworld_records("test")
        return [every[place] for place in np.random.default_rng(0).permutation(len(every))]
    return json.loads((_data() / FILE).read_text(encoding="utf-8"))


def _measured(model: str) -> set[str]:
    """Subjects of the facts that are kept."""
    found = pd.read_parquet(KEPT) if KEPT.exists() else pd.DataFrame({"model": [], "subject": []})
    return set(found.loc[found["model"] == model, "subject"])


def _asked(model: str) -> dict[str, bool]:
    file = HERE / f"{model}-known.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _data() -> Path:
    folder = os.environ.get("TRACER_DATA")
    if not folder:
        raise SystemExit("TRACER_DATA should name the folder that holds counterfact/ and text/")
    return Path(folder)


if __name__ == "__main__":
    app()
