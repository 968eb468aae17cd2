"""What is true of every memory, for SERAC and WISE as their methods make them, on four architectures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import TEXTS, close, ids_of, inventory, read
from handmade import own
from serac_wise import KINDS, RECORDS, REQUEST, hits, memory, prepared, settings

import editing
import tracer
from editing.memories import Memory, attached, load_memory
from editing.memories.change import MemoryChange
from tracer import Model, TracerError
from tracer.engine import Line, set_memories
from tracer.engine.follow import follow
from tracer.engine.memories import asked

Tiny = Callable[[str], Model]
OTHERS = [
    editing.EditRequest("{} plays the", "Miles Davis", " drums"),
    editing.EditRequest("{} is", "Yo-Yo Ma", " old"),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_it_is_on_and_off_to_the_bit_and_alone_in_its_rows(model: Model, kind: str, tmp_path: Path) -> None:
    """Attached and detached; empty and missed; alone and beside others; forced and written; saved and loaded."""
    state, before = torch.random.get_rng_state(), inventory(model)
    bare = read(model)
    made = memory(model, kind)
    assert torch.equal(torch.random.get_rng_state(), state) and inventory(model) == before
    acts = hits(model, made)
    missed = tuple(text for text, hit in zip(TEXTS, acts, strict=True) if not hit)
    assert acts[0] and (missed or kind in ("serac soft", "wise published"))
    quiet = read(model, missed) if missed else ([], [])
    with attached(model, made):
        whole, again = read(model), read(model, missed) if missed else ([], [])
        assert all(np.array_equal(a, b) for a, b in zip(again[0], quiet[0], strict=True)) and again[1] == quiet[1]
        assert np.abs(whole[0][0] - bare[0][0]).max() > 1e-3
        for max_rows in (1, 3):
            again = read(model, max_rows=max_rows)
            assert close(again[0], whole[0]) and again[1] == whole[1]
        alone = read(model, TEXTS[:1])
        assert close(alone[0], whole[0][:1]) and alone[1] == whole[1][:1]
        (forced,) = follow(model, [Line(ids_of(model, TEXTS[0]), (whole[1][0],))])
        assert tuple(forced.best[0].tolist()) == whole[1][0]
    assert inventory(model) == before
    loaded = load_memory(made.save(tmp_path / "memory"))
    assert loaded.digest == made.digest
    with attached(model, loaded):
        again = read(model)
        same = close if kind == "serac soft" else lambda one, two: all(map(np.array_equal, one, two))
        assert same(again[0], whole[0]) and again[1] == whole[1]
    path = tmp_path / "memory.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TracerError, match="is not a saved Memory"):
        load_memory(path)


def test_an_empty_memory_and_one_without_its_entry_do_nothing(model: Model, kind: str) -> None:
    made, bare = memory(model, kind), read(model)
    assert len(made.acts.entries(made)) == 1 and made.acts.entries(made)[0]["prompt"] == TEXTS[0]
    assert made.acts.entries(made)[0]["bytes"] > 0
    if kind == "wise published":
        with pytest.raises(TracerError, match="work together, so that none can be taken out"):
            made.acts.without(made, 0)
        return
    with pytest.raises(TracerError, match="has no entry 1; it has 1"):
        made.acts.without(made, 1)
    empty = made.acts.without(made, 0)
    with attached(model, empty):
        found = read(model)
    assert all(np.array_equal(a, b) for a, b in zip(found[0], bare[0], strict=True)) and found[1] == bare[1]


def test_edits_in_a_row_are_the_folded_memory_and_the_last_target_counts(tiny: Tiny, kind: str) -> None:
    model = own(tiny("gpt2"))
    name, more = settings(model, kind)
    editor = editing.Editor(model)
    states = [model.fingerprint()]
    again = replace(REQUEST, target_new=" Needle")
    for request in (REQUEST, *OTHERS, again):
        editor.edit(request, name, **more)
        states.append(model.fingerprint())
    (present,) = model.memories
    assert isinstance(present, Memory)
    changes = [entry.edit.memories[0] for entry in editor.history]
    folded = editing.memories.folded(None, changes)  # type: ignore[attr-defined]
    assert folded is not None and folded.digest == present.digest
    if kind != "wise published":
        lines = present.acts.entries(present)
        assert [line["prompt"] for line in lines] == [*(each.text for each in OTHERS), REQUEST.text]
        assert lines[-1]["target"] == " Needle" and "overwritten" in editor.history[-1].edit.note
        assert [route.entry for route in present.routes(model, [ids_of(model, REQUEST.text)])] == [2]
    for k in (3, 1, 0):
        editor.checkout(k)
        assert model.fingerprint() == states[k]
    if kind != "wise published":  # in one edit as one after another
        at_once = editing.compute_edit(model, (*OTHERS, again), name, **more).memories[0].on(None)
        assert at_once is not None and at_once.digest == present.digest


def test_a_later_edit_costs_what_it_adds(tiny: Tiny) -> None:
    model = own(tiny("gpt2"))
    name, more = settings(model, "serac student")
    editor = editing.Editor(model)
    sizes = [editor.edit(request, name, **more).nbytes for request in (REQUEST, *OTHERS)]
    assert sizes[1] < 300 < sizes[0] and sizes[2] < 300


def test_the_control_turns_what_acts(model: Model, kind: str) -> None:
    made = memory(model, kind)
    control = MemoryChange.between(None, made).control(0).on(None)
    assert control is not None
    changed = {n for n, tensor in control.tensors.items() if not torch.equal(tensor, made.tensors[n])}
    assert changed == {{"serac": "keys", "wise": "right"}.get(kind.split()[0], "")} or changed == {"delta"}


@pytest.mark.parametrize(("name", "mode"), [("serac", "single"), ("serac", "sequential"), ("wise", "batch")])
def test_it_is_evaluated(tiny: Tiny, name: str, mode: Any) -> None:
    model = own(tiny("gpt2"))
    _, more = settings(model, name)
    more = {key: value for key, value in more.items() if key not in ("known", "check")}
    result = editing.evaluate(model, RECORDS[:2], name, mode, generate=False, texts=False, controls=(), **more)
    assert set(result.edits["error"]) == {""} and not model.memories


# --- text, and what does not go --------------------------------------------------------------------------------------
def test_running_text_asks_nothing(tiny: Tiny) -> None:
    """Perplexity of text is that of the bare model, also where its last words are an edit's prompt."""
    model = own(tiny("gpt2"))
    made = memory(model, "serac")
    text = TEXTS[0]
    bare = tracer_perplexity(model, text)
    with attached(model, made):
        assert tracer_perplexity(model, text) == bare
        with pytest.raises(TracerError, match="answers another question than the one that is put"):
            model.hf(torch.tensor([ids_of(model, text)]))


