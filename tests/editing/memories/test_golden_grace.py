"""GRACE's codebook, edit by edit, against what the published code gave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
import torch
from goldens import Arrays, relative

from editing import Edit, Editor, EditRequest
from editing.memories import Memory
from editing.memories.grace import route
from editing.memories.lines import unpacked
from editing.methods.published_settings import published
from tracer import Fact, Model
from tracer.engine import Line, Row
from tracer.engine.batch import frame_of, logits_of
from tracer.engine.follow import follow
from tracer.engine.prompt_states import prompt_states

SITES = {
    "grace_cfc_last": ("mlp_in", "pre"),
    "grace_cfc_prompt": ("mlp_in", "pre"),
    "grace_cproj_warm": ("key", "value"),
}
# of what Adam makes of rounding, which differs by processor
VALUES = {"grace_cfc_last": 1e-3, "grace_cfc_prompt": 1e-2, "grace_cproj_warm": 5e-3}
LOGITS = {"grace_cfc_last": 1e-2, "grace_cfc_prompt": 1e-2, "grace_cproj_warm": 4e-2}  # of these values
END = 0  # the id that ends a text


@pytest.fixture
def editor(golden_model: Model) -> Iterator[Editor]:
    """Of the golden model, which is left as it was found."""
    yield (found := Editor(golden_model))
    found.checkout(0)
    assert not golden_model.memories


def write(editor: Editor, prompt: Any, target: Any, **own: Any) -> tuple[Edit, Memory]:
    """Make an edit by the published rule, which is the same for all models, at the layer and with the numbers given."""
    request = EditRequest(str(prompt), " ".join(str(prompt).split()[:2]), str(target))
    rule = {**published("grace", "gpt2-xl"), "layers": [4], "steps": 20, **own}
    edit = editor.edit(request, "grace", known="edit", check=None, **rule)
    (memory,) = editor.model.memories
    assert isinstance(memory, Memory)
    return edit, memory


def ids_of(model: Model, prompts: Any) -> list[tuple[int, ...]]:
    return [tuple(Fact(str(prompt), str(prompt)).align(model).input_ids) for prompt in prompts]


def last_logits(model: Model, prompts: Sequence[tuple[int, ...]]) -> np.ndarray:
    with torch.no_grad():
        return torch.stack([model.hf(torch.tensor([ids])).logits[0, -1] for ids in prompts]).numpy()


def forced_logits(model: Model, theirs: Arrays) -> Iterator[np.ndarray]:
    """Logits before each target token of each edit's own prompt and target."""
    for ids, length in zip(theirs["edit_input_ids"], theirs["edit_prompt_tokens"], strict=True):
        real = tuple(int(i) for i in ids if i >= 0)
        row = Row(real[:-1], length - 1, tuple(range(length - 1, len(real) - 1)), real[length:])
        with torch.no_grad():
            frame = frame_of(model, [row], len(row.ids))
            yield logits_of(model, torch.tensor([row.ids]), frame=frame)[0, list(row.read)].numpy()


def close(found: Any, expected: Any, tolerance: float) -> bool:
    return bool(np.abs(np.asarray(found) - np.asarray(expected)).max() <= tolerance)


