"""CaliNET against the published code's own outputs: a forward with given slots, and steps of Adafactor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import goldens
import numpy as np
import pytest
import torch
from goldens import Arrays, relative
from torch import Tensor

from editing import EditRequest
from editing.memories import Memory, attached
from editing.memories.lines import LINES, packed
from editing.methods.beside import Beside, row_of
from editing.methods.calinet import CaliNETSettings
from editing.methods.calinet.training import Block, rates, train
from editing.methods.published_settings import published
from tracer import Model
from tracer.engine.aligned import Trials
from tracer.engine.batch import logits_of

TOLERANCE = 3e-5  # of what training ends at; the order of sums, which differs by processor, moves it by up to 1.6e-5
"""Of slots after the steps, relative, and of logits. The golden outputs end 4e-5 from their own in float64."""


def arrays(golden: Path, name: str) -> Arrays:
    return goldens.arrays(golden / "memory" / f"{name}.npz")


def slots(theirs: Arrays, when: str) -> dict[int, dict[str, Tensor]]:
    """The golden slots by layer, rows as here."""
    found = {}
    for layer in theirs["layers"].tolist():
        ours = {"in": f"wi_0_ex_{layer}", "up": f"wi_1_ex_{layer}"}
        if f"wi_ex_{layer}_{when}" in theirs:
            ours = {"in": f"wi_ex_{layer}"}
        own = {name: torch.tensor(theirs[f"{source}_{when}"]) for name, source in ours.items()}
        found[layer] = own | {"out": torch.tensor(theirs[f"wo_ex_{layer}_{when}"]).T.contiguous()}
    return found


def settings(theirs: Arrays) -> CaliNETSettings:
    gated = "gated" in str(theirs["activation"])
    given = {name: value for name, value in published("calinet", "t5-base").items() if name != "layers"}
    own = {"layers": theirs["layers"].tolist(), "slots": int(theirs["ex_size"]), "steps": int(theirs["steps"])}
    return CaliNETSettings(**given | own | {"gated": gated, "activation": "gelu_new" if gated else "relu"})


def memory_of(model: Model, theirs: Arrays, by_layer: dict[int, dict[str, Tensor]]) -> Memory:
    own = settings(theirs)
    tensors = {f"{name}.{layer}": tensor.detach() for layer, some in by_layer.items() for name, tensor in some.items()}
    header = {"layers": list(by_layer), "activation": own.activation, "gated": own.gated}
    tensors[LINES] = packed([{"slots": own.slots, "facts": [], "rows": []}])
    return Memory("calinet", "calinet", model.weights_fingerprint(), tensors, header)


def differences(model: Model, theirs: Arrays, when: str) -> float:
    """Of logits, relative to the largest."""
    ids = [torch.tensor([model.tokenizer(str(prompt))["input_ids"]]) for prompt in theirs["query_prompts"]]
    found = torch.stack([logits_of(model, each)[0, -1].detach() for each in ids])
    expected = torch.tensor(theirs[f"logits_{when}"])
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", ["calinet_relu", "calinet_gated"])
def test_a_forward_with_given_slots_is_as_published(name: str, golden: Path, golden_model: Model) -> None:
    theirs = arrays(golden, name)
    assert differences(golden_model, theirs, "before") < 1e-5
    for when in ("start", "end"):
        with attached(golden_model, memory_of(golden_model, theirs, slots(theirs, when))):
            assert differences(golden_model, theirs, when) < 1e-5


@pytest.mark.parametrize("name", ["calinet_relu", "calinet_gated"])
def test_training_of_slots_is_as_published(name: str, golden: Path, golden_model: Model) -> None:
    model, theirs = golden_model, arrays(golden, name)
    own = settings(theirs)
    facts = [
        EditRequest(str(prompt), " ".join(str(prompt).split()[:2]), str(target))
        for prompt, target in zip(theirs["train_prompts"], theirs["train_targets"], strict=True)
    ]
    rows = [row_of(model, fact) for fact in facts]
    leaves = {
        layer: {name: tensor.requires_grad_() for name, tensor in some.items()}
        for layer, some in slots(theirs, "start").items()
    }
    block = Block(own.activation, leaves)
    nothing = dict.fromkeys(leaves, torch.ones(1, 1))
    groups = rates(block, own, nothing, dict.fromkeys(leaves, 1.0))
    assert {group["lr"] for group in groups} == {float(theirs["lr"])}
    beside = Beside(model, rows, list(leaves), Trials(), None)
    assert train(model, beside, rows, block, groups, replace(own, steps=int(theirs["steps"])), {})
    curve = [line[1] for line in block.curve]
    np.testing.assert_allclose(curve, theirs["curve"], atol=1e-5)
    for layer, expected in slots(theirs, "end").items():
        for part, wanted in expected.items():
            assert relative(block.slots[layer][part].detach(), wanted) < TOLERANCE, (layer, part)
    with attached(model, memory_of(model, theirs, block.slots)):
        assert differences(model, theirs, "end") < 1e-4
