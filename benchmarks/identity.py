"""Time of a fingerprint beside the one of earlier versions, and beside a trace, in one process on one thread.

    python benchmarks/identity.py                          the embedded model
    python benchmarks/identity.py smollm2-135m gemma-3-270m

Prints megabytes of tensors, seconds of the processor (the least of several) for both kinds of fingerprint and for a
trace of hidden states with default settings, the ratio of the two kinds, and what share of the trace each takes. The
trace takes a fingerprint itself, which is not taken off.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.trace import timed
from tracer.facts.fact import Fact
from tracer.model import load
from tracer.model.identity import EARLIER
from tracer.model.tensors import named_tensors
from tracer.tracing.causal import causal_trace

FACT = Fact("The Space Needle is in the city of", "Space Needle")


def compare(name: str | None, repeats: int) -> None:
    """Print the line of a model."""
    model = load(name)
    size = sum(tensor.nbytes for _, tensor in named_tensors(model.hf))
    model.fingerprint(EARLIER)  # the pages of the file are read once
    now, former = float("inf"), float("inf")
    for _ in range(repeats):  # by turns, so that a busy machine slows both
        now = min(now, timed(model.fingerprint)[1])
        former = min(former, timed(lambda: model.fingerprint(EARLIER))[1])
    trace = timed(lambda: causal_trace(model, FACT))[1]
    print(
        f"{model.name:16}{size / 1e6:8.0f}{former:10.4f}{now:10.4f}{former / now:8.1f}x{trace:10.2f}"
        f"{former / trace:10.2%}{now / trace:10.2%}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[None], help="names of models; none: the embedded one")
    parser.add_argument("--repeats", type=int, default=7, help="fingerprints of each kind")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print(f"{'model':16}{'MB':>8}{'former':>10}{'now':>10}{'ratio':>9}{'trace':>10}{'former':>10}{'now':>10}")
    for name in given.models:
        compare(name, given.repeats)


if __name__ == "__main__":
    main()
