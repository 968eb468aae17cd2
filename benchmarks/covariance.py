"""The covariance of keys: how many tokens it wants, how fast it is gathered, and what edits make of it.

    python benchmarks/covariance.py tokens          condition number and change over the last doubling, by tokens
    python benchmarks/covariance.py speed           against one layer at a time, one window at a time, on one thread
    python benchmarks/covariance.py edits           rank-one edits of validation records, by tokens

All on the embedded model and text like its training text.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

import tracer
from benchmarks.trace import timed
from editing.covariance.estimate import estimate_covariance
from editing.covariance.text import windows
from tracer import Model, TracerError
from tracer.engine.forward import Stop
from tracer.engine.hooks import Frame, attach, evaluating
from tracer.progress import track

COUNTS = (1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)
WINDOW = 192


def tokens(model: Model, layer: int, counts: Sequence[int]) -> None:
    """Condition number, and changes since half of the tokens and to the largest number, by tokens."""
    found = [estimate_covariance(model, layer, max_tokens=n, cache=False) for n in counts]
    last = found[-1].matrix(layer)
    print(f"layer {layer}, d_mlp {model.d_mlp}\n tokens  condition  change  to the last")
    for each in found:
        away = float((each.matrix(layer) - last).norm() / last.norm())
        print(f"{each.tokens:7}  {each.condition(layer):9.2e}  {each.change(layer):6.3f}  {away:11.3f}")


def plain(model: Model, rows: list[np.ndarray]) -> dict[int, Tensor]:
    """The moment of every layer, the model run as far as each of them, one window at a time."""
    moments = {}
    with torch.no_grad(), evaluating(model):
        for layer in range(model.n_layers):
            total = torch.zeros(model.d_mlp, model.d_mlp)

            def gather(keys: Tensor, total: Tensor = total) -> None:
                total += keys[0].T @ keys[0]
                raise Stop

            for row in rows:
                handle = attach(model, "key", layer, gather, Frame(len(row)))
                with suppress(Stop):
                    model.hf(input_ids=torch.from_numpy(row)[None].long())
                handle.remove()
            moments[layer] = total / sum(map(len, rows))
    return moments


def speed(model: Model, count: int = 16_384) -> None:
    """Seconds for every layer, and the ratio."""
    with windows(model, None, WINDOW, count) as corpus:
        rows = corpus.rows(0, len(corpus.ends))
    plain(model, rows[:1])  # once, to warm up
    expected, *slow = timed(lambda: plain(model, rows))
    found, *fast = timed(lambda: estimate_covariance(model, window=WINDOW, max_tokens=count, cache=False))
    apart = max(float((found.matrix(i) - m).norm() / m.norm()) for i, m in expected.items())
    for name, (cpu, wall) in {"plain": slow, "here": fast}.items():
        print(f"{name:5} {count} tokens, {model.n_layers} layers: {cpu:6.2f} s of the processor, {wall:6.2f} s in all")
    print(f"ratio {slow[0] / fast[0]:.1f}; moments apart by {apart:.1e}")


def edits(model: Model, layer: int, counts: Sequence[int], count: int) -> None:
    """Shares of rewrites and paraphrases that prefer the new object, and of neighbours that prefer the true one still.

    Where the covariance is singular, a ten-thousandth of its mean diagonal is added.
    """
    from editing.edits.weights import applied
    from editing.methods.compute import compute_edits
    from editing.questions.target_scores import prefers

    chosen = Random(0).sample(tracer.factworld.records("validation"), count)
    print(f"layer {layer}, {count} records\n tokens  rewrite  paraphrase  neighbours")
    for n in counts:
        cov = estimate_covariance(model, layer, max_tokens=n, cache=False)
        given: dict[str, Any] = {"covariance": cov, "layers": [layer], "known": "edit"}
        try:
            found = compute_edits(model, [[r] for r in chosen], "rome", **given)
        except TracerError:  # too few tokens
            found = compute_edits(model, [[r] for r in chosen], "rome", damping=1e-4, **given)
        scores: dict[str, list[bool]] = {"rewrite": [], "paraphrase": [], "near": []}
        for record, edit in track(list(zip(chosen, found, strict=True)), f"{n} tokens"):
            rewrite: Any = record["requested_rewrite"]
            new, true = rewrite["target_new"]["str"], rewrite["target_true"]["str"]
            groups = {
                "rewrite": [rewrite["prompt"].format(rewrite["subject"])],
                "paraphrase": record["paraphrase_prompts"],
                "near": record["neighborhood_prompts"],
            }
            with applied(model, edit.factors):
                for name, prompts in groups.items():
                    if prompts:
                        first, second = (true, new) if name == "near" else (new, true)
                        scores[name] += list(prefers(model, prompts, first, second))
        share = [np.mean(values) for values in scores.values()]
        print(f"{n:7}  {share[0]:7.3f}  {share[1]:10.3f}  {share[2]:10.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tokens", "speed", "edits"))
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--tokens", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--records", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = tracer.load(device="cpu").pinned()
    if given.what == "tokens":
        tokens(model, given.layer, given.tokens)
    elif given.what == "speed":
        speed(model)
    else:
        edits(model, given.layer, given.tokens, given.records)


if __name__ == "__main__":
    main()
