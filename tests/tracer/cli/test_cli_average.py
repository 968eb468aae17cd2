"""``tracer average``: what it prints is what ``average_traces`` returns; files of facts, and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import assert_one_line, cells, done, run

from tracer import AverageTrace, Fact, GaussianNoise, Model, average_traces, load
from tracer.cli.factfile import read
from tracer.errors import TracerError
from tracer.factworld import facts

RECORDS: list[dict[str, Any]] = [
    {"prompt": "The Space Needle is in downtown", "subject": "The Space Needle"},
    {"prompt": "{} plays the", "subject": "Miles Davis", "known_id": 7},
    {"prompt": "{} is the capital of", "subject": "Paris", "attribute": "France"},
    {"prompt": "The mother tongue of Ångström is", "subject": "Ångström", "target": None},
]
NOISE = GaussianNoise(samples=2)


@pytest.fixture(scope="module")
def model(tiny: Callable[[str], Model]) -> Model:
    return tiny("gpt2")


@pytest.fixture
def basic(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> list[str]:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(RECORDS), encoding="utf-8")
    options = ["--facts", str(path), "-m", str(tiny_folder("gpt2")), "--samples", "2", "--window", "2"]
    return ["average", *options]


def expected(model: Model, records: list[dict[str, Any]] = RECORDS, **settings: Any) -> AverageTrace:
    chosen = [Fact(r["prompt"], r["subject"], r.get("attribute")) for r in records]
    return average_traces(model, chosen, window=2, corruption=NOISE, **settings)


def interval(*numbers: float) -> str:
    value, low, high = numbers
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


@pytest.mark.parametrize("metric", ["prob", "kl"])
def test_averages_are_printed_and_written(tmp_path: Path, basic: list[str], model: Model, metric: str) -> None:
    out = tmp_path / "out"
    printed = done(*basic, "--metric", metric, "--out", str(out), "--format", "html,csv,json,npz")
    lines = printed.splitlines()
    assert lines[0] == "3 facts about 3 subjects traced, 1 fact skipped as unknown"
    frame = pd.read_csv(out / "average.csv")
    for kind in ("hidden", "mlp", "attn"):
        average = expected(model, kind=kind, metric=metric)
        total = interval(average.total_effect, average.total_low, average.total_high)
        assert lines[1] == f"total effect {total}   clean {average.clean:.4f}   corrupted {average.corrupted:.4f}"
        block = printed.split(f"{kind if kind == 'hidden' else f'{kind}, 2 layers'} restored at")[1]
        for i, name in enumerate(average.classes):
            effect = average.effect[i]
            at = int((effect if average.total_effect > 0 else -effect).argmax())
            numbers = [str(at), interval(effect[at], average.low[i, at], average.high[i, at])]
            assert cells(block, name)[1:] == [str(average.tokens[i]), *numbers]
        saved = AverageTrace.load(out / f"average_{kind}.npz")
        assert saved.effect.tolist() == average.effect.tolist()
        assert frame[frame["kind"] == kind]["effect"].tolist() == pytest.approx(average.effect.ravel().tolist())
    assert [each["kind"] for each in json.loads((out / "average.json").read_text())] == ["hidden", "mlp", "attn"]
    html = (out / "average.html").read_text(encoding="utf-8")
    assert html.count('"type":"heatmap"') >= 3


@pytest.mark.parametrize("kind", ["hidden", "attn"])
def test_severed_averages_stand_beside_the_whole(tmp_path: Path, basic: list[str], model: Model, kind: str) -> None:
    out = tmp_path / "out"
    printed = done(
        *basic, "--kind", kind, "--sever", "mlp", "--out", str(out), "--metric", "kl", "--format", "html,npz"
    )
    whole = expected(model, metric="kl")
    row = whole.classes.index("last subject token")
    sign = -1 if whole.total_effect < 0 else 1
    at = int((sign * whole.effect[row]).argmax())
    for sever, name in ((None, "nothing severed"), ("mlp", "MLP severed")):
        average = expected(model, metric="kl", sever=sever)
        effect, low, high = average.effect[row], average.low[row], average.high[row]
        best = int((sign * effect).argmax())
        both = [interval(effect[i], low[i], high[i]) for i in (best, at)]
        assert cells(printed, name)[1:] == [str(best), *both]
        saved = AverageTrace.load(out / f"average_severed_{sever or 'none'}.npz")
        assert saved.effect[row].tolist() == pytest.approx(effect.tolist(), abs=1e-6)
    assert (out / "average_severed.html").read_text(encoding="utf-8").count('"type":"bar"') >= 2


def test_a_run_is_taken_up_again(tmp_path: Path, basic: list[str]) -> None:
    resume = tmp_path / "resume"
    options = ["--sever", "mlp", "--resume", str(resume)]
    first = done(*basic, "--kind", "hidden,mlp", *options)
    assert sorted(path.name for path in resume.iterdir()) == ["hidden", "hidden_subject_last_mlp", "mlp"]
    kept = {path: path.stat().st_mtime_ns for path in resume.rglob("*.npz")}
    assert len(kept) == 3 * 4
    assert done(*basic, "--kind", "hidden,mlp", *options) == first
    assert {path: path.stat().st_mtime_ns for path in resume.rglob("*.npz")} == kept
    assert_one_line(run(*basic, "--kind", "hidden", "--metric", "kl", *options), "holds the traces of another run")


def test_facts_are_drawn(tmp_path: Path, basic: list[str], model: Model) -> None:
    seen = set()
    for seed in (0, 1, 2):
        drawn = sorted(np.random.default_rng(seed).choice(len(RECORDS), 2, replace=False).tolist())
        out = tmp_path / str(seed)
        options = ["--limit", "2", "--seed", str(seed), "--out", str(out), "--format", "npz"]
        printed = done(*basic, "--kind", "hidden", *options)
        average = expected(model, [RECORDS[i] for i in drawn], seed=seed)
        total = interval(average.total_effect, average.total_low, average.total_high)
        assert printed.splitlines()[1].startswith(f"total effect {total} ")
        assert AverageTrace.load(out / "average_hidden.npz").seed == seed
        seen.add(tuple(drawn))
    assert len(seen) > 1


def test_without_a_file_the_embedded_facts_are_traced() -> None:
    options = ["--relation", "landmark_city", "--relation", "sport", "--limit", "2", "--samples", "1", "--seed", "3"]
    printed = done("average", *options, "--kind", "hidden")
    known = [fact for fact in facts() if fact.relation in ("landmark_city", "sport")]
    chosen = [known[i] for i in sorted(np.random.default_rng(3).choice(len(known), 2, replace=False))]
    average = average_traces(load(), chosen, window=3, corruption=GaussianNoise(samples=1), seed=3)
    total = interval(average.total_effect, average.total_low, average.total_high)
    assert printed.splitlines()[1].startswith(f"total effect {total}   clean {average.clean:.4f}")


def test_a_file_may_hold_a_list_or_lines(tmp_path: Path) -> None:
    path = tmp_path / "facts"
    path.write_text("\ufeff" + "\n\n".join(json.dumps(record) for record in RECORDS) + "\n", encoding="utf-8")
    lines = read(path)
    path.write_text(json.dumps(RECORDS), encoding="utf-8")
    assert read(path) == lines
    assert [fact.target for _, fact in lines] == [None, None, "France", None]
    assert lines[1] == (f"{path}, record 2", Fact("{} plays the", "Miles Davis"))
    path.write_text(json.dumps([{"prompt": "A is", "subject": "A", "target": "b", "attribute": "c"}]))
    assert read(path)[0][1].target == "b"


def test_the_list_of_known_facts_can_be_read(data: Path) -> None:
    known = read(data / "known_1000" / "known_1000.json")
    assert len(known) == 1209
    assert known[0][1] == Fact("Vinson Massif is located in the continent of", "Vinson Massif", "Antarctica")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"prompt": "A is", "subject": "A"}, {"prompt": "B is"}]', "record 2, field subject: is missing"),
        ('[{"prompt": 3, "subject": "A"}]', "record 1, field prompt: Input should be a valid string"),
        ('{"prompt": "A is", "subject": "A"}\n{"prompt": "B", "subject": "C"}', "record 2, field prompt: subject 'C'"),
        ('[{"prompt": "A is", "subject": "A", "target": " "}]', "record 1, field target: it is empty"),
        ('[{"prompt": "A is", "subject": "A", "attribute": ""}]', "record 1, field attribute: it is empty"),
        ('[{"prompt": "", "subject": "A"}]', "record 1, field prompt: it is empty"),
        ("[3]", "record 1: Input should be a valid dictionary"),
        ("[{]", "is no JSON"),
        ('{"prompt": "A is", "subject": "A"}\nnonsense', "record 2: the line is no JSON"),
        ("[]", "holds no facts"),
        ("", "is empty"),
        ("\udcff", "is no text in UTF-8"),
    ],
)
def test_errors_in_a_file_name_record_and_field(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(TracerError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert_one_line(run("average", "--facts", str(path)), message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--facts", "missing.json"], "cannot read missing.json (No such file"),
        (["--relation", "landmark_city"], "leave it out, or --facts"),
        (["--limit", "0"], "--limit"),
        (["--seed", "-1"], "--seed"),
        (["--samples", "0"], "samples"),
        (["--window", "0"], "window"),
        (["--metric", "prob,kl"], "metric is 'prob,kl'; expected one of prob"),
        (["--metric", "accuracy"], "unknown metric"),
        (["--kind", "neurons"], "hidden"),
        (["--sever", "hidden"], "mlp, attn"),
        (["--format", "gif"], "gif"),
        (["--out", "file/figures"], "cannot write"),
        (["--resume", "file"], "cannot write"),
    ],
    ids=" ".join,
)
def test_bad_options_are_one_line_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, basic: list[str], options: list[str], message: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("tracer.model.load", never)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    assert_one_line(run(*basic, "--out", "new", *options), message)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facts.json", "file"]


def test_a_relation_nobody_has_is_one_line() -> None:
    assert_one_line(run("average", "--relation", "colour"), "no fact has the relation 'colour'; expected one of birth")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([*RECORDS, {"prompt": "A is" + " and" * 100, "subject": "A"}], "facts.json, record 5: prompt"),
        ([RECORDS[2]], "the model knows none of the 1 facts"),
    ],
)
def test_facts_the_model_cannot_take_are_one_line(
    tmp_path: Path, basic: list[str], records: list[dict[str, Any]], message: str
) -> None:
    (tmp_path / "facts.json").write_text(json.dumps(records), encoding="utf-8")
    assert_one_line(run(*basic, "--resume", str(tmp_path / "resume")), message)
