"""Files of records: what is wrong is named by file, line, record and field."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from recordfiles import GOOD, file, listed

from editing.datasets import RecordWarning, load_facts, load_records, read_records
from tracer import TracerError
from tracer.files import read_rows

ZSRE = {"src": "Where is Rome?", "subject": "Rome", "alt": "Spain", "answers": ["Italy"]}


# file's text, its name, what the error says
BROKEN: dict[str, tuple[str, str, str]] = {
    "no records": ("[]", "some.json", "holds no records; expected at least one"),
    "no records, and blanks": (" \n[\n ]\n", "some.json", "holds no records"),
    "an empty file": (" \n", "some.json", "is empty; expected records"),
    "only names": ("prompt,subject\n", "some.csv", "holds no records"),
    "cut off in a record": (
        '[\n{"prompt": "a"},\n{"prompt": "b", "sub',
        "some.json",
        r"record 2, line 3, character 17: .*begins on line 3; the file seems cut off",
    ),
    "cut off after a record": ('[\n{"prompt": "a"}', "some.json", "record 1, line 2, character 16: a comma or ]"),
    "cut off after a comma": ('[\n{"prompt": "a"},\n', "some.json", "record 2, line 3, character 1: .*cut off"),
    "a comma too many": (
        '[{"prompt": "a"},\n]',
        "some.json",
        "record 2, line 2, character 1: .*correct the file there",
    ),
    "no comma": ('[\n{"prompt": "a"}\n{"prompt": "b"}]', "some.json", "record 1, line 3, character 1: a comma or ]"),
    "broken in between": (
        '[\n{"a": 1},\n{"a": oh},\n{"a": 2}]',
        "some.json",
        "record 2, line 3, character 7: .*correct",
    ),
    "something behind": ('[{"a": 1}]\n\nmore', "some.json", "follows the end of the records on line 3 .'more'"),
    "none of the layouts": (
        '[{"name": "x", "age": 3}]',
        "some.json",
        "none of the layouts in use.*has name, age.*counterfact",
    ),
    "no value": (
        '[{"subject": "x", "prompt": "{} is in", "target_new": NaN}]',
        "some.json",
        r"its first record has subject, prompt, target_new \(without a value\)",
    ),
    "no record": ('["text", 3]', "some.json", "none of the layouts in use: its first record has no fields"),
    "a column twice": ("prompt,prompt\na,b\n", "some.csv", "names the column 'prompt' twice on line 1"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("read", [load_records, read_records, load_facts])
def test_a_file_that_is_none_says_where_it_breaks(case: str, read: Any, tmp_path: Path) -> None:
    text, name, message = BROKEN[case]
    path = file(tmp_path, text, name)
    with pytest.raises(TracerError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


def test_places_that_are_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path, "[]", "there.json")
    with pytest.raises(TracerError, match=r"is a folder.*it has there.json"):
        load_records(tmp_path)
    with pytest.raises(TracerError, match=r"cannot read .*No such file"):
        load_records(tmp_path / "no.json")
    (tmp_path / "latin.json").write_bytes('["\u00e9"]'.encode("latin-1"))
    with pytest.raises(TracerError, match="no text in UTF-8"):
        load_records(tmp_path / "latin.json")
    for name, message in {
        "nonsense": "no set of that name; sets are factworld, counterfact",
        "some/records.json": "there is no file",
        "knowedit": "knowedit has parts; choose one of knowedit:wiki_counterfact",
        "mquake:x": "mquake has no part 'x'; choose one of mquake, mquake:cf-3k-v2",
        "factworld:x": "factworld has no part 'x'; choose one of train",
    }.items():
        with pytest.raises(TracerError, match=re.escape(message)):
            load_records(name)
    with pytest.raises(TracerError, match="names the part 'cf', and split says 't'"):
        load_records("mquake:cf", split="t")


# a bad record of one's own layout or zsRE's, the field it is wrong in, what is said of it
BAD: dict[str, tuple[Any, str | None, str]] = {
    "no subject": ({"prompt": "a", "target_new": "b"}, "subject", "is missing; the record has prompt, target_new"),
    "an empty target": ({**GOOD, "target_new": " "}, "target_new", "holds ' '; expected text"),
    "the subject is not in the prompt": (
        {**GOOD, "prompt": "Paris is in"},
        "subject",
        "'Rome' does not occur in prompt",
    ),
    "in other capitals, in one's own file": ({**GOOD, "prompt": "ROME is in"}, "subject", r"it has 'ROME'.; put {}"),
    "the old target": ({**GOOD, "target_new": "Italy"}, "target_new", "are both 'Italy'; an edit needs another"),
    "two slots": ({**GOOD, "prompt": "{} is {} in"}, "prompt", "has 2 times {}"),
    "no mapping": (["Rome"], None, "expected a record with named fields"),
    "a slip of the pen": ({**GOOD, "neighors": ["x"]}, "neighors", "is no field of a record; did you mean 'neighbors'"),
    "another column": ({**GOOD, "zzz": 1}, "zzz", "is no field of a record; expected prompt, subject"),
    "a question without its answer": (
        {**GOOD, "one_hop": ["Why?"]},
        "one_hop",
        "answer is not known; write prompt and",
    ),
    "a question of another shape": ({**GOOD, "one_hop": [{"ask": "Why?"}]}, "one_hop", "expected text, or prompt"),
    "a number as prompt's group": (
        {**GOOD, "one_hop": [{"prompt": "a", "answer": "b", "either": "c"}]},
        "either",
        "integer",
    ),
    "zsRE's own name of the new target": ({**ZSRE, "answers": ["Spain"]}, "alt", "are both 'Spain'"),
    "zsRE's portability": ({**ZSRE, "portability": {"New Question": "a"}}, "New Answer", "is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_named_and_the_others_load(case: str, tmp_path: Path) -> None:
    bad, field, message = BAD[case]
    good = ZSRE if isinstance(bad, dict) and "src" in bad else GOOD
    path = listed(tmp_path, good, bad, {**good, "subject": "Roma", "prompt" if good is GOOD else "src": "Roma is"})
    loaded = read_records(path)
    assert [record.rewrites[0].subject for record in loaded.records] == ["Rome", "Roma"]
    assert [record.case_id for record in loaded.records] == ["0", "2"]
    (problem,) = loaded.problems
    assert (problem.file, problem.line, problem.number, problem.field) == (str(path), 4, 2, field)
    assert re.search(message, problem.message)
    named = re.escape(f"{path}, line 4, record 2: {f'{field}: ' if field else ''}")
    with pytest.raises(TracerError, match=f"1 of 3 records .*strict=False\n  {named}"):
        load_records(path)
    with pytest.warns(RecordWarning, match=f"1 of 3 records .*are left out\n  {named}"):
        assert load_records(path, strict=False) == list(loaded.records)


def test_all_problems_are_told_at_once_and_a_warning_shows_the_first(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"prompt": "x"}, {"target_new": " "}, {"subject": None}, {"neighors": "x"}]
    bad = [{**GOOD, "case_id": n, **each} for n, each in enumerate([*wrong, {"one_hop": ["Why?"]}])]
    path = listed(tmp_path, GOOD, *bad)
    with pytest.raises(TracerError) as error:
        load_records(path)
    assert re.findall(r"line (\d+), record (\d+) \(case (\d)\)", str(error.value)) == [
        (str(2 * n + 4), str(n + 2), str(n)) for n in range(5)
    ]
    with pytest.warns(RecordWarning, match="5 of 6 records") as caught:
        load_records(path, strict=False)
    assert str(caught[0].message).count("\n") == 4
    assert str(caught[0].message).endswith("and 2 more of 2 other kinds")
    assert len(load_records(path, limit=1)) == 1  # what is not reached is not judged
    with pytest.raises(TracerError, match="5 of 5 records"):  # nothing left to be loaded
        load_records(listed(tmp_path, *bad), strict=False)


def test_a_case_id_that_came_before_names_both(tmp_path: Path) -> None:
    path = listed(tmp_path, {**GOOD, "case_id": 7}, {**GOOD, "case_id": 8}, {**GOOD, "case_id": "7"})
    loaded = read_records(path)
    assert [record.case_id for record in loaded.records] == ["7", "8"]
    (problem,) = loaded.problems
    assert (problem.line, problem.number, problem.case, problem.field) == (6, 3, "7", "case_id")
    assert f"also that of record 1 on line 2 of {path}" in problem.message


def test_records_without_questions_load_and_ask_for_the_fact_alone(tmp_path: Path) -> None:
    requested = {"requested_rewrite": {**GOOD, "target_new": {"str": "Spain"}}}
    more: list[dict[str, Any]] = [{}, {"paraphrase_prompts": [], "neighborhood_prompts": None}]
    for record in load_records(listed(tmp_path, *({**requested, **each} for each in more))):
        assert record.asks == () and [ask.kind for ask in record.questions()] == ["rewrite"]


def test_a_subject_that_looks_like_the_prompts_is_the_prompts(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    pairs = [("Cafe\u0301 O’Brien is in", "Caf\u00e9 O'Brien"), ("straße 5 is", "Strasse 5"), ("the É is", "\u00e9")]
    records = [{"src": prompt, "subject": subject, "alt": "x", "answers": ["y"]} for prompt, subject in pairs]
    path.write_text(json.dumps(records), encoding="utf-8")
    found = [record.rewrites[0] for record in load_records(path)]
    assert [one.subject for one in found] == ["Cafe\u0301 O’Brien", "straße 5", "É"]
    assert [one.request().text for one in found] == [prompt for prompt, _ in pairs]
    twice = [{"src": "Rome’s and ROME'S", "subject": "rome's", "alt": "x", "answers": ["y"]}]
    path.write_text(json.dumps(twice), encoding="utf-8")
    with pytest.raises(TracerError, match="does not occur"):
        load_records(path)


def test_half_a_character_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    path.write_text(
        r'[{"prompt": "{} is in", "subject": "Rome", "target_new": "France", "paraphrases": ["Rome \ud83d is"]}]',
        encoding="utf-8",
    )
    with pytest.raises(TracerError, match=r"record 1: .*'Rome \\ud83d is' holds half a character, U\+D83D at 5"):
        load_records(path)


def test_a_record_says_its_space(tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    path.write_text(
        "prompt,subject,target_new,space\n{} ends in 19,It,45,true\n{} is in down,It,town,False\n{}+1=,1,2,\n"
    )
    found = load_records(path)
    assert [record.rewrites[0].space for record in found] == [True, False, None]
    assert [record.requests()[0].target_new for record in found] == [" 45", "town", "2"]
    path.write_text("prompt,subject,target_new,space\n{} ends in 19,It,45,maybe\n")
    with pytest.raises(TracerError, match="space: holds 'maybe'; expected true or false"):
        load_records(path)


@pytest.mark.parametrize("name", ["some.jsonl", "some.json"])
def test_a_broken_line_of_json_lines_is_one_problem(name: str, tmp_path: Path) -> None:
    good = json.dumps(GOOD)
    loaded = read_records(file(tmp_path, f"{good}\n\n{good[:20]}\n{good}\n", name))
    assert len(loaded.records) == 2
    assert [(problem.line, problem.number) for problem in loaded.problems] == [(3, 2)]
    assert "the line is no JSON" in loaded.problems[0].message


def test_lines_of_csv_are_those_where_a_record_begins(tmp_path: Path) -> None:
    text = 'prompt,subject,target_new,generate\n"{} is\nin",Rome,Spain,\n\nx,Rome\n{} is,Roma,Spain,"[1"\n"{} is,Ro'
    loaded = read_records(file(tmp_path, text, "some.csv"))
    assert [record.rewrites[0].prompt for record in loaded.records] == ["{} is\nin", "{} is"]
    assert loaded.records[1].generate == ("[1",)
    told = [(problem.line, problem.number, problem.message) for problem in loaded.problems]
    assert [each[:2] for each in told] == [(5, 2), (7, 4)]
    assert told[0][2] == "2 cells, and the first line names 4" and told[1][2].startswith("no CSV")


def test_a_record_begins_where_it_begins_whatever_lies_between(tmp_path: Path) -> None:
    text = '\n[ {"a": "x\\n"},{"a":\n1}\n\n,\n\n3\n]'
    rows = list(read_rows(file(tmp_path, text)))
    assert [(row.number, row.line, row.value) for row in rows] == [(1, 2, {"a": "x\n"}), (2, 2, {"a": 1}), (3, 7, 3)]
    assert [row.line for row in read_rows(file(tmp_path, '\n\n{"a":\n1}'))] == [3]


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 1.5}, {"skip": -1}, {"skip": 2}, {"layout": "nope"}])
def test_wrong_settings_are_named(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TracerError, match=next(iter(wrong))):
        load_records(listed(tmp_path, GOOD, GOOD), **wrong)


# --- what is not used, what is alike, ids, sets ----------------------------------------------------------------------
def test_fields_with_questions_that_nothing_is_made_of_are_said_once_per_file(tmp_path: Path) -> None:
    requested = {"requested_rewrite": {**GOOD, "target_new": {"str": "Spain", "id": "Q29"}}}
    more = {"odd_prompts": ["Rome lies in"], "odd_id": "P 1", "portability": {"New Question": "a", "New Answer": "b"}}
    more["portability"]["Other Question"] = "And then?"
    more["asked"] = [{"prompt": "Rome", "answer": "Italy"}]
    more["told"] = [{"name": "Rome", "label": "Italy"}]
    path = listed(tmp_path, {**requested, **more}, {**requested, "odd_prompts": []}, requested)
    with pytest.warns(RecordWarning) as caught:
        load_records(path)
    (one,) = caught
    told = "nothing is made of odd_prompts (records: 2), portability.Other Question (records: 1), asked (records: 1);"
    assert told in str(one.message) and str(path) in str(one.message)
    assert [(each.field, each.records) for each in read_records(path).unused] == [
        ("odd_prompts", 2),
        ("portability.Other Question", 1),
        ("asked", 1),
    ]


def test_problems_that_are_alike_are_one_line(tmp_path: Path) -> None:
    same = [{**GOOD, "target_new": "Italy"}] * 40
    lost = [{**GOOD, "prompt": f"{n} is in"} for n in range(30)]
    twice = [{**GOOD, "case_id": "7"}] * 13
    path = listed(tmp_path, GOOD, *same, *lost, *twice)
    with pytest.raises(TracerError, match="82 of 84 records") as error:
        load_records(path)
    lines = str(error.value).split("\n")
    assert len(lines) == 7
    assert "are both 'Italy'" in lines[1] and lines[2] == (
        "    and 39 more like it: records 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, ..."
    )
    assert "does not occur in prompt" in lines[3] and "and 29 more" in lines[4]
    assert "is also that of record 72" in lines[5] and "and 11 more" in lines[6]


def test_numbers_given_to_records_without_ids_are_no_ids_of_others(tmp_path: Path) -> None:
    path = listed(tmp_path, {**GOOD, "case_id": 1}, GOOD, GOOD, {**GOOD, "case_id": "4"}, GOOD)
    assert [record.case_id for record in load_records(path)] == ["1", "1 (no id)", "2", "4", "4 (no id)"]
