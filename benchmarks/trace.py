"""Time of the branched sweep against the plain loop of one site per forward, in one process on one thread.

    python benchmarks/trace.py                      GPT-2 small with random weights, and the embedded model
    python benchmarks/trace.py --model FOLDER       that checkpoint instead of the embedded model

Prints seconds of the processor (wall-clock seconds beside them) and their ratio, for a whole trace and for its sweep
alone, without the hash of the weights that every result keeps; the largest difference of the scores; and how much
memory a trace takes on top of the model, against the budget for the rows of one forward.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.support import reference
from tracer.engine.sweep import BUDGET_BYTES
from tracer.facts.fact import Fact
from tracer.model import Model, load
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise


def gpt2_small() -> Model:
    """GPT-2 small as to shape, with random weights and one token per word."""
    words = ["The", "Space", "Nee", "dle", "is", "in", "downtown"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*words, "<unk>"])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    return Model.of(hf, PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"), "gpt2 (random)")


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, processor seconds, wall-clock seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def peak_memory(work: Callable[[], Any]) -> int:
    """Most bytes that the process held during ``work``, above what it held before."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    done = threading.Event()
    before = peak = resident()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return peak - before


def compare(model: Model, fact: Fact, max_rows: int | None) -> None:
    noise = GaussianNoise(level=0.1)
    found = fact.align(model)
    start, end = found.subject_range
    ids, read = found.input_ids, [found.answer_position]
    answer = [int(model.hf(torch.tensor([ids])).logits[0, -1].argmax())]

    def draw() -> np.ndarray:
        return noise.level_for(model) * noise.draw(end - start, model.d_model)

    def branched(kind: Any) -> Any:
        return causal_trace(model, fact, kind=kind, corruption=noise, max_rows=max_rows)

    def plain(kind: str) -> Any:
        return reference.trace(model, ids, (start, end), draw, read, answer, kind=kind, tokens=range(len(ids)))

    print(f"\n{model.name}: {model.n_layers} layers, {len(ids)} tokens, {end - start} of the subject")
    print(f"{'kind':8}{'plain loop':>18}{'trace':>18}{'ratio':>8}{'sweep alone':>13}{'ratio':>8}", end="")
    print(f"{'difference':>12}{'memory / budget':>18}")
    for kind in ("hidden", "mlp", "attn"):
        memory = peak_memory(lambda kind=kind: branched(kind))
        runs = [timed(lambda kind=kind: branched(kind)) for _ in range(3)]
        trace, cpu, wall = min(runs, key=lambda run: run[1])
        alone = cpu - min(timed(model.fingerprint)[1] for _ in range(3))  # without hashing the weights
        (scores, _, _), slow_cpu, slow_wall = timed(lambda kind=kind: plain(kind))
        print(
            f"{kind:8}{slow_cpu:10.2f} ({slow_wall:5.2f}){cpu:10.2f} ({wall:5.2f}){slow_cpu / cpu:7.1f}x"
            f"{alone:13.2f}{slow_cpu / alone:7.1f}x{np.abs(scores - trace.scores).max():12.0e}"
            f"{memory / 2**20:9.0f} / {BUDGET_BYTES / 2**20:.0f} MB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder or hub name instead of the embedded model")
    parser.add_argument("--prompt", default="The Space Needle is in downtown")
    parser.add_argument("--subject", default="The Space Needle")
    parser.add_argument("--max-rows", type=int, help="most rows in any forward")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print("processor seconds (wall-clock seconds), one thread, 10 samples, windows of 10")
    compare(gpt2_small(), Fact("The Space Nee dle is in downtown", "The Space Nee dle"), given.max_rows)
    compare(load(given.model), Fact(given.prompt, given.subject), given.max_rows)


if __name__ == "__main__":
    main()
