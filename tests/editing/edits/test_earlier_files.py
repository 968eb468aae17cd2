"""Files that earlier versions wrote still open: an edit, a ledger, and a run that was cut off goes on."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from earlier_files import EARLIER, OPTIONS, earlier_model
from evaluation_runs import RECORDS

from editing.edits.edit import load_edit
from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.run.start import evaluate
from editing.ledger.editor import Editor
from tracer.files.tensors import read
from tracer.model import Model

Tiny = Callable[[str], Model]
STATES = (  # fingerprints as they were noted then
    "e311398347872be778e0d9d29e829dd4cd10d8973167882bd7864e74d9b4e0a0",
    "9e54fa967596e4b9fc8b9c623b999ba590b37ef7e9706f2687030421afa73571",
    "54261b8b15a19e676df01d8596d5110f74ee06695239b791914c107a1a22e6a6",
)


def test_an_edit_of_an_earlier_version_is_the_same_and_is_written_again(tiny: Tiny, tmp_path: Path) -> None:
    model = earlier_model(tiny)
    assert model.fingerprint(STATES[0]) == STATES[0] != model.fingerprint()
    edit = load_edit(EARLIER / "edit", model)
    assert (edit.method, edit.rank(), len(edit.requests)) == ("rome", {"transformer.h.1.mlp.c_proj.weight": 1}, 1)
    assert edit.norm()["transformer.h.1.mlp.c_proj.weight"] == pytest.approx(0.8397578081911352, rel=1e-12)
    again = edit.save(tmp_path / "again")
    assert load_edit(again).same_as(edit)
    (new, new_header), (old, old_header) = (read(path, "Edit/1") for path in (again, EARLIER / "edit.safetensors"))
    assert new_header == old_header
    assert new.keys() == old.keys() and all(torch.equal(new[name], old[name]) for name in old)


def test_a_ledger_of_an_earlier_version_opens_where_it_was_left(tiny: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(EARLIER / "ledger", tmp_path / "ledger")
    editor = Editor.open(folder, earlier_model(tiny))
    assert (editor.position, len(editor.history)) == (1, 2)
    for position, fingerprint in enumerate(STATES):
        editor.checkout(position)
        assert editor.model.fingerprint(fingerprint) == fingerprint
    editor.checkout(1)
    assert (folder / "ledger.json").read_bytes() == (EARLIER / "ledger" / "ledger.json").read_bytes()


def test_a_run_of_an_earlier_version_opens_and_goes_on(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_bytes(gzip.decompress((EARLIER / "run.gz").read_bytes()))
    half = Evaluation.load(path)
    assert sorted(half.edits["case_id"]) == ["case 0", "case 1"]
    whole = evaluate(earlier_model(tiny), RECORDS, "alphaedit", "sequential", path=path, **OPTIONS)
    anew = evaluate(earlier_model(tiny), RECORDS, "alphaedit", "sequential", **OPTIONS)
    own, other = (each.edits.sort_values("case_id") for each in (whole, anew))
    assert list(own["norm"]) == pytest.approx(list(other["norm"]), rel=1e-4)
    assert list(own["case_id"]) == ["case 0", "case 1", "case 2", "case 3"] and set(own["error"]) == {""}