@pytest.mark.parametrize("name", SITES)
def test_the_codebook_is_the_published_one(golden: Path, editor: Editor, name: str) -> None:
    theirs = goldens.arrays(golden / "memory" / f"{name}.npz")
    model = editor.model
    queries = ids_of(model, theirs["query_prompts"])
    own = dict(zip(("read", "write"), SITES[name], strict=True))
    own |= {"start": str(theirs["val_init"]), "replacement": str(theirs["replacement"]), "radius": float(theirs["eps"])}
    assert close(last_logits(model, queries), theirs["logits_before"], 1e-4)
    for place, (prompt, target) in enumerate(zip(theirs["edit_prompts"], theirs["edit_targets"], strict=True)):
        seed, after = int(theirs["seeds"][place]), f"after_{place + 1}"
        if own["start"] == "cold":  # as a generator of this seed draws it
            drawn = torch.rand(theirs["value_init"].shape[1], generator=torch.Generator().manual_seed(seed))
            assert np.array_equal(drawn.numpy(), theirs["value_init"][place])
        edit, memory = write(editor, prompt, target, seed=seed, **own)
        assert close(memory.tensors["keys"], theirs[f"keys_{after}"], 1e-5)
        assert close(memory.tensors["radii"], theirs[f"epsilons_{after}"], 1e-5)
        assert relative(memory.tensors["values"], theirs[f"values_{after}"]) < VALUES[name]
        assert edit.evidence is not None
        assert close(edit.evidence["loss"][:-1, 0], theirs["losses"][place], 1e-4)
        assert int(edit.evidence["entry"]) == theirs[f"chosen_key_{place + 1}"]
        routes = memory.routes(model, queries)
        assert [one.hit for one in routes] == theirs[f"hit_{after}"].tolist()
        assert [one.entry for one in routes] == theirs[f"nearest_{after}"].tolist()
        assert close([one.score for one in routes], theirs[f"distance_{after}"], 1e-5)
        if f"logits_{after}" in theirs:
            assert close(last_logits(model, queries), theirs[f"logits_{after}"], LOGITS[name])
        if f"forced_{after}" in theirs:
            for found, expected in zip(forced_logits(model, theirs), theirs[f"forced_{after}"], strict=True):
                assert close(found, expected[~np.isnan(expected).any(1)], LOGITS[name])
        if f"generated_uncached_{after}" in theirs:
            written = follow(model, [Line(ids, tokens=3) for ids in queries])
            for found, expected in zip(written, theirs[f"generated_uncached_{after}"].tolist(), strict=True):
                assert list(found.written) == expected[: expected.index(END) if END in expected else None]


@pytest.mark.parametrize("case", ["overwrite", "other_length", "same_mean", "moving_average"])
def test_the_published_rule_does_what_it_does(golden: Path, editor: Editor, case: str) -> None:
    """Also where that is not what anybody wants: what it loses is told in the edit's note."""
    theirs = {
        name.removeprefix(f"{case}_"): array
        for name, array in goldens.arrays(golden / "memory" / "grace_quirks.npz").items()
        if name.startswith(f"{case}_")
    }
    expand = "moving_average" if case == "moving_average" else "coverage"
    radius = 2.0 if case == "other_length" else 1.5
    for place, (prompt, target) in enumerate(zip(theirs["edit_prompts"], theirs["edit_targets"], strict=True), 1):
        own = {"radius": radius, "replacement": "replace_last", "expand": expand}
        edit, memory = write(editor, prompt, target, **own)
        assert len(memory.tensors["keys"]) == theirs[f"n_keys_after_{place}"]
        assert close(memory.tensors["radii"], theirs[f"epsilons_after_{place}"], 1e-5)
        labels = [[-100] * line["tokens"] + line["ids"] for line in unpacked(memory.tensors["about"])]
        assert close([np.mean(label) for label in labels], theirs[f"label_mean_after_{place}"], 1e-4)
    queries = ids_of(editor.model, theirs["query_prompts"])
    routes = memory.routes(editor.model, queries)
    assert [one.hit for one in routes] == theirs["hit"].tolist()
    assert [one.entry for one in routes] == theirs["nearest"].tolist()
    assert close([one.score for one in routes], theirs["distance"], 1e-5)
    assert last_logits(editor.model, queries).argmax(1).tolist() == theirs["says"].tolist()
    notes = {"overwrite": "nothing acts on", "same_mean": "no longer answered as edited"}
    assert (notes[case] in edit.note) if case in notes else not edit.note
    if case == "moving_average":
        assert close(memory.tensors["keys"], theirs["keys"], 1e-5)


def test_distances_are_exact_with_many_keys(golden: Path, golden_model: Model) -> None:
    """Where torch.cdist goes through a matrix product, a key is 5e-3 from itself."""
    theirs = goldens.arrays(golden / "memory" / "grace_quirks.npz")
    place = ("mlp_in", 4)
    keys = prompt_states(golden_model, ids_of(golden_model, theirs["many_keys_prompts"]), [place])[place]
    row = int(theirs["many_keys_row"])
    found = (keys - keys[row]).norm(dim=1)
    assert close(found, theirs["many_keys_exact"], 1e-5) and theirs["many_keys_cdist_40"][row] > 1e-3
    one = route(keys[row], keys, torch.full((len(keys),), 1e-6))
    assert one.hit and one.entry == row and one.score == 0 and one.runner_up_score > 0.5
