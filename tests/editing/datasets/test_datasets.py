"""Records: what every layout becomes, sets by name, and that the published files load whole."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from layouts import (
    LAYOUTS,
    NEEDLE,
    query,
    ripple,
    ripple_edit,
)

from editing.datasets import (
    KINDS,
    MEASURES,
    EditRecord,
    Question,
    Rewrite,
    load_facts,
    load_records,
    read_records,
    records_of,
)
from editing.datasets import save_records as save
from tracer import Fact, TracerError, factworld


def written(folder: Path, rows: Any, name: str = "records.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_recognised_and_becomes_the_record(layout: str, tmp_path: Path) -> None:
    rows, facts, asked, more = LAYOUTS[layout]
    layout = layout.partition(" ")[0]
    path = written(tmp_path, rows)
    loaded = read_records(path, layout="zsre-true" if layout == "zsre-true" else None)
    assert (loaded.layout, loaded.problems) == (layout, ())
    record = loaded.records[0]
    assert list(record.rewrites) == facts
    assert [(ask.kind, ask.prompt, ask.answers, ask.against, ask.either) for ask in record.asks] == asked
    assert {name: getattr(record, name) for name in more} == more
    assert load_records(path, layout=layout) == list(loaded.records)
    assert [ask.kind for ask in record.questions()][: len(facts)] == ["rewrite"] * len(facts)


def test_a_relation_of_ripple_edits_is_worded_by_its_edits_where_no_query_asks_it(tmp_path: Path) -> None:
    rows = [ripple(ripple_edit("Norway", "Lima", "Oslo", 1)), ripple(ripple_edit("Peru", "Lund", "Lima", 2))]
    rows.append(ripple(ripple_edit("Chile", "Santa Fe", None, 3)))
    found = [record.rewrites[0] for record in load_records(written(tmp_path, rows))]
    assert [(f.prompt, f.subject, f.target_new, f.target_true) for f in found] == [
        ("The capital of {} is", "Norway", "Lima", "Oslo"),
        ("The capital of {} is", "Peru", "Lund", "Lima"),
        ("The capital of {} is", "Chile", "Santa Fe", None),
    ]


@pytest.mark.parametrize("sentence", ["Nothing to be cut.", "The capital of Norway is"])
def test_a_sentence_without_its_parts_is_a_problem(sentence: str, tmp_path: Path) -> None:
    edit = {**ripple_edit("Norway", "Lima", None), "prompt": sentence}
    (problem,) = read_records(written(tmp_path, [ripple(edit)])).problems
    assert problem.field == "edit.prompt" and "cannot be cut into prompt, subject and target" in problem.message


def test_an_excerpt_of_ripple_edits_is_read_as_its_description_writes_it(tmp_path: Path) -> None:
    """One record, of the criteria only some, and the first in the description's spelling."""
    tests = [{"test_queries": [query("The area of Norway is", ["large"], subject_id="Q1", relation="AREA")]}]
    row = {"example_type": "popular", "edit": ripple_edit("Norway", "Lima", "Oslo"), "Relation_Specifity": tests}
    (record,) = load_records(written(tmp_path, [row]))
    assert record.rewrites == (
        Rewrite(
            prompt="The capital of {} is", subject="Norway", target_new="Lima", target_true="Oslo", relation="CAPITAL"
        ),
    )
    assert [(one.kind, one.prompt) for one in record.asks] == [("relation_specificity", "The area of Norway is")]


# KnowEdit's sets hold RippleEdits' facts with subject and prompt, which RippleEdits' own files leave to be found
@pytest.mark.parametrize(
    "name",
    [
        "benchmark_wiki_recent_recent_train",
        "benchmark_wiki_counterfact_train_cf",
        "wiki_counterfact_test_cf-generate-10",
    ],
)
def test_every_sentence_of_ripple_edits_is_cut_where_it_should_be(name: str, data: Path) -> None:
    """Alone, and in its file: by what is asked of the same subject, and by the grammar."""
    (file,) = (data / "knowedit").glob(f"*{name}.json")
    records = read_records(file).records
    rows = []
    for number, record in enumerate(records):
        (fact,) = record.rewrites
        subject, prompt = {"subject_id": number}, fact.request().text

        def told(target: str, prompt: str = prompt, frame: str = fact.request().prompt, own: Any = subject) -> Any:
            return {"prompt": f"{prompt} {target}.", "relation": frame, "target_id": target, **own}

        edit = told(fact.target_new)
        if fact.target_true is not None and "counterfact" in name:
            edit["previous_fact"] = told(fact.target_true)
        same = [
            {"test_queries": [query(one.prompt, ["x"], relation=one.prompt.replace(fact.subject, "{}"), **subject)]}
            for one in record.asks
            if one.kind == "relation_specificity"
        ]
        rows.append(ripple(edit, Relation_Specificity=same))
    expected = [
        (record.rewrites[0].request().text, record.rewrites[0].subject, record.rewrites[0].target_new)
        for record in records
    ]
    for found in (records_of(rows), [records_of([row])[0] for row in rows]):
        cut = [one.rewrites[0] for one in found]
        assert [(one.request().text, one.subject, one.target_new) for one in cut] == expected


