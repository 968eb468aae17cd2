"""Editors that learn to edit, beside those that solve and those that remember: alone, at once, and one after another.

    python benchmarks/meta_editors.py train mend mend.safetensors --steps 600
    python benchmarks/meta_editors.py run rome,memit,mend --at-once 1,10,30,100 --in-turn 1,10
    python benchmarks/meta_editors.py keep      # what was measured, into meta_editors.parquet
    python benchmarks/meta_editors.py table     # shares with intervals, as Markdown

FactWorld: trained on fresh records of the train part's subjects, validated on the validation part, measured on the test
part; no subject is in two of them. Without files (`--prepared`) the editors that come with the package are used. Every
number of edits is measured on the same records, a hundred, cut into edits of so many; "in turn" they are edited so many
at a time, nothing taken back, and asked when all are in place. Interrupted, a run goes on where it was.
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from random import Random
from typing import Annotated, Any

import pandas as pd
import typer
from memory_tables import share
from results import replace_rows

import editing
import tracer
from editing.evaluation import Evaluation

HERE = Path(__file__).parent
RUNS, KEPT = Path("runs") / "meta_editors", HERE / "meta_editors.parquet"
KINDS = ("rewrite", "paraphrase", "neighbour", "same_subject")
TITLES = ("rewrite", "paraphrases", "neighbours", "other facts of the subject")
META = ("mend", "malmen", "ke", "rledit")
METHODS = ("rome", "memit", "alphaedit", "grace", "melo", "serac", "wise", "t_patcher", *META)
COUNT = 100
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def train(
    method: str,
    out: Path,
    steps: int = 600,
    seed: int = 0,
    settings: Annotated[str, typer.Option(help="Others, as json.")] = "{}",
) -> None:
    """Train an editor; a run that was stopped goes on."""
    records = editing.load_records("factworld:fresh")
    held_out = editing.load_records("factworld", split="validation")
    began = time.process_time()
    more = {"steps": steps, **json.loads(settings)}
    made = editing.prepare(tracer.load(), method, records, held_out=held_out, seed=seed, **more)
    made.save(out)
    print(made.to_frame().round(3).to_string(index=False))
    print(f"{made.nbytes / 1e6:.2f} MB, {time.process_time() - began:.0f} s of one core in this run")


@app.command()
def run(
    methods: str,
    at_once: Annotated[str, typer.Option(help="Numbers of simultaneous edits.")] = "1,10,30,100",
    in_turn: Annotated[str, typer.Option(help="Edits at a time, nothing taken back.")] = "1",
    prepared: Annotated[list[Path] | None, typer.Option(help="Files of trained editors.")] = None,
    label: Annotated[str, typer.Option(help="What the rows are called, such as a seed.")] = "",
    count: int = COUNT,
) -> None:
    """Ask the same records, teacher forced, after edits of every number."""
    RUNS.mkdir(parents=True, exist_ok=True)
    records = Random(0).sample(editing.load_records("factworld", split="test"), count)
    made = [editing.load_prepared(path) for path in prepared or ()]
    plain: dict[str, Any] = {"generate": False, "texts": False, "controls": (), "canary_tokens": 0}
    plain |= {"prepared": made} if made else {}
    uses: list[tuple[Any, int]] = [("batch" if size > 1 else "single", size) for size in _numbers(at_once)]
    uses += [("sequential", size) for size in _numbers(in_turn)]
    for method in methods.split(","):
        for mode, size in uses:
            options: dict[str, Any] = {"batch": size} if mode == "batch" else {}
            if mode == "sequential":
                options = {"step": size, "moments": 1, "retention": count}
            path = RUNS / f"{method}-{mode}-{size}-{count}-{label}.sqlite"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", editing.EditWarning)  # other numbers of edits than trained for
                began = time.perf_counter()
                editing.evaluate(tracer.load(), records, method, mode, path=path, **plain, **options)
            print(f"{path.name}: {time.perf_counter() - began:.0f} s", flush=True)


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]


@app.command()
def keep() -> None:
    """Write what was measured into ``meta_editors.parquet``: shares by case, and the seconds of an edit."""
    frames = []
    for file in sorted(RUNS.glob("*.sqlite")):
        _, mode, size, _, label = file.stem.split("-", 4)
        frame: Any = Evaluation.load(file).metrics
        if mode == "sequential":
            frame = frame[(frame["after"] == frame["after"].max()) | (frame["method"] == "unedited")]
        frame = frame[frame["metric"].isin([*(f"{kind} exact" for kind in KINDS), "seconds"])]
        how = "in turn" if mode == "sequential" else "at once"
        frames.append(frame.assign(how=how, edits=int(size), label=label))
    found: Any = pd.concat(frames, ignore_index=True)
    found.loc[found["method"] == "unedited", ["how", "edits", "label"]] = ["", 0, ""]
    columns = ["method", "how", "edits", "label", "case_id", "subject", "metric", "value"]
    found = found[columns].drop_duplicates(columns[:-1])
    replace_rows(KEPT, found, by=["method", "how", "edits", "label"], order=("unedited", *METHODS))


@app.command()
def table(how: Annotated[str, typer.Option(help="at once, or in turn.")] = "at once") -> None:
    """Shares of answers that are right in full, by kind of question: per cent, with 95 % intervals over subjects."""
    print(by_number(how).to_markdown(index=False))


def by_number(how: str) -> pd.DataFrame:
    """The table, as text.

    Args:
        how: "at once" or "in turn".
    """
    found: Any = pd.read_parquet(KEPT).astype({"value": "float64"})
    found = found[found["how"] == how]
    lines = []
    for key, own in found.groupby(["method", "label", "edits"], sort=False):
        method, label, edits = key if isinstance(key, tuple) else (key, "", 0)
        line = {"method": f"{method} {label}".strip(), "edits": edits}
        line |= {title: share(own[own["metric"] == f"{kind} exact"]) for kind, title in zip(KINDS, TITLES, strict=True)}
        lines.append(line)
    return pd.DataFrame(lines)


if __name__ == "__main__":
    app()