def tracer_perplexity(model: Model, text: str) -> float:
    from editing.health.drift import perplexity

    return perplexity(model, text)


def test_a_prompt_without_room_for_the_text_is_refused(tiny: Tiny) -> None:
    model = own(tiny("gpt2"))
    made = memory(model, "serac soft")
    long = "a"
    while len(ids_of(model, f"{long} a")) < model.n_ctx - 2:
        long += " a"
    assert len(tracer.generate(model, [long], max_new_tokens=1)) == 1
    with attached(model, made), pytest.raises(TracerError, match=r"tokens long, and .* reads at most"):
        tracer.generate(model, long, max_new_tokens=1)


def test_a_memory_that_does_not_fit_is_refused(model: Model, tiny: Tiny, kind: str) -> None:
    made = memory(model, kind)
    first = "keys" if kind.startswith("serac") else "delta" if kind.endswith("published") else "left"
    tensor = made.tensors[first]
    for tensors, message in (
        ({name: each for name, each in made.tensors.items() if name != first}, "lacks"),
        ({**made.tensors, first: torch.cat([tensor, tensor])}, "expected|out of range"),
        ({**made.tensors, "entries": made.tensors["entries"][:0]}, "out of range"),
    ):
        with pytest.raises(TracerError, match=message):
            replace(made, tensors=tensors).acts.check(replace(made, tensors=tensors), model)
    if made.tensors.get("owners") is not None:
        beyond = replace(made, tensors={**made.tensors, "owners": made.tensors["owners"] + 1})
        with pytest.raises(TracerError, match="out of range"):
            beyond.check(model)
    broken = {**made.tensors, first: torch.full_like(tensor, float("nan"))}
    with pytest.raises(TracerError, match="holds NaN"):
        replace(made, tensors=broken)
    other = tiny("opt" if model.d_model != tiny("opt").d_model else "bloom")
    with pytest.raises(TracerError, match=r"was made on the weights|expected|reads states"), attached(other, made):
        pass


