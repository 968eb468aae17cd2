"""Time and agreement of the gradient estimate against the exact trace, in one process on one thread.

    python benchmarks/attribution.py                    GPT-2 small with random weights, and the embedded model
    python benchmarks/attribution.py --facts 20         agreement over so many FactWorld facts

Prints seconds of the processor for a plain loop of one restored site per forward, for the branched sweep and for the
estimates, and the ratios; then, on the embedded model, how well the estimate orders the sites (Spearman's rank
correlation over all cells from the subject on) and how often it finds the exact trace's best site.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.trace import gpt2_small, timed
from tests.support import reference
from tracer import factworld
from tracer.facts.fact import Fact
from tracer.model import Model, load
from tracer.progress import track
from tracer.statistics import rank_correlation
from tracer.tracing.attribution_patching import attribution_trace
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise

METHODS: dict[str, Any] = {"one gradient": None, "3 steps": 3, "10 steps": 10}


def speed(model: Model, fact: Fact) -> None:
    """Seconds of each way to fill one grid of hidden states."""
    noise = GaussianNoise(level=0.1)
    found = fact.align(model)
    span, ids, read = found.subject_range, found.input_ids, [found.answer_position]
    answer = [int(model.hf(torch.tensor([ids])).logits[0, -1].argmax())]

    def draw() -> np.ndarray:
        return noise.level_for(model) * noise.draw(span[1] - span[0], model.d_model)

    ways: dict[str, Any] = {
        "plain loop": lambda: reference.trace(
            model, ids, span, draw, read, answer, kind="hidden", tokens=range(len(ids))
        ),
        "branched sweep": lambda: causal_trace(model, fact, corruption=noise),
    }
    for name, steps in METHODS.items():
        ways[name] = lambda steps=steps: attribution_trace(model, fact, corruption=noise, steps=steps)
    print(f"\n{model.name}: {model.n_layers} layers, {len(ids)} tokens, hidden states, 10 samples")
    print(f"{'':16}{'seconds':>9}{'of the loop':>13}{'of the sweep':>14}")
    seconds: dict[str, float] = {}
    for name, way in ways.items():
        runs = 1 if name == "plain loop" else 3
        seconds[name] = min(timed(way)[1] for _ in range(runs))
        loop, sweep = (seconds[key] / seconds[name] if key in seconds else np.nan for key in list(ways)[:2])
        print(f"{name:16}{seconds[name]:9.2f}{loop:12.1f}x{sweep:13.1f}x")


def agreement(model: Model, facts: int) -> None:
    """How well estimates order the sites of FactWorld facts."""
    noise = GaussianNoise(samples=5).measured(model)
    known = factworld.facts()
    chosen = [known[i] for i in np.random.default_rng(0).choice(len(known), facts, replace=False)]
    found: dict[tuple[str, str, str], list[tuple[float, bool]]] = {}
    for fact in track(chosen, "comparing"):
        for kind in ("hidden", "mlp", "attn"):
            settings: Any = {"kind": kind, "window": 3, "corruption": noise, "metric": ["prob", "logit_diff"]}
            exact = causal_trace(model, fact, **settings)
            for name, steps in METHODS.items():
                close: Any = attribution_trace(model, fact, steps=steps, **settings)
                for a, b in zip(exact, close, strict=True):
                    rows = slice(a.subject_range[0], None)
                    value = rank_correlation(a.effect[rows].ravel(), b.effect[rows].ravel()), a.peak() == b.peak()
                    found.setdefault((kind, a.metric, name), []).append(value)
    print(f"\nagreement with the exact trace over {facts} facts: rank correlation (mean), same best site")
    for (kind, metric, name), values in found.items():
        ranks, same = zip(*values, strict=True)
        print(f"{kind:8}{metric:12}{name:14}{np.mean(ranks):7.2f}{np.mean(same):9.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=20, help="facts to compare on; 0 for none")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        speed(gpt2_small(), Fact("The Space Nee dle is in downtown", "The Space Nee dle"))
        model = load()
        speed(model, Fact("The Space Needle is in downtown", "The Space Needle"))
        if given.facts:
            agreement(model, given.facts)


if __name__ == "__main__":
    main()
