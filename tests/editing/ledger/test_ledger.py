"""The ledger on disk: opened again it gives the same bits, also after a kill at any moment; nothing else is opened."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import handmade, own, steps_of
from repository import surroundings

from editing.edits.weights import names_of, parameter
from editing.ledger.editor import Editor
from tracer.errors import TracerError
from tracer.model import Model, load

Folder = Callable[[str], Path]


@pytest.fixture
def fresh(tiny: Callable[[str], Model]) -> Callable[[], Model]:
    """The tiny GPT-2 as loaded, anew each time."""
    return lambda: own(tiny("gpt2"))


@pytest.fixture
def written(fresh: Callable[[], Model], tmp_path: Path) -> tuple[Path, list[str]]:
    """A ledger of three edits, of which the last was undone, and the fingerprint of each state."""
    editor = Editor(fresh(), tmp_path / "l")
    states = [editor.model.fingerprint()]
    for seed, layers in enumerate([(0, 1), (1, 2), (3,)]):
        editor.apply(handmade(editor.model, layers, (2,), seed=seed))
        states.append(editor.model.fingerprint())
    editor.undo()
    return tmp_path / "l", states


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "ledger.json").read_text())


# --- there and back ------------------------------------------------------------------------------------------------
def test_opened_again_it_is_where_it_was(written: tuple[Path, list[str]], fresh: Callable[[], Model]) -> None:
    folder, states = written
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    model = fresh()
    editor = Editor.open(folder, model)
    assert editor.model is model
    assert (editor.position, model.fingerprint()) == (2, states[2])
    assert [(entry.active, entry.edit.settings["seed"]) for entry in editor.history] == [
        (True, 0),
        (True, 1),
        (False, 2),
    ]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files  # opening writes nothing
    for k in (3, 0, 1):
        editor.checkout(k)
        assert model.fingerprint() == states[k]
        assert content(folder)["position"] == k


def test_without_a_model_it_loads_the_one_it_names(written: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, states = written
    editor = Editor.open(str(folder))
    assert editor.model.fingerprint() == states[2]
    header = content(folder)
    header["base"]["model"] = str(tmp_path / "gone")
    (folder / "ledger.json").write_text(json.dumps(header))
    with pytest.raises(TracerError, match=r"model '.*gone' of the ledger in .* cannot be loaded"):
        Editor.open(folder)


def test_half_precision_is_loaded_as_it_was(tiny_folder: Folder, tmp_path: Path) -> None:
    model = load(tiny_folder("llama"), dtype="bfloat16")
    editor = Editor(model, tmp_path / "l")
    editor.apply(handmade(model))
    again = Editor.open(tmp_path / "l")
    assert again.model.dtype == torch.bfloat16
    assert again.model.fingerprint() == model.fingerprint()


def test_the_embedded_model_is_found_by_its_name(tmp_path: Path) -> None:
    model = load()
    editor = Editor(model, tmp_path / "l")
    editor.apply(handmade(model, (3,), (2,)))
    again = Editor.open(tmp_path / "l")
    assert again.model.name == "factworld"
    assert again.model.fingerprint() == model.fingerprint()


def test_it_goes_on_where_it_was_left(written: tuple[Path, list[str]], fresh: Callable[[], Model]) -> None:
    folder, states = written
    editor = Editor.open(folder, fresh())
    dropped = folder / content(folder)["edits"][2]["file"]
    assert dropped.exists()
    editor.apply(handmade(editor.model, (0,), seed=8))
    assert not dropped.exists()
    again = Editor.open(folder, fresh())
    assert again.model.fingerprint() == editor.model.fingerprint()
    assert [entry.edit.settings["seed"] for entry in again.history] == [0, 1, 8]
    again.undo()
    assert again.model.fingerprint() == states[2]


def test_the_same_edit_made_again_keeps_its_file(fresh: Callable[[], Model], tmp_path: Path) -> None:
    editor = Editor(fresh(), tmp_path / "l")
    edit = handmade(editor.model)
    for _ in range(2):
        editor.apply(edit)
        editor.undo()
    assert len(list((tmp_path / "l").iterdir())) == 2
    assert Editor.open(tmp_path / "l", fresh()).history[0].edit.same_as(edit)


def test_recording_may_begin_later(fresh: Callable[[], Model], tmp_path: Path) -> None:
    editor = Editor(fresh())
    editor.apply(handmade(editor.model, seed=1))
    editor.apply(handmade(editor.model, seed=2))
    editor.undo()
    editor.record(tmp_path / "a" / "l")
    again = Editor.open(tmp_path / "a" / "l", fresh())
    assert (again.position, len(again.history)) == (1, 2)
    assert again.model.fingerprint() == editor.model.fingerprint()
    for begin in (lambda: Editor(fresh(), tmp_path / "a" / "l"), lambda: editor.record(tmp_path / "a" / "l")):
        with pytest.raises(TracerError, match=r"holds a ledger already; go on with it by Editor.open"):
            begin()


def test_what_is_written_is_what_the_names_say(written: tuple[Path, list[str]], fresh: Callable[[], Model]) -> None:
    folder, states = written
    found = content(folder)
    assert found["format"] == "Ledger/1"
    assert found["base"] == {"model": fresh().name, "dtype": "float32", "fingerprint": states[0]}
    assert found["position"] == 2
    assert [entry["fingerprint"] for entry in found["edits"]] == states[1:]
    assert [list(entry["weights"]) for entry in found["edits"]] == [
        names_of(fresh(), layers) for layers in [(0, 1), (1, 2), (3,)]
    ]
    assert {file.name for file in folder.iterdir()} == {"ledger.json", *(entry["file"] for entry in found["edits"])}


# --- refused -------------------------------------------------------------------------------------------------------
def test_the_ledger_of_another_model_is_refused(written: tuple[Path, list[str]], tiny_folder: Folder) -> None:
    folder, states = written
    for name, dtype in (("llama", "float32"), ("gpt2", "float16")):
        model = load(tiny_folder(name), dtype=dtype)
        before = model.fingerprint()
        with pytest.raises(
            TracerError, match=rf"begins with the weights {states[0][:12]} of .* in float32, but .*{dtype}"
        ):
            Editor.open(folder, model)
        assert model.fingerprint() == before


@pytest.mark.parametrize("which", ["ledger.json", "edit"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_short_is_refused(
    which: str, share: float, written: tuple[Path, list[str]], fresh: Callable[[], Model]
) -> None:
    folder, states = written
    path = folder / (content(folder)["edits"][1]["file"] if which == "edit" else which)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    model = fresh()
    message = r"edit 2 of the ledger in .* is not a saved Edit" if which == "edit" else "is not a readable ledger"
    with pytest.raises(TracerError, match=message):
        Editor.open(folder, model)
    assert model.fingerprint() == states[0]


def tamper(path: tuple[str | int, ...], value: Any) -> Callable[[Path], None]:
    """Sets one entry of ledger.json."""

    def change(folder: Path) -> None:
        whole = content(folder)
        inner: Any = whole
        for key in path[:-1]:
            inner = inner[key]
        if callable(value):
            inner[path[-1]] = value(inner[path[-1]])
        else:
            inner[path[-1]] = value
        (folder / "ledger.json").write_text(json.dumps(whole))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "ledger.json").unlink(), r"no ledger in .* \(no ledger.json\)"),
        (lambda folder: (folder / content(folder)["edits"][0]["file"]).unlink(), "edit 1 of the ledger .* no file"),
        (tamper(("format",), "Ledger/2"), "holds 'Ledger/2', expected 'Ledger/1'"),
        (tamper(("position",), 4), "position 4 of 3 edits"),
        (tamper(("position",), None), "not a readable ledger"),
        (tamper(("edits", 0, "file"), "../x.safetensors"), "Invalid name '../x"),
        (tamper(("edits", 0, "weights"), {}), "changes other weights than edit 1 did"),
        (tamper(("edits", 1, "weights"), lambda w: dict.fromkeys(w, "0")), "state 2 .* cannot be made again"),
        (tamper(("edits", 1, "fingerprint"), "0"), "notes another fingerprint after edit 2"),
        (tamper(("edits",), lambda edits: [edits[0], edits[2], edits[1]]), "notes another fingerprint"),
        (tamper(("base",), {}), "not a readable ledger"),
    ],
)
def test_a_ledger_that_was_tampered_with_is_refused(
    change: Callable[[Path], None], message: str, written: tuple[Path, list[str]], fresh: Callable[[], Model]
) -> None:
    folder, states = written
    change(folder)
    model = fresh()
    with pytest.raises(TracerError, match=message):
        Editor.open(folder, model)
    assert model.fingerprint() == states[0]


def test_two_editors_of_one_folder_do_not_mix(written: tuple[Path, list[str]], fresh: Callable[[], Model]) -> None:
    folder, states = written
    one, two = Editor.open(folder, fresh()), Editor.open(folder, fresh())
    one.apply(handmade(one.model, (0,), seed=3))
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    for act in (two.undo, lambda: two.apply(handmade(two.model))):
        with pytest.raises(TracerError, match="changed by another editor; open the ledger again"):
            act()
        assert (two.position, two.model.fingerprint()) == (2, states[2])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files


def test_a_disk_that_is_full_stops_the_edit(
    written: tuple[Path, list[str]], fresh: Callable[[], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, states = written
    editor = Editor.open(folder, fresh())
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "replace", full)
        for act in (editor.undo, lambda: editor.apply(handmade(editor.model))):
            with pytest.raises(TracerError, match="No space left on device"):
                act()
            assert (editor.position, editor.model.fingerprint()) == (2, states[2])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    editor.undo()
    assert Editor.open(folder, fresh()).position == 1


def test_settings_json_does_not_know_stop_the_edit(fresh: Callable[[], Model], tmp_path: Path) -> None:
    editor = Editor(fresh(), tmp_path / "l")
    before = editor.model.fingerprint()
    with pytest.raises(TracerError, match="cannot be written as json"):
        editor.apply(dataclasses.replace(handmade(editor.model), settings={"layers": {1}}))
    assert (editor.model.fingerprint(), editor.history) == (before, ())
    assert content(tmp_path / "l")["edits"] == []


def test_a_fork_does_not_write_to_the_ledger(written: tuple[Path, list[str]], fresh: Callable[[], Model]) -> None:
    folder, _ = written
    before = (folder / "ledger.json").read_bytes()
    fork = Editor.open(folder, fresh()).fork()
    fork.undo()
    assert (folder / "ledger.json").read_bytes() == before


# --- killed --------------------------------------------------------------------------------------------------------
CHILD = """
import os, random, signal, sys, time, torch
torch.set_num_threads(1)
from handmade import steps_of
from tracer.model import load
from editing.ledger.editor import Editor
from pathlib import Path
model, folder, count = load(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for number in range(count):  # forked, so that the imports are paid for once
    read, ready = os.pipe()
    child = os.fork()
    if child == 0:
        editor = Editor(model, folder / str(number))
        log = os.open(folder / f"{number}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(ready, b"x")
        for _ in steps_of(editor, number):
            os.write(log, b"x")
        time.sleep(60)
        os._exit(1)
    os.read(read, 1)
    log = folder / f"{number}.log"
    while log.stat().st_size < number:  # however slow the machine is
        time.sleep(0.001)
    time.sleep(random.Random(number).uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


def test_killed_at_any_moment_it_opens_before_or_after_the_step(fresh: Callable[[], Model], tmp_path: Path) -> None:
    count = 5
    subprocess.run(
        [sys.executable, "-c", CHILD, fresh().name, str(tmp_path), str(count)],
        env=surroundings(),
        check=True,
        timeout=120,
    )
    reached = set()
    for number in range(count):
        made = len((tmp_path / f"{number}.log").read_bytes())
        reference = Editor(fresh())
        allowed = [(0, 0, reference.model.fingerprint())]
        for _ in zip(range(made + 1), steps_of(reference, number), strict=False):
            allowed.append((reference.position, len(reference.history), reference.model.fingerprint()))
        found = Editor.open(tmp_path / str(number), fresh())
        assert (found.position, len(found.history), found.model.fingerprint()) in allowed[made : made + 2]
        found.apply(handmade(found.model, (0, 1), seed=99))  # and it goes on
        again = Editor.open(tmp_path / str(number), fresh())
        assert again.model.fingerprint() == found.model.fingerprint()
        reached.add(made)
    assert len(reached) > 2  # at different moments


def test_leftovers_of_a_kill_are_not_read(written: tuple[Path, list[str]], fresh: Callable[[], Model]) -> None:
    folder, states = written
    shutil.copy(folder / content(folder)["edits"][0]["file"], folder / "0004-0123456789abcdef.safetensors")
    (folder / ".ledger.json.0123456789ab").write_text("{")
    editor = Editor.open(folder, fresh())
    assert (len(editor.history), editor.model.fingerprint()) == (3, states[2])
    assert parameter(editor.model, names_of(editor.model, [0])[0]).requires_grad