def test_masked_models_and_wrong_settings_are_refused(tiny: Tiny) -> None:
    model = tiny("gpt2")
    own_prepared = prepared(model)
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("serac", {"prepared": own_prepared, "output": "mild"}, "output is 'mild'"),
        ("serac", {"prepared": own_prepared, "threshold": -1}, "threshold is -1"),
        ("wise", {"rule": "both"}, "rule is 'both'"),
        ("wise", {"templates": ("no slot",)}, "each with {}"),
        ("wise", {"layers": [99]}, "layer 99|99"),
        ("wise", {"steps": 0}, "steps is 0"),
    ]
    for name, more, message in wrong:
        with pytest.raises(TracerError, match=message):
            editing.compute_edit(model, REQUEST, name, known="edit", check=None, **more)
    with pytest.raises(TracerError, match="masked model"):
        editing.compute_edit(tiny("bert"), REQUEST, "wise", known="edit", check=None)
    without = [{**record, "paraphrase_prompts": []} for record in RECORDS]
    for more, message in (
        ({"records": without}, "none of the 3 records has one"),
        ({"records": RECORDS, "layers": [99]}, "layer 99 does not exist"),
        ({"records": RECORDS, "classifier": "nowhere"}, "no weights"),
        ({"records": RECORDS, "width": 0}, "width is 0"),
    ):
        with pytest.raises(TracerError, match=message):
            editing.prepare(model, "serac", cache=False, **more)  # type: ignore[arg-type]


def test_a_memory_begun_in_another_way_is_not_gone_on_with(tiny: Tiny) -> None:
    model = own(tiny("gpt2"))
    quick: dict[str, Any] = {"known": "edit", "check": None}
    editor = editing.Editor(model)
    editor.edit(REQUEST, "wise", steps=2, tokens=64, **quick)
    with pytest.raises(TracerError, match="was begun with"):
        editor.edit(OTHERS[0], "wise", steps=2, tokens=64, layers=[1], **quick)
    editor.edit(OTHERS[0], "serac", prepared=prepared(model), **quick)
    with pytest.raises(TracerError, match="was begun with other prepared models"):
        editor.edit(OTHERS[1], "serac", prepared=prepared(model, seed=1), **quick)
    assert [each.name for each in model.memories] == ["serac", "wise"]
    set_memories(model, [])


def test_a_question_stands_behind_an_edit_as_it_was_learnt() -> None:
    """One space between, also where the tokenizer puts one in front of every text."""
    embedded = tracer.load()
    editor = editing.Editor(embedded)
    try:
        editor.edit(editing.EditRequest("{} is located in", "The Space Needle", " Paris"), "serac", check=None)
        prompt = "The Space Needle is located in"
        (question,), frame = asked(embedded, [ids_of(embedded, prompt)])
        assert frame is not None
        assert question.ids == tuple(ids_of(embedded, f"{prompt} Paris. {prompt}"))
    finally:
        editor.reset()
