"""``tracer evaluate`` and ``tracer sweep``: the command's tables are those of the function, and runs go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import assert_one_line, done, run

import editing.cli  # noqa: F401 (adds the commands)
import tracer
from editing.datasets import load_records
from editing.evaluation import METRICS, Evaluation
from editing.evaluation.run.start import evaluate

SET = ["--set", "v_steps=2", "--set", "mom2_adjustment=false", "--set", 'context_templates=["{}"]']
QUICK = ["--no-texts", "--option", "canary_tokens=0", "--option", "chunk=1"]
FACTS = [
    {
        "prompt": "{} is in downtown",
        "subject": "The Space Needle",
        "target_new": "Paris",
        "target_true": "Seattle",
        "paraphrases": ["You can see The Space Needle in"],
        "neighbours": ["The Eiffel Tower is in"],
    },
    {"prompt": "{} plays the", "subject": "Miles Davis", "target_new": "cello", "target_true": "trumpet"},
]


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(FACTS))
    return path


def command(facts: Path, model: Path, out: Path, *more: str, name: str = "evaluate") -> list[str]:
    return [name, str(facts), "-m", str(model), "--out", str(out), *SET, *QUICK, *more]


def test_the_table_is_that_of_the_function(facts: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder, out = tiny_folder("gpt2"), tmp_path / "run.sqlite"
    more = ["--method", "rome,ft_l", "--layers", "1", "--limit", "1", "--no-controls"]
    printed = done(*command(facts, folder, out, *more))
    for part in ("unedited", "rome", "ft_l", "reliability", "tracer report"):
        assert part in printed
    assert len(printed.splitlines()) > 10
    found = Evaluation.load(out)
    assert set(found.frame["layers"]) == {"", "1"} and set(found.frame["case_id"]) == {"0"}
    hparams = {"v_steps": 2, "mom2_adjustment": False, "context_templates": ["{}"]}
    options = {"texts": False, "canary_tokens": 0, "chunk": 1, "controls": (), "layers": [1]}
    records = load_records(facts, limit=1)
    expected = evaluate(tracer.load(folder), records, ["rome", "ft_l"], **options, **hparams)  # type: ignore[arg-type]
    timed = ["seconds", "peak bytes"]
    one, two = (each.frame[~each.frame["metric"].isin(timed)]["value"].to_numpy() for each in (found, expected))
    assert one == pytest.approx(two)
    done("evaluate", "--out", str(out))  # everything is there
    assert Evaluation.load(out).frame.equals(found.frame)


def test_attacks_are_made_where_a_budget_is_given(
    facts: Path, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "run.sqlite"
    more = ["--method", "rome", "--layers", "1", "--limit", "1", "--no-controls", "--attack", "7"]
    assert "attack success (head projection)" in done(*command(facts, tiny_folder("gpt2"), out, *more))
    run_ = Evaluation.load(out)
    assert run_.settings["protocol"]["attack"] == 7
    assert {"attack success (rephrasing)", "attack success (sampling)"} <= {*run_.frame["metric"]}


def test_a_sweep_is_every_combination(facts: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "sweep.sqlite"
    more = ["--layers", "1", "--layers", "2,3", "--seeds", "0,1", "--modes", "single,batch", "--method", "r_rome"]
    more += ["--limit", "1"]
    done(*command(facts, tiny_folder("gpt2"), out, *more, name="sweep"))
    frame = Evaluation.load(out).frame
    edited = frame[frame["method"] == "r_rome"]
    assert len(edited.groupby(["layers", "seed", "mode"])) == 8


def test_records_are_drawn_the_same_way_every_time(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    many = tmp_path / "many.json"
    many.write_text(json.dumps([{**FACTS[1], "case_id": str(i), "subject": f"Davis {i}"} for i in range(30)]))
    cases = []
    for name in ("a", "b"):
        out = tmp_path / name
        done(*command(many, tiny_folder("gpt2"), out, "--draw", "3", "--no-controls"))
        cases.append(set(Evaluation.load(out).frame["case_id"]))
    assert cases[0] == cases[1] and len(cases[0]) == 3 and cases[0] != {"0", "1", "2"}


def test_counterfact_as_it_was_published(data: Path, golden: Path, tmp_path: Path) -> None:
    """All its kinds of questions are asked and written texts are measured."""
    out, file = tmp_path / "run.sqlite", data / "counterfact" / "counterfact_portability_gpt4.json"
    options = [*SET, "--option", "canary_tokens=32", "--option", "text_tokens=40", "--limit", "1", "--layers", "1"]
    done("evaluate", str(file), "-m", str(golden / "model"), "--out", str(out), *options)
    frame = Evaluation.load(out).frame
    edited = frame[(frame["method"] == "rome") & (frame["control"] == "")].set_index("metric")
    codes = {name for name in edited.index if METRICS[name].code}
    asked = {f"{kind} {what}" for kind in ("rewrite", "paraphrase", "neighbour") for what in ("success", "magnitude")}
    assert asked <= codes and {"fluency", "kl drift", "negation", "portability (generated)"} <= {*edited.index}
    assert edited.loc["neighbour success", "n"] == 10 and edited.loc["paraphrase success", "n"] == 2
    assert {*frame["control"]} == {"", "random direction", "random layer"}


def test_a_set_by_name_leaves_out_what_is_wrong_and_says_so(
    data: Path, tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACER_DATA", str(data))
    more = [
        "--limit",
        "9",
        "--draw",
        "1",
        "--method",
        "ft_l",
        "--layers",
        "1",
        "--no-controls",
        "--set",
        "steps=1",
        *QUICK,
    ]
    out = ["-m", str(tiny_folder("gpt2")), "--out", str(tmp_path / "run.sqlite")]
    code, printed, errors = run("evaluate", "knowedit:zsre", *out, *more)
    assert code == 0 and "ft_l" in printed
    assert errors.startswith("tracer: note: 1 of 10 records of knowedit:zsre cannot be used and are left out")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "room"], "there is no method 'room'"),
        (["--method", ","], "names nothing"),
        (["--mode", "both"], "unknown mode 'both'"),
        (["--layers", "x"], "layers are 'x'"),
        (["--layers", "99"], "needs a layer from 0 to 3, got 99"),
        (["--set", "speed=3"], "no hyper-parameter 'speed'"),
        (["--option", "speed=3"], "no option 'speed'"),
        (["--option", "chunk"], "sets nothing"),
        (["--option", "chunk=many"], "expected a whole number"),
        (["--option", "on_alarm=panic"], "on_alarm is 'panic'"),
        (["--layout", "none"], "none"),
        (["--split", "test"], "split"),
    ],
)
def test_bad_input_is_one_line(
    facts: Path, tiny_folder: Callable[[str], Path], tmp_path: Path, more: list[str], message: str
) -> None:
    out = tmp_path / "run.sqlite"
    assert_one_line(run(*command(facts, tiny_folder("gpt2"), out, *more)), message)


def test_there_has_to_be_something_to_evaluate(tmp_path: Path) -> None:
    assert_one_line(run("evaluate", "--out", str(tmp_path / "run.sqlite")), "no run in")
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    assert_one_line(run("evaluate", str(empty), "--out", str(tmp_path / "run.sqlite")), "no records")
    cut = tmp_path / "cut.json"
    cut.write_text(json.dumps(FACTS)[:-30])
    assert_one_line(run("evaluate", str(cut), "--out", str(tmp_path / "run.sqlite")), "cut.json")
    other = tmp_path / "other.sqlite"
    other.write_text("no database")
    assert_one_line(run("evaluate", "--out", str(other)), "other.sqlite")


def test_spans_are_filled_in_by_the_embedded_encoder_decoder_model(tmp_path: Path) -> None:
    out = tmp_path / "run.sqlite"
    given = ["evaluate", "factworld", "--split", "test", "--limit", "1", "-m", "factworld-t5", "--out", str(out)]
    more = ["--method", "ft_m", "--layers", "7", "--set", "steps=1", "--no-controls", "--spans"]
    printed = done(*given, *more)
    assert "left out, since they mean nothing for factworld-t5: drift and perplexity on running text, cont" in printed
    found = Evaluation.load(out)
    prompts = found.answers["prompt"]
    assert len(prompts) > 4 and all(text.endswith("<extra_id_0>") for text in prompts)
    unedited = found.answers[found.answers["method"] == "unedited"]
    assert unedited["nll"].max() > 1 > unedited["nll"].min()  # some are known
    small = ["evaluate", "factworld", "--limit", "1", "--out", str(tmp_path / "other.sqlite"), *more]
    assert "goes on from prompts as they are" in "".join(map(str, run(*small)))
