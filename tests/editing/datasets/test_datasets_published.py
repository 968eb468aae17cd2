"""Published sets: found by name, loaded whole from the folder or the hub, and what is left out of them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from recordfiles import GOOD, file, listed

from editing.datasets import RecordWarning, load_facts, load_records, read_records
from editing.datasets.sets import find
from tracer import Fact, TracerError


def test_a_set_that_is_nowhere_names_the_folder_and_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setenv("TRACER_DATA", str(tmp_path))
    told = f"TRACER_DATA is {tmp_path}.*the hub did not give the data set 'zjunlp/KnowEdit' .OSError: no network"
    with pytest.raises(TracerError, match=told):
        load_records("knowedit:wiki_recent")
    monkeypatch.delenv("TRACER_DATA")
    with pytest.raises(
        TracerError, match=r"names no folder TRACER_DATA.*no hub is known to have it; put .*MQuAKE-T.json"
    ):
        load_records("mquake:t")


def test_a_set_comes_from_the_folder_first_then_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[Any, ...]] = []
    path = listed(tmp_path, {**GOOD, "locality": {}, "portability": None})

    def download(*what: Any, **more: Any) -> str:
        asked.append((*what, more))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.delenv("TRACER_DATA", raising=False)
    assert load_records("knowedit:wikibio", layout="knowedit")[0].source == "knowedit:wikibio"
    assert asked == [("zjunlp/KnowEdit", "benchmark/WikiBio/wikibio-test-all.json", {"repo_type": "dataset"})]
    monkeypatch.setenv("TRACER_DATA", str(tmp_path))
    (tmp_path / "mquake").mkdir()
    assert (
        read_records(file(tmp_path / "mquake", path.read_text(), "MQuAKE-T.json")).files
        == read_records("mquake:t").files
    )
    assert len(asked) == 1


def test_rows_of_a_hub_data_set_have_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{**GOOD, "question": None}, {**GOOD, "target_new": "Italy", "question": None}]
    monkeypatch.setattr(
        datasets, "load_dataset", lambda hub, split: rows if split else {"train": rows[:1], "test": rows}
    )
    loaded = read_records("owner/name:test")
    assert (loaded.files, len(loaded.records), loaded.records[0].source) == (("owner/name:test",), 1, "owner/name:test")
    assert str(loaded.problems[0]).startswith("owner/name:test, record 2: target_new: ")
    assert len(read_records("owner/name").records) == 2


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TracerError, match=r"'owner/name' of the hub needs datasets, .*tracer-workbench\[datasets\]"):
        read_records("owner/name:test")


# set -> records, problems with the subject, with equal targets; the sizes are those of the data's own list
PUBLISHED: dict[str, tuple[int, int, int]] = {
    "counterfact:edit": (10_000, 0, 0),
    "counterfact:train": (10_000, 0, 0),
    "counterfact:val": (1_919, 0, 0),
    "counterfact:portability": (1_031, 0, 0),
    "counterfact:subject_replace": (213, 0, 0),
    "counterfact:other_attribution": (804, 0, 0),
    "zsre": (1_037, 0, 29),
    "zsre:subject_replace": (293, 3, 29),
    "zsre:inverse_relation": (385, 5, 3),
    "knowedit:wiki_counterfact": (1_428, 0, 6),
    "knowedit:wiki_counterfact-test": (885, 0, 0),
    "knowedit:wiki_recent": (570, 0, 0),
    "knowedit:zsre": (1_304, 3, 43),
    "knowedit:wikibio": (306, 0, 0),
    "knowedit:convsent": (800, 0, 0),
    "knowedit:hallucination-edit": (600, 0, 0),
    "knowedit:hallucination-train": (306, 0, 0),
    "knowedit:temporal-edit": (75, 0, 0),
    "knowedit:temporal-train": (75, 0, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_set_loads_whole(name: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACER_DATA", str(data))
    size, subject, equal = PUBLISHED[name]
    loaded = read_records(name)
    text = Path(loaded.files[0]).read_text("utf-8")
    rows = json.loads(text) if text.startswith("[") else text.splitlines()  # JSON, or JSON lines
    assert len(loaded.records) + len(loaded.problems) == size == len(rows)
    why = Counter("equal" if "are both" in problem.message else problem.field for problem in loaded.problems)
    assert why == Counter({"subject": subject, "equal": equal})
    assert {record.source for record in loaded.records} == {name}


def test_the_whole_of_counterfact_is_three_files(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACER_DATA", str(data))
    loaded = read_records("counterfact")
    assert (len(loaded.records), len(loaded.problems), len(loaded.files)) == (21_919, 0, 3)


def test_every_part_of_the_three_sets_is_a_file_of_its_own(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACER_DATA", str(data))
    files = {file for folder in ("counterfact", "zsre", "knowedit") for file in (data / folder).glob("*.json")}
    named = {Path(file) for name in PUBLISHED for file in find(name, None)[0]}
    assert named <= files and len(named) == len(PUBLISHED)


def test_known_facts_are_facts_and_no_records(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACER_DATA", str(data))
    facts = load_facts()
    assert len(facts) == 1_209
    assert facts[0] == Fact("Vinson Massif is located in the continent of", "Vinson Massif", "Antarctica")
    with pytest.raises(TracerError, match=r"known facts, which have no new target.*load_facts"):
        load_records("known_1000")


def test_sentiments_of_opinions_are_balanced(data: Path) -> None:
    records = load_records(data / "knowedit" / "benchmark_Convsent_blender_test.json")
    given = json.loads((data / "knowedit" / "benchmark_Convsent_blender_test.json").read_text("utf-8"))
    positive = [
        record.references == tuple(map(str.strip, row["pos"])) for record, row in zip(records, given, strict=True)
    ]
    assert all(
        up or record.references == tuple(map(str.strip, row["neg"]))
        for up, record, row in zip(positive, records, given, strict=True)
    )
    assert 0.45 < sum(positive) / len(positive) < 0.55


def test_snippets_beside_counterfact_become_references(tmp_path: Path) -> None:
    """Texts on the new target; those about the subject itself apart; other targets' are left alone."""
    target = {"str": "Paris", "id": "Q90"}
    rewrite = {"prompt": "{} is in", "subject": "Louvre", "target_new": target, "target_true": {"str": "Rome"}}
    records = [
        {"case_id": 3, "requested_rewrite": {**rewrite, "relation_id": "P131"}, "paraphrase_prompts": []},
        {"case_id": 4, "requested_rewrite": {**rewrite, "relation_id": "P17"}, "paraphrase_prompts": []},
    ]
    file, beside = tmp_path / "counterfact.json", tmp_path / "attribute_snippets.json"
    file.write_text(json.dumps(records))
    assert [one.references for one in load_records(file)] == [(), ()]
    samples = [{"name": "Orsay", "text": "A museum."}, {"name": "Louvre", "text": "Its pyramid."}]
    entry = {"relation_id": "P131", "target_id": "Q90", "samples": samples}
    beside.write_text(json.dumps([entry, {**entry, "target_id": "Q64", "samples": samples[:1]}]))
    first, second = load_records(file)
    assert first.references == ("A museum.", "Its pyramid.") and first.essence == ("Its pyramid.",)
    assert second.references == second.essence == ()
    for wrong in ("{", json.dumps([{"relation_id": 1}]), json.dumps([{**entry, "samples": [{}]}])):
        beside.write_text(wrong)
        with pytest.raises(TracerError, match="is not CounterFact's snippets"):
            load_records(file)


