"""Evaluation of edits of encoder-decoder models: the numbers of a plain loop, and what means nothing there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_runs import HPARAMS, RECORDS
from handmade import own
from stacked import loss_by_labels, stacked

import editing
from editing.datasets import EditRecord, Question, in_spans
from editing.evaluation import Evaluation
from editing.evaluation.result.joining import join
from editing.evaluation.run.left_out import left_out
from editing.evaluation.run.protocol import Protocol
from editing.evaluation.run.start import evaluate
from editing.questions.negation import denied
from tracer.errors import EncoderDecoderError
from tracer.facts import prompt_ids
from tracer.facts.prompt import SPAN_END, source_length, span_mark
from tracer.model import Model

QUICK: dict[str, Any] = {"chunk": 2, "layers": [0], "control_cases": 1, **HPARAMS}


@pytest.fixture(params=("t5", "bart"))
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    found = own(stacked(request.param, positions=160))
    before = found.fingerprint()
    yield found
    assert found.fingerprint() == before


def spans(model: Model) -> list[EditRecord]:
    """Two records in spans, of which one is asked a question too; the words are such as the tokenizer has."""
    text = json.dumps([each.model_dump(mode="json") for each in RECORDS[:2]])
    records = [EditRecord.model_validate(each) for each in json.loads(text)]
    asked = Question(kind="paraphrase", prompt="Where is The Space Needle?", answers=(("Rome",),), against="Seattle")
    more = {"asks": (*records[0].asks, asked), "essence": ("The Space Needle is high.",), "generate": ("It is",)}
    return in_spans(model, [records[0].model_copy(update=more), records[1]])


def written(model: Model, prompt: str, tokens: int) -> str:
    """What the library writes after a prompt, greedily."""
    ids, hf = prompt_ids(model, prompt), model.hf
    source = source_length(model, ids)
    marked: Any = model.tokenizer.convert_tokens_to_ids(SPAN_END)
    ends = [end for end in (hf.config.eos_token_id, marked) if end is not None]
    given: Any = {"input_ids": torch.tensor([ids[:source]]), "decoder_input_ids": torch.tensor([ids[source:]])}
    plain: dict[str, Any] = {"do_sample": False, "num_beams": 1, "use_cache": False, "eos_token_id": ends}
    found = hf.generate(**given, max_new_tokens=tokens, **plain)  # type: ignore[operator]
    new = [int(token) for token in found[0, len(ids) - source :] if int(token) not in ends]
    return str(model.tokenizer.decode(new)).strip()


def check_answers(model: Model, rows: Any, record: EditRecord) -> None:
    """Answers of a table against the model as it is, question by question, by the library's own loss and decoding."""
    asked = [(one.kind, one.prompt) for one in record.questions()]
    asked += [("negation", text) for request in record.requests() if (text := denied(request)) is not None]
    assert [(row.kind, row.prompt) for row in rows.itertuples()] == asked
    for row in rows.itertuples():
        question = Question(kind="rewrite", prompt=row.prompt)
        for answer, nll in ((row.answer, row.nll), (row.against, row.nll_against)):
            if isinstance(answer, str) and row.kind != "same_subject":  # whose answer is the model's own, in ids
                np.testing.assert_allclose(nll, loss_by_labels(model, question.fact(answer)), rtol=1e-4, atol=1e-5)
        if isinstance(row.generated, str):
            assert written(model, row.prompt, 8).startswith(row.generated[:4])


def test_the_numbers_are_those_of_a_plain_loop_and_controls_stand_in_the_same_stack(model: Model) -> None:
    records = spans(model)
    found = evaluate(model, records, "rome", **QUICK)
    assert set(found.frame["method"]) == {"unedited", "rome"} and not found.edits["error"].any()
    answers = found.answers
    for record in records:
        own_rows = answers[answers["case_id"] == record.case_id]
        check_answers(model, own_rows[own_rows["method"] == "unedited"], record)
        edit = editing.compute_edit(model, record.requests()[0], layers=[0], known="edit", check=None, **HPARAMS)
        with edit.applied(model):
            check_answers(model, own_rows[own_rows["method"] == "rome"], record)
    assert set(found.frame["control"]) == {"", "random direction", "random layer"}
    # the other layer of the encoder, where a subject has states: in the decoder nothing could be written
    edit = editing.compute_edit(model, records[0].requests()[0], layers=[1], known="edit", check=None, **HPARAMS)
    norms = found.frame[(found.frame["control"] == "random layer") & (found.frame["metric"] == "edit norm")]
    assert norms["value"].tolist() == pytest.approx([sum(each**2 for each in edit.norm().values()) ** 0.5])


