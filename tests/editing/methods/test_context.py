"""What methods are served with: measured once, on which weights, and never stale; the editor of long sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import handmade

import editing.methods.context
from editing.covariance import estimate_covariance
from editing.datasets import EditRecord, Rewrite
from editing.evaluation.run import worker
from editing.evaluation.run.start import evaluate
from editing.ledger.editor import Editor
from editing.methods.context import EditContext, Measured
from editing.request import EditRequest
from tracer import Fact, Model, TracerError
from tracer.engine.answer import own_answer, own_answers

Tiny = Callable[[str], Model]
SUBJECTS = ("The Space Needle", "The Eiffel Tower", "Miles Davis")
REQUESTS = [EditRequest("{} is in downtown", subject, " Rome") for subject in SUBJECTS]
RECORDS = [
    EditRecord(
        case_id=subject,
        source="test",
        rewrites=(Rewrite(prompt="{} is in downtown", subject=subject, target_new="Rome", target_true="Seattle"),),
    )
    for subject in SUBJECTS
]
BARE: dict[str, Any] = {"texts": False, "canary_tokens": 0, "controls": (), "generate": False}
SHORT: dict[str, Any] = {
    "template_lengths": ((4, 3),),
    "mom2_adjustment": False,
    "clamp": 3.0,
    "v_lr": 0.5,
    "layers": [1],
}


@pytest.fixture
def model(tiny: Tiny) -> Iterator[Model]:
    found = tiny("gpt2")
    before = found.fingerprint()
    yield found
    assert found.fingerprint() == before


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Edits that a worker of an evaluation computes."""
    found: list[Any] = []
    real = worker.compute_edits

    def watched(*given: Any, **more: Any) -> Any:
        edits = real(*given, **more)
        found.extend(edits)
        return edits

    monkeypatch.setattr(worker, "compute_edits", watched)
    return found


def changed(model: Model, layer: int, factor: float) -> None:
    with torch.no_grad():
        model.down_projection(layer).weight.data.mul_(factor)  # which no counter of torch sees


def test_a_sequence_measures_hyperparameters_once(model: Model, made: list[Any]) -> None:
    """On the weights before its first edit, and as an editor does: sizes of weights, contexts, patience."""
    editor = Editor(model)
    for method, options, names in (
        ("ft_l", {"steps": 3, "lr": 0.1}, ("norm_constraint",)),
        ("rome", {**SHORT, "v_lr": None, "v_steps": 3}, ("context_templates", "v_patience", "v_steps", "layers")),
    ):
        evaluate(model, RECORDS, method, "sequential", **BARE, **options)
        own = [editor.edit(request, method, known="edit", **options) for request in REQUESTS]
        for name in names:
            values = {str(edit.settings[name]) for edit in (*made, *own)}
            assert len(values) == 1 and values != {"None"}, name
        for edit, other in zip(made, own, strict=True):
            assert edit.fingerprint == other.fingerprint
            for name, pair in edit.factors.items():
                assert all(torch.equal(a, b) for a, b in zip(pair, other.factors[name], strict=True))
        editor.reset()
        made.clear()


def test_an_editor_can_measure_each_time(model: Model, tmp_path: Path) -> None:
    strong = handmade(model, (0, 1, 2, 3), size=3.0)
    texts = {}
    for measure in ("once", "each"):
        editor = Editor(model, measure=measure)  # type: ignore[arg-type]
        first = editor.compute(REQUESTS[0], known="edit", v_steps=2, check=None, **SHORT)
        editor.apply(strong)
        present = editor.present.weights
        then = editor.compute(REQUESTS[0], known="edit", v_steps=2, check=None, **SHORT)
        assert all(torch.equal(now, present[name]) for name, now in editor.present.weights.items())
        texts[measure] = [edit.settings["context_templates"] for edit in (first, then)]
        editor.reset()
    assert texts["once"][0] == texts["once"][1] == texts["each"][0] != texts["each"][1]
    editor = Editor(model, tmp_path / "ledger")
    editor.apply(strong)
    editor.reset()
    again = Editor.open(tmp_path / "ledger", model)
    again.checkout(1)
    reopened = again.compute(REQUESTS[0], known="edit", v_steps=2, check=None, **SHORT)  # asked for after an edit
    assert reopened.settings["context_templates"] == texts["once"][0]
    again.reset()
    with pytest.raises(TracerError, match="measure is 'never'"):
        Editor(model, measure="never")  # type: ignore[arg-type]


