"""CounterFact's snippets: texts about subjects for which a target is true, in a file beside the records.

`attribute_snippets.json` is published with CounterFact (Meng et al. 2022): entries with `relation_id`, `target_id` and
`samples` of `name` and `text`. Those of the new target are the references of generated texts (consistency); those about
the edited subject itself are its essence texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editing.questions.record import EditRecord
from tracer.errors import DataSetNotFound
from tracer.files import Row

from .fields import optional

FILE = "attribute_snippets.json"
Samples = Sequence[Mapping[str, Any]]


def with_snippets(records: Sequence[EditRecord], rows: Sequence[Row]) -> list[EditRecord]:
    """The records with the texts of the file beside theirs; unchanged without such a file.

    Args:
        records: in the order of their rows.
        rows: of their file.

    Raises:
        TracerError: a file of that name with other contents.
    """
    found: dict[str, dict[tuple[str, str], Samples]] = {}
    keys: dict[str, tuple[str, tuple[str, str]]] = {}
    for row in rows:
        folder = str(Path(row.file).parent)
        if folder not in found:
            found[folder] = _read(Path(folder) / FILE)
        if found[folder] and isinstance(row.value, Mapping):
            case, rewrite = optional(row.value, "case_id"), row.value.get("requested_rewrite")
            new = rewrite.get("target_new") if isinstance(rewrite, Mapping) else None
            if case is not None and isinstance(rewrite, Mapping) and isinstance(new, Mapping):
                keys[case] = folder, (str(rewrite.get("relation_id")), str(new.get("id")))
    if not keys:
        return list(records)
    return [_with(record, found, keys.get(record.case_id)) for record in records]


def _with(
    record: EditRecord, found: Mapping[str, Mapping[tuple[str, str], Samples]], key: tuple[str, tuple[str, str]] | None
) -> EditRecord:
    samples = found[key[0]].get(key[1], ()) if key is not None else ()
    texts = tuple(str(sample["text"]) for sample in samples)
    own = tuple(str(sample["text"]) for sample in samples if sample.get("name") == record.rewrites[0].subject)
    return record.model_copy(update={"references": texts, "essence": own}) if texts else record


def _read(path: Path) -> dict[tuple[str, str], Samples]:
    """Samples by relation and target; empty without such a file."""
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {(str(one["relation_id"]), str(one["target_id"])): _samples(one["samples"]) for one in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataSetNotFound(
            f"{path} is not CounterFact's snippets ({type(error).__name__}: {error}); expected a list of relation_id, "
            "target_id and samples with name and text, or no file of that name"
        ) from error


def _samples(given: Any) -> Samples:
    for sample in given:
        sample["text"]  # KeyError where it is missing
    return given