def test_a_test_of_ripple_edits_needs_its_conditions_with_their_own_answers(tmp_path: Path) -> None:
    """Two tests may ask the same of the unedited model and want other answers, as of the children of somebody."""
    conditions = [query(prompt, ["Oslo"]) for prompt in ("a", "b", "a")]
    tests = [{"test_queries": [query("c", ["Rome"])], "condition_queries": conditions}, {"test_queries": []}]
    tests[1]["condition_queries"] = [query("of nothing that is asked", ["Oslo"])]
    tests.append({"test_queries": [query("d", ["Rome"])], "condition_queries": [query("a", ["Bergen"]), conditions[1]]})
    rows = [
        ripple(ripple_edit(name, "Rome", "Lima", n), Forgetfulness=tests) for n, name in enumerate(("Norway", "Peru"))
    ]
    (record, _) = load_records(written(tmp_path, rows))
    assert [(one.kind, one.prompt, one.answers[0], one.needs) for one in record.asks] == [
        ("forgetfulness", "c", ("Rome",), (0, 1)),
        ("forgetfulness", "d", ("Rome",), (2, 1)),
        ("condition", "a", ("Oslo",), ()),
        ("condition", "b", ("Oslo",), ()),
        ("condition", "a", ("Bergen",), ()),
    ]
    save(tmp_path / "saved.jsonl", [record])
    assert load_records(tmp_path / "saved.jsonl") == [record]


def test_the_steps_of_mquake_that_are_written_are_no_portability(data: Path) -> None:
    records = load_records(data / "mquake" / "MQuAKE-hard.json")
    asked = [(record, ask) for record in records for ask in record.asks if ask.kind == "single_hop"]
    again = [ask for record, ask in asked if ask.prompt in {rewrite.request().text for rewrite in record.rewrites}]
    assert len(asked) == len(again) == 1_716
    assert "single_hop" not in MEASURES["portability"] and "multi_hop" in MEASURES["portability"]


def test_what_is_needed_has_to_be_asked() -> None:
    asks = ({"kind": "one_hop", "prompt": "a", "needs": ["b"]}, {"kind": "one_hop", "prompt": "b"})
    with pytest.raises(ValueError, match="'a' needs 'b', which is no question of kind 'condition'"):
        EditRecord(case_id="1", source="made", rewrites=(NEEDLE,), asks=asks)  # type: ignore[arg-type]
    for needs in (["c"], [0], []):
        asks = ({"kind": "one_hop", "prompt": "a", "needs": needs}, {"kind": "condition", "prompt": "c"})
        assert EditRecord(case_id="1", source="made", rewrites=(NEEDLE,), asks=asks)  # type: ignore[arg-type]
    asks[0]["needs"] = [1]
    with pytest.raises(ValueError, match="'a' needs 1, which"):
        EditRecord(case_id="1", source="made", rewrites=(NEEDLE,), asks=asks)  # type: ignore[arg-type]


def test_factworld_has_every_split_and_texts_about_the_new_object() -> None:
    both = [*load_records("factworld:test"), *load_records("factworld", split="validation")]
    given = [*factworld.records("test"), *factworld.records("validation")]
    assert [record.case_id for record in both] == [str(record["case_id"]) for record in given]
    counts = Counter(ask.kind for record in both for ask in record.asks)
    named = {
        "paraphrase": "paraphrase_prompts",
        "neighbour": "neighborhood_prompts",
        "same_subject": "same_subject_prompts",
    }
    for kind, name in named.items():
        assert counts[kind] == sum(len(record[name]) for record in given)
    for kind in ("one_hop", "reverse_relation", "subject_alias"):
        assert counts[kind] == sum(len(record["portability"].get(kind, ())) for record in given) > 0
    assert {record.source for record in both} == {"factworld"}
    assert all(record.references for record in both)
    assert all(record.rewrites[0].target_new in text for record in both for text in record.references)
    alias = next(ask for record in both for ask in record.asks if ask.kind == "subject_alias")
    assert alias.against is not None


def test_what_is_saved_is_what_is_loaded_again(tmp_path: Path) -> None:
    records = load_records("factworld:validation", limit=20)
    rows, *_ = LAYOUTS["mquake"]
    save(tmp_path / "saved.jsonl", records)
    assert load_records(tmp_path / "saved.jsonl") == records
    several = load_records(written(tmp_path, rows))
    written(tmp_path, [record.model_dump(mode="json") for record in several], "dump.json")
    assert load_records(tmp_path / "dump.json", layout="records") == several


def test_skip_limit_and_split_choose_the_same_as_slices(tmp_path: Path) -> None:
    every = load_records("factworld:validation")
    assert load_records("factworld:validation", skip=3, limit=4) == every[3:7]
    path = written(tmp_path, factworld.records())
    assert load_records(path, split="validation") == every
    with pytest.raises(TracerError, match=r"no split 'dev': it has test, train, validation"):
        load_records(path, split="dev")


def test_a_table_is_the_same_as_csv(tmp_path: Path) -> None:
    rows, *_ = LAYOUTS["table"]
    lines = [",".join(rows[0])]
    cells = [value if isinstance(value, str) else json.dumps(value) for value in rows[0].values()]
    lines.append(",".join('"' + cell.replace('"', '""') + '"' for cell in cells))
    (tmp_path / "mine.csv").write_text("\n\n".join(lines), encoding="utf-8-sig")
    assert load_records(tmp_path / "mine.csv") == load_records(written(tmp_path, rows))


def test_kinds_are_each_evidence_of_one_thing() -> None:
    listed = [kind for kinds in MEASURES.values() for kind in kinds]
    assert sorted([*listed, "attribute", "single_hop", "condition"]) == sorted(KINDS)


def test_facts_of_records_are_what_they_replace(tmp_path: Path) -> None:
    rows, *_ = LAYOUTS["counterfact"]
    assert load_facts(written(tmp_path, rows)) == [Fact("{} is in downtown", "The Space Needle", " Seattle")]


def test_a_record_of_nothing_but_a_fact_asks_for_the_fact() -> None:
    record = EditRecord(case_id="0", source="mine", rewrites=(NEEDLE,))
    text = "The Space Needle is in downtown"
    assert record.questions() == (Question(kind="rewrite", prompt=text, answers=((" Paris",),), against=" Seattle"),)
