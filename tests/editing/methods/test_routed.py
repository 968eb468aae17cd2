"""RASE and IKE as methods: entries, routers by name, overwriting, undo, evaluation, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import own

import editing
import tracer
from editing.edits.weights import applied
from editing.memories import Memory, Router, folded
from editing.methods.routed.demonstrations import Demonstration, kinds_of
from tracer import Model, TracerError
from tracer.engine import set_memories

Tiny = Callable[[str], Model]
SUBJECTS = ("The Space Needle", "Big Ben", "Miles Davis", "Yo-Yo Ma", "The Seine", "Smith Tower")
PLACES = ("Spanish", "Paris", "drums", "old", "Rome", "Lima")
RECORDS: list[dict[str, Any]] = [
    {
        "requested_rewrite": {
            "prompt": "{} is in",
            "subject": subject,
            "target_new": {"str": new},
            "target_true": {"str": true},
        },
        "paraphrase_prompts": [f"{subject} stands in", f"To see {subject} go to"],
        "neighborhood_prompts": [f"{other} is in" for other in ("The Louvre", "Pike Place")],
    }
    for subject, new, true in zip(SUBJECTS, PLACES, PLACES[::-1], strict=True)
]
ONE = editing.EditRequest("{} is in", "The Space Needle", " Spanish")
TWO = editing.EditRequest("{} plays the", "Miles Davis", " drums")
AGAIN = editing.EditRequest("{} is in", "The Space Needle", " Needle")
QUICK: dict[str, Any] = {"known": "edit", "check": None}
SHORT: dict[str, Any] = {"v_steps": 3, "mom2_adjustment": False, "context_templates": ["{}"]}
ROME: dict[str, Any] = {"editor_settings": SHORT, "layers": [1]}
SETTINGS: dict[str, dict[str, Any]] = {"rase": ROME, "ike": {"demonstrations": 4, "reserve": 4}}


@pytest.fixture(scope="module")
def made(tiny: Tiny) -> dict[str, editing.Prepared]:
    model = tiny("gpt2")
    return {
        method: editing.prepare(model, method, RECORDS, cache=False, entries=3, false_alarms=0.2) for method in SETTINGS
    }


@pytest.fixture
def model(tiny: Tiny) -> Iterator[Model]:
    yield (found := own(tiny("gpt2")))
    set_memories(found, [])


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("router", ["states", "margin", "nearest", "overlap", "string", "random"])
def test_any_router_with_any_payload(model: Model, made: Any, method: str, router: str, tmp_path: Path) -> None:
    more = {**SETTINGS[method], **QUICK, "router": router, "prepared": made[method]}
    editor, states = editing.Editor(model), [model.fingerprint()]
    for request in (ONE, TWO, AGAIN):
        editor.edit(request, method, **more)
        states.append(model.fingerprint())
    (present,) = model.memories
    assert isinstance(present, Memory) and present.kind == {"rase": "weights", "ike": "text"}[method]
    entries = present.acts.entries(present)
    assert [(entry["prompt"], entry["target"]) for entry in entries] == [(TWO.text, " drums"), (ONE.text, " Needle")]
    edit = editor.history[-1].edit
    assert "1 earlier edits of the same prompts were overwritten" in edit.note and edit.settings["router"] == router
    changes = [step.edit.memories[0] for step in editor.history]
    assert folded(None, changes).digest == present.digest  # type: ignore[union-attr]
    again = editing.load_edit(edit.save(tmp_path / "edit"))
    assert again.same_as(edit)
    (route,) = present.routes(model, [tuple(ONE.fact.align(model).input_ids)])
    assert router == "random" or (route.entry == 1 and (route.hit or router == "margin"))
    for k in (2, 0):
        editor.checkout(k)
        assert model.fingerprint() == states[k]


def test_an_entry_is_what_its_editor_would_write(model: Model) -> None:
    """Each fact into the unedited model, whatever else is in the memory."""
    for editor, more in (("rome", SHORT), ("ft_l", {"steps": 3})):
        plain = editing.compute_edit(model, TWO, editor, layers=1, **more, **QUICK)
        routed = {"router": "string", "editor": editor, "layers": 1, "editor_settings": more, **QUICK}
        ledger = editing.Editor(model)
        for request in (ONE, TWO):
            ledger.edit(request, "rase", **routed)
        ids = torch.tensor([TWO.fact.align(model).input_ids])
        found = model.hf(ids).logits
        ledger.checkout(0)
        with applied(model, plain.factors):
            assert torch.allclose(model.hf(ids).logits, found, atol=1e-4)
        assert (model.hf(ids).logits - found).abs().max() > 1e-3


def test_many_requests_of_one_edit_are_entries_of_their_own(model: Model) -> None:
    alone = [editing.compute_edit(model, one, "rase", router="string", **ROME, **QUICK) for one in (ONE, TWO)]
    both = editing.compute_edit(model, [ONE, TWO], "rase", router="string", **ROME, **QUICK)
    memories = [edit.memories[0].on(None) for edit in (*alone, both)]
    a = [memory.tensors["a.0"] for memory in memories if memory is not None]
    assert torch.allclose(torch.cat(a[:2]), a[2], atol=1e-5) and len(a[2]) == 2
    assert both.evidence is not None and both.evidence["k_star"].shape[0] == 2


def test_demonstrations_are_disjoint_and_as_many_as_there_are(model: Model, made: Any) -> None:
    request = editing.EditRequest("{} is in", "The Space Needle", " Rome", " Paris")  # the pair of another record
    more = {"router": "string", "prepared": made["ike"], "reserve": 0, **QUICK}
    seen: dict[str, list[str]] = {}
    for name, given in {
        "original": {"demonstrations": 32},
        "all": {"demonstrations": 32, "disjoint": False},
        "easyedit": {"variant": "easyedit", "demonstrations": 40},
        "bare": {"variant": "bare"},
    }.items():
        edit = editing.compute_edit(model, request, "ike", **given, **more)
        assert edit.evidence is not None
        seen[name] = [str(int(edit.evidence["demonstrations"][0])), edit.note]
    assert "fit into the 64 tokens" in seen["original"][1] and "fit into" in seen["easyedit"][1]
    assert seen["bare"] == ["0", ""]
    assert seen["original"][1].startswith(f"{seen['original'][0]} of ")
    free = [Demonstration.of(one).disjoint(request) for one in editing.datasets.records_of(RECORDS)]
    assert free == [False, False, True, True, False, True]  # the subject, and twice the pair of answers


def test_kinds_of_demonstrations_keep_their_ratio() -> None:
    assert np.bincount(kinds_of(32, (1, 3, 4))).tolist() == [4, 12, 16]
    assert np.bincount(kinds_of(8, (1, 3, 4))).tolist() == [1, 3, 4]
    assert np.bincount(kinds_of(5, (1, 1, 1)), minlength=3).tolist() == [2, 2, 1]
    assert kinds_of(3, (0, 0, 1)) == [2, 2, 2] and kinds_of(0, (1, 3, 4)) == []


@pytest.mark.parametrize(
    ("method", "mode"), [("rase", "single"), ("rase", "sequential"), ("rase", "batch"), ("ike", "single")]
)
def test_they_are_evaluated(model: Model, made: Any, method: str, mode: Any) -> None:
    more = {**SETTINGS[method], "prepared": made[method], "router": "states"}
    more |= {"routing": {"threshold": -1.0}}
    options = {"generate": False, "texts": False, "controls": ()}
    result = editing.evaluate(model, RECORDS[:2], method, mode, **options, **more)
    assert set(result.edits["error"]) == {""} and not model.memories
    rates = result.summary(metrics=["hit rate", "false alarm rate"], resamples=10)
    assert set(rates[rates["method"] == method]["mean"]) == {1.0}  # everything passes at this threshold


def test_what_is_measured_finds_a_layer(made: Any) -> None:
    found = made["rase"]
    assert [row["layer"] for row in found.history] == list(range(len(found.history)))
    best = max(found.history, key=lambda row: (row["score"], row["layer"]))
    assert found.header["routers"]["states"]["settings"]["layer"] == best["layer"]
    assert {"other subjects", "neighbour", "hit", "passed", "strict"} <= best.keys()
    assert made["ike"].header["routers"].keys() == found.header["routers"].keys()


def test_what_does_not_go_is_refused_and_nothing_is_left(model: Model, made: Any, tiny: Tiny) -> None:
    before = model.fingerprint()
    wrong: list[tuple[str, str, dict[str, Any]]] = [
        ("rase", "router is 'best'; expected one of 'states'", {"router": "best"}),
        ("rase", "routing is 3", {"routing": 3, "router": "string"}),
        (
            "rase",
            "router 'string' has no setting 'layer'; it has threshold",
            {"router": "string", "routing": {"layer": 1}},
        ),
        ("rase", "needs what is prepared once for a model", {}),
        ("rase", "serac needs what is prepared", {"router": "classifier"}),
        ("rase", "keeps its edits in a memory of its own", {"router": "string", "editor": "grace"}),
        ("rase", "there is no method 'roma'", {"router": "string", "editor": "roma"}),
        ("rase", "has no hyper-parameter 'v_step'", {"router": "string", "editor_settings": {"v_step": 3}}),
        (
            "rase",
            "whose input and output no site stands for",
            {"router": "string", "editor": "lora", "editor_settings": {"modules": ["attn.c_attn"], "steps": 1}},
        ),
        ("ike", "variant is 'both'", {"variant": "both"}),
        ("ike", "ratio is", {"ratio": (1, 2)}),
        ("ike", "expected a text with", {"template": "{question}"}),
        ("ike", "needs what is prepared once for a model", {"router": "string"}),
    ]
    for method, message, more in wrong:
        with pytest.raises(TracerError, match=message):
            editing.compute_edit(model, ONE, method, **more, **QUICK)
    with pytest.raises(TracerError, match="prepared for rase, and ike was asked for"):
        editing.compute_edit(model, ONE, "ike", router="string", prepared=made["rase"], **QUICK)
    other = own(tiny("llama"))
    with pytest.raises(TracerError, match="was prepared for rase on the weights"):
        editing.compute_edit(other, ONE, "rase", prepared=made["rase"], **QUICK)
    for records, message in (
        ([{**one, "paraphrase_prompts": []} for one in RECORDS], "has one; give records with paraphrases"),
        (RECORDS[:1], "all 1 records are"),
    ):
        with pytest.raises(TracerError, match=message):
            editing.prepare(model, "rase", records, cache=False)
    bare = [{**one, "neighborhood_prompts": []} for one in RECORDS]
    with pytest.raises(TracerError, match="none of the 6 records has both"):
        editing.prepare(model, "ike", bare, cache=False)
    with pytest.raises(TracerError, match="layer 99 does not exist"):
        editing.prepare(model, "rase", RECORDS, cache=False, layers=[99])
    assert model.fingerprint() == before and not model.memories


def test_a_memory_begun_with_another_router_is_not_gone_on_with(model: Model) -> None:
    editor = editing.Editor(model)
    editor.edit(ONE, "rase", router="string", **ROME, **QUICK)
    before = model.fingerprint()
    with pytest.raises(TracerError, match=r"was begun with the Router\(threshold over string.*name='rase-2'"):
        editor.edit(TWO, "rase", router="random", **ROME, **QUICK)
    with pytest.raises(TracerError, match="is of the kind 'weights', not 'text'"):
        editor.edit(TWO, "ike", variant="bare", router="string", name="rase", **QUICK)
    assert model.fingerprint() == before
    router = Router("threshold", "states", {"layer": 2, "threshold": 0.999})
    editor.edit(TWO, "rase", router=router, name="rase-2", **ROME, **QUICK)
    assert [memory.name for memory in model.memories] == ["rase", "rase-2"]
    assert editor.history[-1].edit.settings["router"] == "threshold over states"


@pytest.mark.parametrize("text", ["Быстрая лиса", "北京", "a", "🎉"])
def test_any_script_and_one_token_are_routed(model: Model, made: Any, text: str) -> None:
    request = editing.EditRequest("{}", text, " Spanish")
    for router in ("states", "overlap", "string"):
        edit = editing.compute_edit(model, request, "ike", router=router, variant="bare", prepared=made["ike"], **QUICK)
        memory = edit.memories[0].on(None)
        assert memory is not None
        ids = tuple(request.fact.align(model).input_ids)
        assert memory.routes(model, [ids])[0].hit and memory.acts.entries(memory)[0]["prompt"] == text
        with edit.applied(model):
            assert tracer.generate(model, [text], max_new_tokens=1)
