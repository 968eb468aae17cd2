"""Attacks on old answers in an evaluation: the numbers of the function, in every mode, and off unless asked for."""

from __future__ import annotations

from typing import Any

import pytest
from evaluation_runs import HPARAMS, QUICK, RECORDS, values

from editing.attack import attack
from editing.evaluation import METRICS
from editing.evaluation.run.protocol import Protocol
from editing.evaluation.run.start import evaluate
from editing.methods.compute import compute_edit
from editing.questions.metrics import ATTACKS
from tracer import Model, TracerError

NAMES = [f"attack success ({name})" for name in ATTACKS]


@pytest.mark.parametrize("mode", ["single", "batch", "sequential"])
def test_success_is_that_of_the_function(mode: Any, model: Model) -> None:
    records, budget = RECORDS[:2], 40
    run = evaluate(model, records, "rome", mode, layers=[1], attack=budget, **QUICK, **HPARAMS)
    edits = [compute_edit(model, one.requests(), "rome", layers=[1], known="edit", **HPARAMS) for one in records]
    unedited = attack(model, records, budget=budget)
    found = {name: values(run.frame, method=name) for name in ("unedited", "rome")}
    for name, metric in zip(ATTACKS, NAMES, strict=True):
        for place, record in enumerate(records):
            key = record.case_id, metric
            assert found["unedited"][key] == pytest.approx(unedited.success(name)[place], abs=1e-4)
            if mode == "single":
                with edits[place].applied(model):
                    expected = attack(model, record, budget=budget).success(name)[0]
                assert found["rome"][key] == pytest.approx(expected, abs=1e-3)
    assert {*NAMES} <= {metric for _, metric in found["rome"]} and {*NAMES} <= {*METRICS}
    assert any(value not in (0, 1) for key, value in found["rome"].items() if key[1] == NAMES[-1])
    assert "attack success (head" in str(run)  # a long name is broken over lines


def test_no_attack_unless_asked_for_or_where_no_answer_is_known(model: Model) -> None:
    plain = evaluate(model, RECORDS[:1], "rome", layers=[1], **QUICK, **HPARAMS)
    assert not {*NAMES} & {*plain.frame["metric"]} and "attack" not in plain.settings["protocol"]
    one = RECORDS[0].rewrites[0].model_copy(update={"target_true": None})
    unknown = RECORDS[0].model_copy(update={"rewrites": (one,)})
    run = evaluate(model, [unknown], "rome", layers=[1], attack=5, **QUICK, **HPARAMS)
    assert not {*NAMES} & {*run.frame["metric"]} and run.settings["protocol"]["attack"] == 5
    assert Protocol.of(run.settings["protocol"]).attack == 5
    with pytest.raises(TracerError, match="attack is -1; expected 0 or more"):
        Protocol(attack=-1)
