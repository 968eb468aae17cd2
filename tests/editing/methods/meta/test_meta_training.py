"""Training of editors: what episodes hold, that training learns, ends well and goes on to the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from edit_command import RECORDS as GIVEN

import editing
from editing.datasets import records_of
from editing.methods.lessons import lessons_of
from editing.methods.meta import teaching
from editing.methods.meta.episodes import Episodes
from editing.methods.meta.settings import MALMENPreparation, MENDPreparation
from tracer import Model, TracerError

Tiny = Callable[[str], Model]
RECORDS = json.loads(json.dumps(GIVEN).replace("Rome", "Seattle"))
QUICK: dict[str, Any] = {
    "rank": 4,
    "measured": 4,
    "held_out": RECORDS[:1],
    "batch": 4,
    "validate_on": 2,
    "directions": 3,
}


def prepare(model: Model, method: str = "mend", records: Any = RECORDS, **more: Any) -> editing.Prepared:
    return editing.prepare(model, method, records, **{**QUICK, "cache": False, **more})


def text_of(model: Model, ids: Any) -> str:
    return str(model.tokenizer.decode(list(ids)))


# --- episodes --------------------------------------------------------------------------------------------------------
def factworld(world: Model, size: int, **more: Any) -> tuple[Any, Any]:
    lessons = lessons_of(world, editing.load_records("factworld", split="train", limit=80), "mend")
    episodes = Episodes(world, lessons, **{"others": 4, "drawn": 1.0, **more})
    return episodes, episodes.drawn_at(Random(0), 6, size)


@pytest.mark.parametrize("size", [1, 5])
def test_an_episode_says_new_targets_and_keeps_near_facts(size: int, world: Model) -> None:
    episodes, found = factworld(world, size)
    assert [len(group) for group in found.groups] == [size] * 6
    assert found.said_kind == ["rewrite", "paraphrase"] * (6 * size)
    assert len(found.kept) == 4 * 6 * size and {"neighbour", "same_subject"} <= set(found.kept_kind)
    for number, group in enumerate(found.groups):
        said = [row for row, owner in zip(found.said, found.said_group, strict=True) if owner == number]
        assert said[::2] == group and [row.target for row in said[1::2]] == [row.target for row in group]
        assert all(one.ids != two.ids for one, two in zip(said[::2], said[1::2], strict=True))
    again = episodes.drawn_at(Random(0), 6, size)
    assert again == found != episodes.drawn_at(Random(1), 6, size)
    true = {lesson.prompt: lesson.request.target_true for lesson in episodes.lessons}
    wanted = {text_of(world, row.target).strip() for row in found.said}
    assert len(wanted) > 3 and not any(
        text_of(world, row.target).strip() == true.get(text_of(world, row.ids).strip()) for row in found.said
    )


def test_a_group_keeps_nothing_of_what_it_edits(world: Model) -> None:
    episodes, found = factworld(world, 40)
    subjects = {lesson.prompt: lesson.request.subject for lesson in episodes.lessons}
    by_wording = {
        wording: lesson.request.subject for lesson in episodes.lessons for wording in (lesson.prompt, *lesson.about)
    }
    assert len(set(subjects.values())) < len(subjects)  # several facts of some subjects
    for number, group in enumerate(found.groups):
        prompts = [text_of(world, row.ids[: row.read[0] + 1]) for row in group]
        edited = [by_wording[prompt.strip()] for prompt in prompts]
        assert len(set(edited)) == len(edited) == 40
        for row, owner, kind in zip(found.kept, found.kept_group, found.kept_kind, strict=True):
            if owner == number and kind == "neighbour":
                assert not any(subject in text_of(world, row.ids) for subject in edited)


def test_held_out_records_are_asked_in_their_order(world: Model) -> None:
    lessons = lessons_of(world, editing.load_records("factworld", split="validation", limit=12), "mend")
    fixed = Episodes(world, lessons, others=4, drawn=0.0).fixed(4, 9, 2)
    assert sum(map(len, fixed.groups)) == 9 and max(map(len, fixed.groups)) == 4
    assert fixed.said_kind.count("rewrite") == 9 and fixed.said_kind.count("paraphrase") == 18
    assert fixed.kept_kind.count("neighbour") <= 18


def test_kept_rows_are_read_at_the_answer_or_everywhere(world: Model) -> None:
    answer, everywhere = (factworld(world, 1, everywhere=each)[1].kept for each in (False, True))
    for near, whole in zip(answer, everywhere, strict=True):
        assert near.read == tuple(range(len(near.ids) - len(near.target), len(near.ids)))
        assert whole.read == tuple(range(len(whole.ids))) and whole.ids == (*near.ids, *near.target[-1:])


# --- training --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("method", "edits"), [("mend", 1), ("malmen", [1, 2])])
def test_training_learns_and_leaves_the_model(method: str, edits: Any, tiny: Tiny) -> None:
    model = tiny("gpt2")
    before = model.fingerprint()
    own: dict[str, Any] = {"steps": 40, "lr": 1e-3, "rate_lr": 0.1, "validate_every": 20, "decay": False}
    made = prepare(model, method, held_out=RECORDS, edits=edits, **own)
    last = made.history[-1]
    assert model.fingerprint() == before and [row["step"] for row in made.history] == [0, 20, 40]
    assert last["loss"] < made.history[1]["loss"] and last["edit loss"] < made.history[1]["edit loss"]
    assert {"rewrite", "paraphrase", "neighbour", "score", "edit loss", "locality loss", "said"} <= set(last)
    assert made.tensors["rate"].dtype == torch.float32 and made.settings["edits"] == (
        [1] if method == "mend" else edits
    )
    again = prepare(model, method, held_out=RECORDS, edits=edits, **own)
    assert again.digest == made.digest and prepare(model, method, edits=edits, steps=0).digest != made.digest


class Killed(BaseException):
    pass


@pytest.mark.parametrize("method", ["mend", "malmen"])
@pytest.mark.parametrize("at", [0, 3])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(
    method: str, at: int, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = tiny("gpt2")
    own: dict[str, Any] = {"steps": 6, "validate_every": 2, "cache": tmp_path / "cache", "save_every": 0}
    whole = prepare(model, method, **{**own, "cache": False})
    plain, steps = teaching.losses_of, []

    def killed(*args: Any) -> Any:
        steps.append(len(steps))
        if len(steps) == at + 1:
            raise Killed
        return plain(*args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(teaching, "losses_of", killed)
        prepare(model, method, **own)
    again = prepare(model, method, **own)
    assert again.digest == whole.digest and again.history == whole.history


def test_a_loss_that_is_not_finite_stops_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = tiny("gpt2")
    plain, count = teaching.losses_of, []

    def broken(*args: Any) -> Any:
        count.append(1)
        told = plain(*args)
        return {**told, "loss": told["loss"] * (float("nan") if len(count) == 4 else 1.0)}

    own: dict[str, Any] = {"steps": 5, "cache": tmp_path / "cache", "save_every": 0}
    with (
        monkeypatch.context() as patch,
        pytest.raises(TracerError, match="the loss of step 3 of training the editor is nan"),
    ):
        patch.setattr(teaching, "losses_of", broken)
        prepare(model, **own)
    (kept,) = (tmp_path / "cache").glob("*.editor.safetensors")
    assert kept.exists()
    assert prepare(model, **own).digest == prepare(model, **{**own, "cache": False}).digest


def test_bad_input(tiny: Tiny) -> None:
    model = tiny("gpt2")
    bare = [{**record, "paraphrase_prompts": []} for record in RECORDS]
    for method, given, message in (
        ("mend", {"records": []}, "mend learns from records, and there are none"),
        (
            "malmen",
            {"records": bare},
            "malmen learns from paraphrases what is about an edit, and none of the 3 records",
        ),
        ("mend", {"held_out": bare}, "none of the 3 records has one"),
        ("mend", {"layers": [9]}, "a layer is 9; expected a whole number from 0 to 3"),
        ("mend", {"edits": 0}, "edits is 0"),
        ("mend", {"edits": []}, "edits is empty"),
        ("mend", {"projections": ["side"]}, "a projection is 'side'; expected one of 'gate', 'up', 'down'"),
        ("mend", {"kept_at": "end"}, "kept_at is 'end'"),
        ("mend", {"lr": 0.0}, "lr is 0.0"),
        ("malmen", {"block": 0}, "block is 0"),
    ):
        with pytest.raises(TracerError, match=message):
            prepare(model, method, steps=0, **given)
    for settings in (MENDPreparation(), MALMENPreparation()):
        json.dumps(vars(settings))


def test_records_say_what_is_about_an_edit(tiny: Tiny) -> None:
    (lesson, *_) = lessons_of(tiny("gpt2"), records_of(RECORDS), "mend")
    assert lesson.prompt == "The Space Needle is in" and lesson.target == " Paris"
    assert lesson.about == ("The Space Needle stands in",)
    assert [question.prompt for question in lesson.apart] == ["Smith Tower is in", "The Seine is in"]


def test_the_command_trains_and_edits(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from editing.cli import app

    records, out, folder = tmp_path / "records.json", tmp_path / "malmen.artefact", str(tiny_folder("gpt2"))
    records.write_text(json.dumps(RECORDS), encoding="utf-8")
    options = [
        "steps=1",
        "rank=4",
        "measured=4",
        "validate_on=2",
        "directions=3",
        "edits=1,2",
        "layers=2,3",
        "rate=2e-2",
    ]
    given = [part for option in options for part in ("--set", option)]
    made = CliRunner().invoke(app, ["prepare", "malmen", str(records), "-m", folder, "--out", str(out), *given])
    assert made.exit_code == 0 and "Prepared for malmen" in made.output and out.exists(), made.output
    assert editing.load_prepared(out).header["places"] == ["2.down", "3.down"]
    basic = ["edit", "malmen", "The Space Needle is in", "-s", "The Space Needle", "--to", "Paris", "-m", folder]
    done = CliRunner().invoke(app, [*basic, "--prepared", str(out), "--check", "none"])
    assert done.exit_code == 0, done.output
    for arguments, message in (
        (basic, "tracer prepare malmen RECORDS --out FILE"),
        ([*basic, "--prepared", str(out), "--set", "layers=[1]"], "at the layers [2, 3]"),
        ([*basic, "--prepared", str(out), "--layers", "1"], "malmen takes no layers"),
        (["edit", "mend", *basic[2:], "--prepared", str(out)], "prepared for malmen, and mend was asked for"),
    ):
        failed = CliRunner().invoke(app, arguments)
        assert failed.exit_code == 2 and message in " ".join(failed.output.split()), failed.output