def test_nothing_stale_is_served_for_weights_changed_by_hand(model: Model) -> None:
    measured = Measured()
    texts = ["The Space Needle is in Seattle, and Miles Davis played there."] * 3
    before = EditContext(model, measured=measured)
    size, templates = before.size([1]), before.templates(((4, 3),), 0)
    perplexity = before.drift().perplexity
    covariance = estimate_covariance(model, 1, texts, cache=False)
    changed(model, 1, 2.0)
    changed(model, 0, -32.0)
    try:
        after = EditContext(model, measured=measured)
        assert after.size([1]) == pytest.approx(2 * size)
        assert after.templates(((4, 3),), 0) != templates
        assert after.drift().perplexity != perplexity
        with pytest.raises(TracerError, match="other weights"):
            EditContext(model, covariance, measured=measured).covariance([1])
    finally:
        changed(model, 1, 0.5)
        changed(model, 0, -1 / 32.0)
    again = EditContext(model, measured=measured)
    assert again.size([1]) == size and again.templates(((4, 3),), 0) == templates


def test_a_covariance_is_loaded_and_factored_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Any] = []

    def made(own: Model, layers: Any, origin: Any = None) -> Any:
        loads.append((own.fingerprint(), tuple(layers)))
        return estimate_covariance(own, layers, ["The Space Needle is in Seattle. " * 40], cache=False)

    monkeypatch.setattr(editing.methods.context, "covariance_for", made)
    editor, before = Editor(model), model.fingerprint()
    options: dict[str, Any] = {**SHORT, "mom2_adjustment": True, "v_steps": 2, "damping": 0.1, "check": None}
    for request in REQUESTS:
        edit = editor.edit(request, known="edit", **options)
        assert edit.settings["covariance"]["fingerprint"] == before == edit.settings["origin"]
    assert loads == [(before, (1,))]
    one, other = (editor.context().covariance([1]) for _ in range(2))
    assert one is other and one.solver(1, 0.1) is other.solver(1, 0.1)
    editor.context().covariance([2])  # asked for after edits, and still that of the weights before
    assert loads[-1] == (before, (2,))
    editor.reset()


def test_an_editor_that_settles_goes_back_one_step_and_to_the_start(model: Model) -> None:
    edits = [handmade(model, (0, 1), seed=0), handmade(model, (1, 2), seed=1), handmade(model, (2,), seed=2)]
    before = model.fingerprint()
    editor, plain, prints = Editor(model), Editor(model), []
    for edit in edits:
        plain.apply(edit, force=True)
        prints.append(model.fingerprint())
    plain.reset()
    for edit, expected in zip(edits, prints, strict=True):
        editor.apply(edit, force=True)
        editor.settle()
        assert model.fingerprint() == expected
    state = editor.present
    assert [bool(entry.edit.factors) for entry in editor.history] == [False, False, True]
    editor.undo()
    assert model.fingerprint() == prints[1]
    editor.reset()
    assert model.fingerprint() == before
    other = Editor(model)
    other.adopt(state, edits)
    assert model.fingerprint() == prints[2] and [entry.edit.method for entry in other.history] == ["handmade"] * 3
    other.apply(edits[0], force=True)
    other.undo()
    assert model.fingerprint() == prints[2]
    other.reset()


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_answers_of_many_facts_are_those_of_each(tiny: Tiny, name: str) -> None:
    model = tiny(name)
    place = "[MASK]" if name == "bert" else ""
    prompts = [("{} is in downtown", "The Space Needle"), ("{} is in", "Boeing"), ("See {} in downtown", "The Louvre")]
    facts = [
        Fact(f"{prompt} {place}".strip(), subject, target) for prompt, subject in prompts for target in (" Paris", None)
    ]
    if name == "bert":
        facts = [fact for fact in facts if fact.target is None]
    assert own_answers(model, facts) == [own_answer(model, fact) for fact in facts]