@pytest.mark.parametrize("mode", ["batch", "sequential"])
def test_edits_together_and_one_after_another(model: Model, mode: Any) -> None:
    records = spans(model)
    found = evaluate(model, records, "rome", mode, controls=(), **{**QUICK, "retention": 2, "moments": 1})
    assert not found.edits["error"].any()
    last = found.answers[found.answers["method"] == "rome"]
    last = last[last["after"] == last["after"].max()]
    requests = [record.requests()[0] for record in records]
    groups = [requests] if mode == "batch" else [[one] for one in requests]
    editor = editing.Editor(model)
    for group in groups:
        editor.edit(group, "rome", layers=[0], known="edit", check=None, **HPARAMS)
    for record in records:
        rows = last[last["case_id"] == record.case_id]
        if len(rows):
            check_answers(model, rows, record)
    assert set(last["case_id"]) == {record.case_id for record in records} or mode == "sequential"
    editor.reset()


def test_what_means_nothing_is_left_out_and_said(model: Model, tmp_path: Path) -> None:
    path, given = tmp_path / "run.sqlite", {**QUICK, "controls": (), "canary_tokens": 64, "attack": 3}
    found = evaluate(model, spans(model)[:1], "rome", path=path, **given)
    words = "drift and perplexity on running text, continued texts, attacks through the unembedding"
    assert found.left_out == {model.name: words} == Evaluation.load(path).left_out
    assert f"left out, since they mean nothing for {model.name}: {words}" in str(found)
    metrics = set(found.frame["metric"])
    assert metrics and not metrics & {"perplexity", "KL drift", "fluency", "consistency", "essence perplexity"}
    assert not any(name.startswith("attack") for name in metrics)
    assert left_out(model, Protocol(canary_tokens=0, texts=False)) == ""
    quiet = evaluate(model, spans(model)[:1], "rome", **{**given, "canary_tokens": 0, "texts": False, "attack": 0})
    assert quiet.left_out == {} and "left out" not in str(quiet)
    other = evaluate(model, spans(model)[:1], "ft_m", steps=1, layers=[0], controls=(), canary_tokens=64, attack=3)
    assert other.left_out == found.left_out == join([quiet, other]).left_out == join([other, quiet]).left_out


def test_records_become_spans_and_questions_stay(model: Model) -> None:
    mark = span_mark(model)
    record = spans(model)[0]
    assert record.rewrites[0].prompt == f"{{}} is in downtown {mark}"
    prompts = [one.prompt for one in record.asks]
    assert prompts[0] == f"You can see The Space Needle in {mark}" and prompts[-1] == "Where is The Space Needle?"
    assert record.generate == ("It is",) and record.essence == ("The Space Needle is high.",)
    assert in_spans(model, [record]) == [record]  # once is enough
    needing = RECORDS[0].model_copy(
        update={
            "asks": (
                Question(kind="condition", prompt="Paris is in", answers=(("France",),)),
                Question(kind="one_hop", prompt="Who is there?", answers=(("Rome",),), needs=("Paris is in", 0)),
            )
        }
    )
    (found,) = in_spans(model, [needing])
    assert found.asks[1].needs == (f"Paris is in {mark}", 0) and EditRecord.model_validate(found.model_dump()) == found


def test_models_of_one_stack_have_no_spans(tiny: Any) -> None:
    with pytest.raises(EncoderDecoderError, match="is no encoder-decoder model"):
        in_spans(tiny("gpt2"), RECORDS)
