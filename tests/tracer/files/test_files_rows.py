"""Files of records as they are found: packed, parted otherwise, by pandas, inside something else, or something else."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editing.cli.requestfile import read as read_requests
from editing.datasets import load_records, read_records, records_of
from tracer import TracerError
from tracer.cli.factfile import read as read_facts
from tracer.files import Row, plain, read_rows, unfolded

ROWS = [
    {"prompt": "{} is in", "subject": "Rome", "target_new": "Spain", "target_true": "Italy"},
    {"prompt": "{} was built in", "subject": "Big Ben", "target_new": "1984", "target_true": "1859"},
]
TABLE = pd.DataFrame(ROWS)
FACTS = [("Rome", "Spain", "Italy"), ("Big Ben", "1984", "1859")]


def facts(path: Path, **more: Any) -> list[tuple[str, str, str | None]]:
    told = [record.rewrites[0] for record in load_records(path, **more)]
    return [(fact.subject, fact.target_new, fact.target_true) for fact in told]


def parquet() -> bytes:
    pytest.importorskip("pyarrow")
    buffer = io.BytesIO()
    TABLE.to_parquet(buffer)
    return buffer.getvalue()


# name of the file -> its bytes
READ: dict[str, bytes] = {
    "a.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "a.jsonl.bz2": bz2.compress("\n".join(map(json.dumps, ROWS)).encode()),
    "a.csv.xz": lzma.compress(TABLE.to_csv(index=False).encode()),
    "unnamed": gzip.compress(json.dumps(ROWS).encode()),
    "a.tsv": TABLE.to_csv(index=False, sep="\t").encode(),
    "semicolons.csv": TABLE.to_csv(index=False, sep=";").encode(),
    "index.csv": TABLE.to_csv().encode(),
    "utf16.csv": TABLE.to_csv(index=False).encode("utf-16"),
    "windows.csv": TABLE.to_csv(index=False, lineterminator="\r\n").encode("utf-8-sig"),
    "columns.json": str(TABLE.to_json()).encode(),
    "index.json": str(TABLE.to_json(orient="index")).encode(),
    "split.json": str(TABLE.to_json(orient="split")).encode(),
    "table.json": str(TABLE.to_json(orient="table")).encode(),
    "lines.json": str(TABLE.to_json(orient="records", lines=True)).encode(),
    "twice.json": json.dumps(TABLE.to_json(orient="records")).encode(),
    "lists.json": json.dumps(TABLE.to_dict("list")).encode(),
    "nested.json": json.dumps({"version": "1.0", "about": {"by": "me"}, "data": ROWS}).encode(),
    "deeper.json": json.dumps({"data": {"rows": ROWS}}).encode(),
    "ids.json": json.dumps({"first": ROWS[0], "second": ROWS[1]}).encode(),
}


@pytest.mark.parametrize("name", READ)
def test_a_file_is_read_however_it_is_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(READ[name])
    assert facts(path) == FACTS


def test_a_parquet_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet())
    assert facts(tmp_path / "a.parquet") == FACTS


def test_records_by_id_have_it_and_lists_by_name_are_chosen(tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_bytes(READ["ids.json"])
    assert [record.case_id for record in load_records(tmp_path / "ids.json")] == ["first", "second"]
    path = tmp_path / "parts.json"
    path.write_text(json.dumps({"train": ROWS[:1], "test": ROWS[1:]}))
    assert facts(path, split="test") == FACTS[1:] and facts(path, split="train") == FACTS[:1]
    with pytest.raises(TracerError, match=r"several lists of records: train \(1\), test \(1\); choose one .* split"):
        load_records(path)
    with pytest.raises(TracerError, match="several lists"):
        load_records(path, split="dev")


OTHERS: dict[str, tuple[bytes, str]] = {
    "a.xlsx": (b"PK\x03\x04....", "an Excel workbook; unpack it, or save its table as CSV"),
    "run.sqlite": (b"SQLite format 3\0", "is a database"),
    "a.zst": (b"\x28\xb5\x2f\xfd...", "packed with zstd"),
    "a.pkl": (b"\x80\x04\x95", "a pickle, which is not opened"),
    "lfs.json": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "git lfs pull"),
    "page.json": (b"<!DOCTYPE html><html>", "a web page"),
    "cut.json.gz": (gzip.compress(json.dumps(ROWS * 99).encode())[:-20], "cannot be unpacked .* fetch it again"),
    "cells.json": (b'[["Rome", "Spain"]]', "a list of cells without names"),
    "texts.json": (b'["Rome is in"]', "its first record has no fields and is a text"),
    "no.parquet": (b"PAR1" + b"\0" * 20, "Parquet file"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_kind_is_named(name: str, tmp_path: Path) -> None:
    content, message = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TracerError, match=message) as error:
        load_records(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["deep.json", "deep.jsonl"])
def test_what_is_nested_too_deep_is_said(name: str, tmp_path: Path) -> None:
    path, deep = tmp_path / name, '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}"
    path.write_text(f"{json.dumps(ROWS[0])}\n{deep}\n" if name.endswith("l") else f"[{json.dumps(ROWS[0])},\n{deep}]")
    with pytest.raises(TracerError, match="line 2, record 2: it is nested too deep"):
        load_records(path)


def test_a_number_of_thousands_of_digits_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(f'[{{"prompt": {"1" * 9_999}}}]')
    with pytest.raises(TracerError, match="record 1, line 1"):
        load_records(tmp_path / "a.json")


cells = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\0")).filter(lambda x: x.strip())


@given(st.lists(st.tuples(cells, cells), min_size=1), st.sampled_from([(",", ".csv"), ("\t", ".tsv"), (";", ".csv")]))
def test_cells_are_what_was_written(tmp_path_factory: Any, pairs: list[tuple[str, str]], kind: tuple[str, str]) -> None:
    r"""Whatever characters they hold: \u2028, \x85 and \x1e end no line, quotes and marks no cell."""
    path = tmp_path_factory.mktemp("cells") / f"a{kind[1]}"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=kind[0], quoting=csv.QUOTE_ALL)
        writer.writerows([("one", "two"), *pairs])
    as_texts = [pair for pair in pairs if not any(cell.strip()[0] + cell.strip()[-1] in ("[]", "{}") for cell in pair)]
    found = [tuple(row.value.values()) for row in read_rows(path) if row.error is None]
    assert [pair for pair in found if all(isinstance(cell, str) for cell in pair)][: len(as_texts)] == as_texts
    assert len(found) == len(pairs)


def test_lists_in_cells_are_lists_as_json_and_as_python_writes_them(tmp_path: Path) -> None:
    frame = pd.DataFrame([{**ROWS[0], "paraphrases": ["It's in", 'The "city" is in']}])
    frame.to_csv(tmp_path / "python.csv", index=False)
    (record,) = load_records(tmp_path / "python.csv")
    assert [ask.prompt for ask in record.asks] == ["It's in", 'The "city" is in']
    (tmp_path / "slot.csv").write_text("prompt,subject,target_new\n{} is [at,Rome,[]x\n")
    assert load_records(tmp_path / "slot.csv")[0].rewrites[0].target_new == "[]x"


YEARS = pd.DataFrame([{**ROWS[1], "target_new": 1984, "target_true": None}, {**ROWS[1], "target_new": None}])


def test_numbers_that_pandas_made_floats_are_whole_again(tmp_path: Path) -> None:
    """A column of years with one missing is one of floats with NaN."""
    assert YEARS["target_new"].dtype == float
    rows = YEARS.to_dict("records")
    (record,) = records_of(rows[:1])
    assert record.rewrites[0].target_new == "1984" and record.rewrites[0].target_true is None
    with pytest.raises(TracerError, match="record 2: target_new: is missing"):
        records_of(rows)
    (tmp_path / "nan.json").write_text(json.dumps(rows))  # NaN, which is no JSON
    (tmp_path / "null.json").write_text(str(YEARS.to_json(orient="records")))
    YEARS.to_csv(tmp_path / "years.csv", index=False)
    assert "1984.0" in (tmp_path / "years.csv").read_text()
    for name in ("nan.json", "null.json", "years.csv"):
        loaded = read_records(tmp_path / name)
        assert [one.rewrites[0].target_new for one in loaded.records] == ["1984"]
        assert [problem.field for problem in loaded.problems] == ["target_new"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64("nan"), None),
        (math.inf, None),
        (1984.0, 1984),
        (np.float32(1.5), 1.5),
        (np.int64(3), 3),
        (np.array(["a", "b"]), ["a", "b"]),
        (pd.NA, None),
        (pd.NaT, None),
        (True, True),
        ({"a": (np.nan, "x")}, {"a": [None, "x"]}),
    ],
)
def test_values_of_numpy_and_pandas_are_plain(value: Any, expected: Any) -> None:
    assert plain(value) == expected and type(plain(value)) is type(expected)


def test_a_decimal_stays_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"prompt": "{} is", "subject": "Pi", "target_new": 3.14, "target_true": "3.0"}]')
    assert facts(tmp_path / "a.json") == [("Pi", "3.14", "3.0")]


def test_rows_that_hold_no_others_are_left(tmp_path: Path) -> None:
    for value in ({"a": 1}, {"a": {}}, "text", [1], None, {"a": {"b": 1}, "c": {"d": 1}}):
        rows = [Row("x", 1, 1, value)]
        assert unfolded(rows, lambda record: False) == rows


@pytest.mark.parametrize("name", READ)
def test_files_of_facts_and_requests_are_read_as_those_of_records(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(READ[name])
    assert [fact.subject for _, fact in read_facts(path)] == ["Rome", "Big Ben"]
    assert [request.target_new.strip() for request, _ in read_requests(path)] == ["Spain", "1984"]
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000 + "]" * 100_000)
    for read in (read_facts, read_requests):
        with pytest.raises(TracerError, match="nested too deep"):
            read(deep)


def test_a_table_by_columns_names_its_columns(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TracerError, match="its first record has index, entity, orig_entity, token_type"):
        load_records(data / "other" / "edits.json")
    rewrite = {"prompt": "{} is in", "subject": "Rome", "target_new": {"str": "Spain"}}
    (tmp_path / "a.json").write_text(str(pd.DataFrame([{"requested_rewrite": rewrite}] * 2).to_json()))
    assert len(load_records(tmp_path / "a.json")) == 2
