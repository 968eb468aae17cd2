"""Sets by name: their files under the folder TRACER_DATA, and their places on a hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer.checks import installed
from tracer.errors import DataSetNotFound, TracerError, out_of_memory
from tracer.files import Row, is_file_of_rows, plain

VARIABLE = "TRACER_DATA"
_HUB = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True)
class Part:
    """A set, or a part of one.

    Attributes:
        files: groups of files relative to the folder, of which the first complete one is read.
        hub: repository of a data set.
        file: its file there; None: all its rows, or those of `split`.
        split: of the repository.
    """

    files: tuple[tuple[str, ...], ...]
    hub: str | None = None
    file: str | None = None
    split: str | None = None


def _one(*files: str, hub: str | None = None, file: str | None = None, split: str | None = None) -> Part:
    return Part(tuple((name,) for name in files), hub, file, split)


def _knowedit(folder: str, *names: str) -> Part:
    """Files of KnowEdit as its repository has them, or with the folders' names in the file's."""
    groups = [(f"knowedit/{written}",) for name in names for written in _written(folder, name)]
    return Part(tuple(groups), "zjunlp/KnowEdit", f"benchmark/{folder}/{names[0]}")


def _written(folder: str, name: str) -> tuple[str, ...]:
    return f"benchmark/{folder}/{name}", f"benchmark_{folder}_{name}", name


def _mquake(name: str) -> Part:
    return _one(f"mquake/{name}", f"MQuAKE/datasets/{name}", name)


def _ripple(name: str) -> Part:
    return _one(f"ripple/{name}", f"RippleEdits/data/benchmark/{name}", f"rippleedits/{name}")


_EDITS = tuple(f"counterfact/counterfact-{part}.json" for part in ("edit", "train", "val"))
_COUNTERFACT = "azhx/counterfact"
SETS: dict[str, dict[str | None, Part]] = {
    "counterfact": {
        None: Part((("counterfact/counterfact.json",), ("counterfact.json",), _EDITS), _COUNTERFACT),
        **{part: _one(file) for part, file in zip(("edit", "train", "val"), _EDITS, strict=True)},
        "portability": _one("counterfact/counterfact_portability_gpt4.json"),
        "subject_replace": _one("counterfact/counterfact_subject_replace.json"),
        "other_attribution": _one("counterfact/counterfact_other_attribution.json"),
    },
    "zsre": {
        None: _one("zsre/zsre_mend_eval_portability_gpt4.json", "zsre/zsre_mend_eval.json"),
        "subject_replace": _one("zsre/zsre_subject_replace.json"),
        "inverse_relation": _one("zsre/zsre_inverse_relation.json"),
    },
    "knowedit": {
        "wiki_counterfact": _knowedit("wiki_counterfact", "test_cf.json", "train_cf.json"),
        "wiki_counterfact-test": _one("knowedit/wiki_counterfact_test_cf-generate-10.json"),
        "wiki_recent": _knowedit("wiki_recent", "recent_test.json", "recent_train.json"),
        "zsre": _knowedit("ZsRE", "ZsRE-test-all.json"),
        "wikibio": _knowedit("WikiBio", "wikibio-test-all.json"),
        "convsent": _knowedit("Convsent", "blender_test.json"),
        **{
            name: _one(f"knowedit/{name}.json")
            for name in ("hallucination-edit", "hallucination-train", "temporal-edit", "temporal-train")
        },
    },
    "mquake": {
        None: _mquake("MQuAKE-CF-3k-v2.json"),
        "cf-3k-v2": _mquake("MQuAKE-CF-3k-v2.json"),
        "cf-3k": _mquake("MQuAKE-CF-3k.json"),
        "cf": _mquake("MQuAKE-CF.json"),
        "hard": _mquake("MQuAKE-hard.json"),
        "t": _mquake("MQuAKE-T.json"),
    },
    "ripple": {name: _ripple(f"{name}.json") for name in ("recent", "random", "popular")},
    "known_1000": {None: _one("known_1000/known_1000.json", "known_1000.json")},
}
"""Name of a set -> name of a part (None: the set itself) -> its place."""
FACTWORLD = ("train", "validation", "test", "fresh")


def find(name: str, split: str | None) -> tuple[list[Path], Part | None]:
    """Files of a set under TRACER_DATA; an empty list, and the set, where they are missing.

    Args:
        name: of the set.
        split: part of it.

    Raises:
        TracerError: no such set or part; the message lists those there are.
    """
    set_name, _, part_name = name.partition(":")
    if part_name and split and part_name != split:
        raise DataSetNotFound(f"{name!r} names the part {part_name!r}, and split says {split!r}; give one of them")
    part_name = part_name or split
    parts = SETS.get(set_name)
    if parts is None:
        if _HUB.fullmatch(name) and not is_file_of_rows(name):
            hub, _, of = name.partition(":")
            return [], Part((), hub, split=of or split)
        raise DataSetNotFound(
            f"there is no file {name!r}, and no set of that name; sets are factworld, {', '.join(SETS)} (parts are "
            f"named as in knowedit:wiki_recent), and hub data sets are named owner/name"
        )
    part = parts.get(part_name)
    if part is None:
        named = ", ".join(f"{set_name}:{key}" if key else set_name for key in parts)
        raise DataSetNotFound(
            f"{set_name} has no part {part_name!r}; choose one of {named}"
            if part_name
            else f"{set_name} has parts; choose one of {named}"
        )
    folder = os.environ.get(VARIABLE)
    for files in part.files if folder else ():
        paths = [Path(folder or "", file) for file in files]
        if all(path.is_file() for path in paths):
            return paths, None
    return [], part


def fetched(name: str, part: Part) -> list[Path] | list[Row]:
    """Files, or rows, of a set from the hub.

    Args:
        name: of the set.
        part: of the set.

    Raises:
        TracerError: unavailable there too; the message names both places.
    """
    folder = os.environ.get(VARIABLE)
    where = f"{VARIABLE} is {folder}" if folder else f"the environment names no folder {VARIABLE}"
    wanted = "; or ".join(" with ".join(files) for files in part.files)
    here = f"{name!r} is not here ({where})"
    repair = f"put into that folder {wanted}; or give the path of a file" if wanted else "give the path of a file"
    if part.hub is None:
        raise DataSetNotFound(f"{here}, and no hub is known to have it; {repair}")
    try:
        if part.file is not None:
            from huggingface_hub import hf_hub_download

            return [Path(hf_hub_download(part.hub, part.file, repo_type="dataset"))]
        return list(_hub_rows(part.hub, part.split))
    except TracerError:
        raise
    except Exception as error:  # the two libraries raise some thirty kinds, for a network, a name, a login
        if out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataSetNotFound(
            f"{here}, and the hub did not give the data set {part.hub!r} ({type(error).__name__}: {reason}); {repair}"
        ) from error


def _hub_rows(hub: str, split: str | None) -> Iterator[Row]:
    datasets = installed("datasets", "datasets", f"the data set {hub!r} of the hub", kind=DataSetNotFound)
    loaded: Any = datasets.load_dataset(hub, split=split)
    splits = {split or "": loaded} if not hasattr(loaded, "keys") else dict(loaded)
    for name, rows in splits.items():
        for number, row in enumerate(rows, 1):
            # a table has every column in every row
            value = {key: item for key, item in plain(row).items() if item is not None}
            yield Row(f"{hub}:{name}" if name else hub, number, None, value)
