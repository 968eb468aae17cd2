"""Layouts of records: how each is recognised, and how its fields become a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from editing.questions.record import EditRecord
from tracer.errors import RecordFileError
from tracer.files import is_table

from .counterfact import counterfact, easyedit, factworld
from .fields import REWORDED
from .knowedit import convsent, knowedit, wikibio
from .mquake import mquake
from .own import dump, table
from .ripple import ripple
from .zsre import zsre, zsre_true

Convert = Callable[[Mapping[str, Any], str, str], EditRecord]
"""(record, case id, source) -> the record."""


@dataclass(frozen=True)
class Layout:
    """Field layout of a benchmark's records.

    Attributes:
        name: as passed to `layout_of`.
        has: fields that every record of it has.
        convert: makes a record of one; raises FieldError, TracerError or pydantic's ValidationError.
        prepare: makes `convert` of all rows of a file, where one row alone does not tell enough.
        source: source given to the records; None: the layout's name.
        fits: a further condition on a record's fields.
        names: fields of a rewrite with other names here, for messages.
        ignored: fields with texts that hold no question, and are not reported as unused.
    """

    name: str
    has: tuple[str, ...]
    convert: Convert | None = None
    prepare: Callable[[Sequence[Mapping[str, Any]]], Convert] | None = None
    source: str | None = None
    fits: Callable[[Mapping[str, Any]], bool] = lambda record: True
    names: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has this layout."""
        return all(record.get(name) is not None for name in self.has) and self.fits(record)

    def converter(self, rows: Sequence[Mapping[str, Any]]) -> Convert:
        """Converter of the rows of a file into records."""
        made = self.prepare(rows) if self.prepare else self.convert
        assert made is not None
        return made


def _is_list(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda record: isinstance(record[name], Sequence) and not isinstance(record[name], str)


def _grouped(record: Mapping[str, Any]) -> bool:
    return any(isinstance(record.get(group), Mapping | list) for group in ("locality", "portability"))


def _flat(record: Mapping[str, Any]) -> bool:
    return any(name in record for name in ("ground_truth", "locality_prompt", "portability_prompt", *REWORDED))


def _sentence(record: Mapping[str, Any]) -> bool:
    edit = record["edit"]
    return isinstance(edit, Mapping) and "prompt" in edit and "relation" in edit


_MEND = (("prompt", "src"), ("target_new", "alt"), ("target_true", "answers"))
_EASY = (("target_true", "ground_truth"),)
_OF_COUNTERFACT = ("portability.Recalled Relation", "unrelated_relation.relation_id")
_OF_RIPPLE = tuple(
    f"edit.{fact}{name}"
    for fact in ("", "previous_fact.", "original_fact.")
    for name in ("subject_id", "target_id", "relation")
)
_OF_MEND = ("pred", "cond", "portability.Recalled Relation", "alternative_subject")
_TEXTS = ("case_id", "prompt", "subject", "src", "text", "ent")  # a record has one of each, a table columns
LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        # tried in this order; the first that matches is taken
        Layout("records", ("rewrites",), dump),
        Layout(
            "mquake",
            ("requested_rewrite", "questions"),
            mquake,
            fits=_is_list("requested_rewrite"),
            ignored=("orig", "answer_alias"),
        ),
        Layout("factworld", ("requested_rewrite", "same_subject_prompts"), prepare=factworld),
        Layout("counterfact", ("requested_rewrite",), counterfact, ignored=_OF_COUNTERFACT),
        Layout("ripple", ("edit",), prepare=ripple, fits=_sentence, ignored=_OF_RIPPLE),
        Layout("zsre", ("src", "subject", "alt"), zsre, names=_MEND, ignored=_OF_MEND),
        Layout(
            "zsre-true",
            ("src", "subject", "answers"),
            zsre_true,
            names=(*_MEND[:1], ("target_new", "answers")),
            # consequences of the alternative do not hold
            ignored=(*_OF_MEND, "alt", "portability", "inverse question"),
        ),
        Layout(
            "wikibio",
            ("text", "concept", "labels"),
            wikibio,
            names=(("prompt", "text"), ("subject", "concept"), ("target_new", "labels")),
        ),
        Layout("convsent", ("ent", "pos", "neg"), convsent, names=(("subject", "ent"),)),
        Layout("knowedit", ("prompt", "subject", "target_new"), knowedit, fits=_grouped, names=_EASY, ignored=_OF_MEND),
        Layout(
            "counterfact-easyedit",
            ("case_id", "prompt", "subject", "target_new", "ground_truth"),
            easyedit,
            source="counterfact",
            names=_EASY,
            ignored=_OF_MEND,
        ),
        Layout("easyedit", ("prompt", "subject", "target_new"), easyedit, fits=_flat, names=_EASY, ignored=_OF_MEND),
        Layout("table", ("prompt", "subject", "target_new"), table),
    )
}
"""By name."""


def is_record(value: Mapping[str, Any]) -> bool:
    """Whether this is a record, or a known fact: neither a table of records, nor a container of them."""
    if is_table(value) or any(isinstance(value.get(name), Mapping | list) for name in _TEXTS):
        return False
    return any(layout.matches(value) for layout in LAYOUTS.values()) or {"prompt", "subject"} <= {*value}


def recognise(rows: Sequence[Mapping[str, Any]], where: str, other: str = "no fields") -> Layout:
    """The layout of the first records: the first of `LAYOUTS` that one of them matches.

    Args:
        rows: of the file.
        where: name of the file, for messages.
        other: description of rows without any fields, for messages.

    Raises:
        TracerError: no layout matches; the message lists the fields of each.
    """
    for record in rows:
        for layout in LAYOUTS.values():
            if layout.matches(record):
                return layout
    if any({"attribute", "subject", "prompt"} <= {*record} for record in rows):
        raise RecordFileError(
            f"{where} holds known facts, which have no new target: nothing in it says what to write. Load them with "
            "load_facts, for tracing"
        )
    has = (
        ", ".join(f"{name} (without a value)" if rows[0][name] is None else str(name) for name in rows[0])
        if rows
        else other
    )
    raise RecordFileError(
        f"{where} is none of the layouts in use: its first record has {has}. Expected at least prompt, subject and "
        f"target_new, or one of {', '.join(f'{name} ({chr(44).join(one.has)})' for name, one in LAYOUTS.items())}"
    )


def layout_of(name: str) -> Layout:
    """The layout of that name.

    Args:
        name: the layout's.

    Raises:
        TracerError: an unknown name.
    """
    if name not in LAYOUTS:
        raise RecordFileError(f"there is no layout {name!r}; choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]
