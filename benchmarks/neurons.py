"""Time of attributing every neuron to a fact, against the plain way of one layer after the other, on one thread.

    python benchmarks/neurons.py                    GPT-2 small as to shape, with random weights, and 7 tokens

The plain way runs, per layer, one forward for the activations and full forwards of ``steps`` rows through the whole
model, and differentiates the answer's probability in each row. Prints the shortest processor time of three, wall-clock
seconds beside it, the ratio, and the largest difference of the scores against the largest score; and the time without
the hash of the weights that every result keeps.
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
from torch import Tensor

from benchmarks.trace import gpt2_small, timed
from tracer.model import Model
from tracer.neurons.selection import attribute_neurons

PROMPT = "The Space Nee dle is in downtown"


def plain(model: Model, ids: Tensor, answer: int, steps: int, batch: int) -> np.ndarray:
    """Scores [layers, d_mlp] of the input of the non-linearity at the last token, layer by layer."""
    scores = []
    for layer in range(model.n_layers):
        module = model.module("pre", layer)
        found: list[Tensor] = []

        def keep(_: Any, args: tuple, output: Tensor, found: list[Tensor] = found) -> None:
            found.append(output[0, -1].detach().clone())

        handle = module.register_forward_hook(keep)
        model.hf(input_ids=ids)
        handle.remove()
        own = found[0]
        points = torch.linspace(0, 1, steps)[:, None] * own
        total = torch.zeros_like(own)
        for start in range(0, steps, batch):
            values = points[start : start + batch].clone().requires_grad_()

            def put(_: Any, args: tuple, output: Tensor, values: Tensor = values) -> Tensor:
                output[:, -1, :] = values
                return output

            handle = module.register_forward_hook(put)
            p = model.hf(input_ids=ids.expand(len(values), -1)).logits[:, -1].softmax(-1)[:, answer]
            handle.remove()
            total += torch.autograd.grad(p.sum(), values)[0].sum(0)
        scores.append((own * total / steps).numpy())
    return np.stack(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=20, help="rows per forward of the plain way")
    parser.add_argument("--max-rows", type=int, help="most rows in any forward of ours")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = gpt2_small()
    ids = torch.tensor([model.tokenizer(PROMPT)["input_ids"]])
    with torch.no_grad():
        answer = int(model.hf(ids).logits[0, -1].argmax())

    def ours() -> Any:
        return attribute_neurons(model, PROMPT, given.steps, site="pre", max_rows=given.max_rows)

    def fastest(work: Any) -> tuple[Any, float, float]:
        return min((timed(work) for _ in range(3)), key=lambda run: run[1])

    found, cpu, wall = fastest(ours)
    alone = cpu - fastest(model.fingerprint)[1]
    expected, slow_cpu, slow_wall = fastest(lambda: plain(model, ids, answer, given.steps, given.batch))
    difference = np.abs(found.scores - expected).max() / np.abs(expected).max()
    print(
        f"{model.name}: {model.n_layers} layers, {model.d_mlp} neurons each, {ids.shape[1]} tokens, {given.steps} steps"
    )
    print(f"{'plain loop':>18}{'attribute_neurons':>20}{'ratio':>8}{'without hash':>14}{'ratio':>8}{'difference':>12}")
    print(
        f"{slow_cpu:10.2f} ({slow_wall:5.2f}){cpu:12.2f} ({wall:5.2f}){slow_cpu / cpu:7.1f}x{alone:14.2f}"
        f"{slow_cpu / alone:7.1f}x{difference:12.0e}"
    )


if __name__ == "__main__":
    main()