def test_a_set_by_name_leaves_out_what_is_wrong_and_counts_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACER_DATA", str(data))
    with pytest.warns(
        RecordWarning, match="46 of 1,304 records of knowedit:zsre cannot be used and are left out"
    ) as all_:
        assert len(load_records("knowedit:zsre")) == 1_258
    (one,) = all_
    assert "and 42 more like it" in str(one.message) and "and 2 more like it" in str(one.message)
    assert str(one.message).count("\n") == 4
    with pytest.raises(TracerError, match="46 of 1,304"):
        load_records("knowedit:zsre", strict=True)
    with pytest.raises(TracerError, match="46 of 1,304"):  # one's own file
        load_records(data / "knowedit" / "benchmark_ZsRE_ZsRE-test-all.json")


def test_other_facts_of_the_subject_are_asked(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACER_DATA", str(data))
    loaded = read_records("counterfact:other_attribution")
    asked = [ask for record in loaded.records for ask in record.asks if ask.kind == "same_subject"]
    assert len(asked) == 804 and loaded.unused == ()
    assert (asked[0].prompt, asked[0].answers) == ("What is Spike Hughes an instance of?", (("human",),))
    assert asked[0].against == "Philadelphia"
    (unused,) = read_records("knowedit:wiki_counterfact-test").unused
    assert (unused.field, unused.records) == ("generate_prompt", 885)
