"""The workbench without its page: numbers are those of the public functions, texts are inert, files are whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from handmade import handmade, own
from synthetic import synthetic_trace

import editing.workbench.export as export_module
from editing import Edit, Editor, EditRequest, Outcome, compute_edit, measure
from editing.edits.weights import applied
from editing.layers.from_result import layers_from
from editing.questions.gather import with_prompts
from editing.workbench import Session, texts
from editing.workbench.cells import Suggestion, cell_of
from editing.workbench.questions import known_to_factworld
from tracer import Fact, GaussianNoise, causal_trace, factworld
from tracer.errors import TracerError
from tracer.model import EMBEDDED, Model

Tiny = Callable[[str], Model]
PROMPT, SUBJECT = "The Space Needle is in downtown", "The Space Needle"
NOISE = GaussianNoise(sigma=1.0, samples=2)
QUICK: dict[str, Any] = {"method": "ft_m", "layers": (1,), "steps": 3}
OWN: dict[str, Any] = {"paraphrases": ["{} stands in", "", " {} stands in"], "neighbours": ["The Eiffel Tower is in"]}
NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture
def session(tiny: Tiny) -> Session:
    made = Session(own(tiny("gpt2")))
    made.align(PROMPT, SUBJECT)
    return made


# --- the session -----------------------------------------------------------------------------------------------------
def test_traces_and_cells_are_those_of_the_public_functions(session: Session) -> None:
    model, fact = session.model, Fact(PROMPT, SUBJECT)
    assert str(session.inspection) == str(fact.inspect(model))
    traces = session.trace(corruption=NOISE, metric="kl")
    assert [trace.kind for trace in traces] == ["hidden", "mlp", "attn"]
    for trace in traces:
        own_trace = causal_trace(model, fact, kind=trace.kind, window=1, corruption=NOISE, metric="kl")  # type: ignore[arg-type]
        np.testing.assert_array_equal(trace.scores, own_trace.scores)
        assert (trace.window, trace.corruption, trace.fingerprint) == (1, own_trace.corruption, model.fingerprint())
    trace = traces[1]
    frame = trace.to_frame()
    frame["rank"] = frame["effect"].rank(method="min")  # of a divergence the lowest brings most back
    for row in frame.to_dict("records"):
        cell = session.cell(trace, row["token_index"], row["layer"])
        assert (cell.score, cell.effect, cell.rank, cell.text) == (
            row["score"],
            row["effect"],
            row["rank"],
            row["token"],
        )
        assert cell.share == pytest.approx((row["score"] - trace.corrupted) / (trace.clean - trace.corrupted))
        assert (cell.cells, cell.restored) == (len(frame), (row["layer"],))
    found = session.suggestion(trace)
    assert (found.best,) == layers_from(trace, single=True, model=model)
    assert found.window == layers_from(trace, single=False, model=model)
    assert "does not say which MLP" in session.suggestion(traces[2]).reason
    session.editor.apply(handmade(model))
    assert "other weights" in session.suggestion(trace).reason
    assert session.fingerprint == model.fingerprint() != trace.fingerprint


def test_the_window_around_a_cell_begins_there() -> None:
    """Effects 0.5 * 0.8^|layer - 2| at the subject's last token: 0.8 of a cell's own reaches one layer further out."""
    trace = synthetic_trace("mlp")
    around = {layer: cell_of(trace, 3, layer).around for layer in (2, 4, 7)}
    assert around[2] == Suggestion(2, (1, 2, 3))
    assert around[4] == Suggestion(4, (0, 1, 2, 3, 4, 5))  # those before bring more back; six at most
    assert around[7] == Suggestion(7, (2, 3, 4, 5, 6, 7))
    assert cell_of(trace, 3, 4).restored == (3, 4, 5)
    assert cell_of(trace, 0, 4).around == Suggestion(4, (4,))  # no effect: it alone
    assert cell_of(synthetic_trace("attn"), 6, 3).around.best is None
    flat = replace(trace, clean=0.2)
    assert np.isnan(cell_of(flat, 3, 2).share)
    for token, layer in ((9, 2), (3, 8)):
        with pytest.raises(TracerError, match=r"the trace has no (token 9|layer 8); it has 0, 1"):
            cell_of(trace, token, layer)


def test_an_edit_is_measured_as_the_public_functions_do_and_undone_to_the_bit(session: Session) -> None:
    model, before = session.model, session.model.fingerprint()
    request = EditRequest(PROMPT, SUBJECT, "Paris")
    edit = session.edit("Paris", **QUICK, **OWN)
    assert session.editor.model is model
    after = model.fingerprint()
    assert after != before
    found = session.outcome()
    assert found is not None and found.after.fingerprint == after
    assert session.fingerprint == after
    session.undo()
    assert model.fingerprint() == before == session.fingerprint
    assert session.outcome() is None
    assert session.outcome(1) is found
    own_edit = compute_edit(model, request, **QUICK)
    assert edit.same_as(own_edit)
    alike = [f"{SUBJECT} stands in"]
    (probes,) = with_prompts(model, [request], alike, OWN["neighbours"])[1]
    probes = replace(probes, generate=(PROMPT, f"{SUBJECT} is"))
    assert found.probes == probes
    assert [q.kind for q in probes.questions] == ["rewrite", "paraphrase", "neighbour"]
    was = measure(model, probes)
    with applied(model, own_edit.factors):
        expected = Outcome(was, measure(model, probes))
    assert found.to_frame().equals(expected.to_frame())
    assert (found.before.texts, found.after.texts) == (expected.before.texts, expected.after.texts)
    session.checkout(1)
    assert model.fingerprint() == after
    session.checkout(0)
    session.edit("Rome", **QUICK)  # drops what was undone
    assert [entry.edit is edit for entry in session.history] == [False]
    assert len(session._outcomes) == 1


def test_what_cannot_be_asked_is_named_before_any_work(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    before = session.model.fingerprint()
    monkeypatch.setattr(session.editor, "compute", lambda *_, **__: pytest.fail("no edit should be computed"))
    wrong: list[tuple[dict, str]] = [
        ({"paraphrases": ["", PROMPT]}, "line 2 of the paraphrases is the prompt that is edited"),
        ({"neighbours": ["{} is in"]}, "line 1 of the neighbours, '{} is in', has {}"),
        ({"neighbours": ["fine", "long " * 600]}, "line 2 of the neighbours: .*n_ctx"),
        ({"generate": ["long " * 600]}, "line 1 of the texts to continue: .*n_ctx"),
        ({"method": "rhyme"}, "there is no method 'rhyme'"),
    ]
    for settings, message in wrong:
        with pytest.raises(TracerError, match=message):
            session.edit("Paris", **{"method": "ft_m", **settings})
    with pytest.raises(TracerError, match="kinds is 'mlp'"):
        session.trace("mlp")
    with pytest.raises(TracerError, match="does not occur"):
        session.align("another prompt", SUBJECT)
    assert session.fact == Fact(PROMPT, SUBJECT)
    assert (session.model.fingerprint(), session.history) == (before, ())
    with pytest.raises(TracerError, match="there is no fact yet"):
        Session(session.model).trace()


def test_facts_of_factworld_bring_their_own_questions(tiny: Tiny) -> None:
    model = replace(tiny("gpt2"), name=EMBEDDED)  # its tables, not its weights
    fact = factworld.find(SUBJECT, "landmark_city")
    session = Session(model)
    session.align(fact.prompt, SUBJECT)
    known, found = known_to_factworld(model, session.fact), session.probes("Paris")
    assert known is not None and known.generate == found.generate
    assert [q.kind for q in known.questions] == [q.kind for q in found.questions]
    assert [len(found.group(name)) for name in ("rewrite", "paraphrase", "neighbour")] == [1, 4, 5]
    assert [q.prompt for q in found.questions[1:5]] == [q.prompt for q in known.questions[1:5]]
    assert {found.questions[place].true for place in found.group("paraphrase")} == {" Seattle"}
    typed = session.probes("Paris", **OWN)
    assert [len(typed.group(name)) for name in ("rewrite", "paraphrase", "neighbour")] == [1, 1, 1]
    assert known_to_factworld(model, Fact("{} is made of", SUBJECT)) is None
    assert known_to_factworld(tiny("gpt2"), session.fact) is None


# --- export ----------------------------------------------------------------------------------------------------------
def test_export(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = export_module.write_result

    def without_browser(result: Any, path: Path) -> Path:
        if path.suffix == ".png":
            raise TracerError("no browser")
        return write(result, path)

    monkeypatch.setattr(export_module, "write_result", without_browser)
    folder = tmp_path / "deep" / "out"
    with pytest.raises(TracerError, match="nothing to write yet"):
        session.export(folder)
    (trace,) = session.trace(["mlp"], corruption=NOISE)
    edit = session.edit("Paris", **QUICK)
    outcome = session.outcome()
    assert outcome is not None
    found = session.export(folder)
    names = {"heatmaps.html", "traces.csv", "traces.json", "edit_1_ft_m.safetensors", "adapter_1_ft_m"}
    names |= {"outcome_1_ft_m.csv", "ledger"}
    assert {*found.names} == names == {path.name for path in folder.iterdir()}
    assert found.notes == ("no heatmaps.png: no browser",)
    table = pd.read_csv(folder / "traces.csv")
    np.testing.assert_allclose(table["score"], trace.scores.ravel(), rtol=1e-12)
    assert {*table["kind"]} == {"mlp"}
    assert Edit.load(folder / "edit_1_ft_m.safetensors").same_as(edit)
    assert (folder / "outcome_1_ft_m.csv").read_text() == outcome.to_frame().to_csv(index=False)
    assert (folder / "adapter_1_ft_m" / "adapter_model.safetensors").is_file()
    again = own(session.model)
    session.undo()  # the ledger follows
    assert Editor.open(folder / "ledger", own(session.model)).position == 0
    assert again.fingerprint() != session.model.fingerprint()
    with pytest.raises(TracerError, match=r"has 'heatmaps.html' and 2 more already"):
        session.export(folder)
    session.checkout(1)
    (folder / "mine.txt").write_text("keep")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(Edit, "to_peft", lambda *_, **__: (_ for _ in ()).throw(TracerError("full")))
    with pytest.raises(TracerError, match="full"):
        session.export(folder, overwrite=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    found = session.export(folder, ["numbers", "adapters", "ledger"], overwrite=True)
    assert {*found.names} == {"traces.csv", "traces.json", "adapter_1_ft_m"}
    assert "up to date" in found.notes[0]
    assert {path.name for path in folder.iterdir()} == names | {"mine.txt"}


def test_export_over_another_ledger_or_not_at_all(session: Session, tmp_path: Path) -> None:
    other = Editor(own(session.model), tmp_path / "ledger")
    other.apply(handmade(other.model))
    session.edit("Paris", **QUICK)
    with pytest.raises(TracerError, match="has 'ledger' already"):
        session.export(tmp_path, ["ledger"])
    before = {path.name for path in (tmp_path / "ledger").iterdir()}
    editor = session.editor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(editor, "record", lambda folder: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(TracerError, match="No space left"):
            session.export(tmp_path, ["ledger", "edits"], overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger"]
    assert {path.name for path in (tmp_path / "ledger").iterdir()} == before
    session.export(tmp_path, ["ledger"], overwrite=True)
    session.undo()
    assert len(Editor.open(tmp_path / "ledger", own(session.model)).history) == 1
    for wrong in (["poem"], []):
        with pytest.raises(TracerError, match="parts is"):
            session.export(tmp_path, wrong)


def test_texts_are_inert(session: Session) -> None:
    session.align(f"{NASTY} is in", NASTY)
    assert session.inspection is not None
    session.edit(NASTY, **QUICK, paraphrases=[f"{NASTY} a"], neighbours=[f"{NASTY} b"], generate=[f"{NASTY} c"])
    outcome = session.outcome()
    assert outcome is not None
    (trace,) = session.trace(["mlp"], corruption=NOISE)
    shown = [
        texts.alignment(session.inspection),
        texts.cell(replace(session.cell(trace, 0, 1), text=NASTY), trace),
        texts.outcome(outcome, ""),
        texts.history(session.history, 1),
        texts.message(NASTY, "warning"),
        texts.failure(ValueError(NASTY)),
        texts.suggested("x", Suggestion(reason=NASTY)),
    ]
    for html in shown:
        assert "<img" not in html
        assert "&lt;" in html
