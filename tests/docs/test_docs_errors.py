"""The pages about errors: every message of the source has one, and what a page shows is what happens."""

from __future__ import annotations

import importlib
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browsers import Browser

from tracer import Fact, TracerError, errors
from tracer.runs import Failed

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "errors"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")
BLOCK = re.compile(r'^```(?P<language>\w+) title="(?P<title>\w+)"\n(?P<code>.*?)^```$', re.MULTILINE | re.DOTALL)


@cache
def hook(name: str) -> Any:
    """A module of docs/hooks, imported as mkdocs does."""
    sys.path.insert(0, str(ROOT / "docs" / "hooks"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


@cache
def known() -> list[Any]:
    return hook("messages").messages(ROOT)


# --- which page a message is on --------------------------------------------------------------------------------------
def test_every_kind_of_error_has_one_page_and_every_page_one_kind() -> None:
    made = {
        name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, TracerError)
    }
    assert made.keys() == set(errors.__all__) - {"TracerNote", "out_of_memory"}
    groups = {kind for kind in made.values() if kind.__base__ is TracerError}
    kinds = {kind.page: name for name, kind in made.items() if kind not in groups | {TracerError}}
    assert 8 <= len(groups) <= 16 and all("page" in vars(made[name]) for name in kinds.values())
    assert {page.path.stem: page.error for page in hook("errors").pages(FOLDER)} == kinds


def test_every_message_is_of_a_kind_with_a_page() -> None:
    """Nothing is raised as a bare TracerError, so that a caller can tell what to do about it."""
    loose = [f"{each.module}:{each.line} in {each.function} raises {each.error}" for each in known() if not each.page]
    assert not loose, "\n".join(loose) + "\nraise a kind of tracer.errors that has a page in docs/errors"
    told = {each.page for each in known()}
    assert told == set(PAGES)  # and no page is left without a message


def test_kinds_are_caught_as_one_family() -> None:
    with pytest.raises(errors.FactError) as caught:
        Fact("{} is in", "").text  # noqa: B018
    assert isinstance(caught.value, errors.EmptyText) and caught.value.page == "empty-text"
    assert issubclass(Failed, errors.RunError) and Failed.page == "workers"


def test_the_index_lists_every_page_once() -> None:
    listed = [name for names in hook("errors").groups(FOLDER).values() for name in names]
    assert sorted(listed) == [f"{page}.md" for page in PAGES]


# --- how messages are read from the source ---------------------------------------------------------------------------
SOURCE = """
from .errors import TracerError
from .words import REPAIR

class Late(TracerError):
    pass

class Named(Late):
    def __init__(self, field, message):
        super().__init__(message)

def first(name, value, deep):
    what = "deep" if deep else f"at {value:.2f}"
    if value:
        raise TracerError(f"{name!r} is {what}; " + "go on")
    count = 0
    count = count + 1
    raise Named(name, f"{count} of {name} came; {REPAIR}")

class Thing:
    def second(self):
        raise Late(self._why(1) or "nothing")

    def _why(self, n):
        return "too late" if n else ""

def _made(file, problem):
    return TracerError(f"{file}: {problem}")

def third():
    raise _made("a", "no such line")
"""


def test_messages_are_followed_to_where_they_are_written(tmp_path: Path) -> None:
    files = {
        "tracer/errors.py": "class TracerError(ValueError): pass",
        "tracer/words.py": "REPAIR = 'wait'",
        "tracer/things.py": SOURCE,
    }
    (tmp_path / "tracer").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = [(each.function, each.error, each.template) for each in hook("messages").messages(tmp_path)]
    assert found == [
        ("first", "TracerError", "… is deep; go on"),
        ("first", "TracerError", "… is at …; go on"),
        ("first", "Named", "… of … came; wait"),
        ("Thing.second", "Late", "too late"),
        ("Thing.second", "Late", ""),
        ("Thing.second", "Late", "nothing"),
        ("third", "TracerError", "a: no such line"),
    ]


def test_every_error_that_is_made_is_read() -> None:
    names = "|".join(hook("messages").error_pages(ROOT))
    made = re.compile(rf"raise ({names})" + r"\(")
    for package in hook("messages").PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = path.relative_to(ROOT).as_posix()
            lines = [n for n, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if made.search(text)]
            assert {*lines} <= {each.line for each in known() if each.module == module}, module


def test_the_tables_on_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: Any = hook("errors")
    text = "subject … does not occur in prompt <b>…"
    place = ("tracer/facts/fact.py", "Fact.align", 1, "SubjectNotInPrompt")
    message = hook("messages").Message(*place, text, page="subject-not-in-prompt")
    page = next(each for each in errors.pages(FOLDER) if each.path.stem == "subject-not-in-prompt")
    monkeypatch.setattr(errors, "messages", lambda root: [message])
    monkeypatch.setattr(errors, "pages", lambda folder: [page])
    errors.on_pre_build(None)
    config = {"docs_dir": str(FOLDER.parent)}
    target = SimpleNamespace(url_relative_to=lambda _: "found.html")
    files = SimpleNamespace(get_file_from_path=lambda _: target)

    def shown(name: str) -> str:
        of = SimpleNamespace(file=SimpleNamespace(src_uri=name))
        return errors.on_page_markdown("text", page=of, config=SimpleNamespace(**config), files=files)

    code = '<code style="white-space: normal">subject … does not occur in prompt &lt;b&gt;…</code>'
    assert shown("howto/tokens.md") == "text"
    assert f"<td>{code}</td><td><a" not in shown("errors/subject-not-in-prompt.md")
    assert "tracer.<wbr>facts.<wbr>fact.<wbr>Fact.<wbr>align" in shown("errors/subject-not-in-prompt.md")
    assert f'<td>{code}</td><td><a href="found.html">{page.title}</a></td>' in shown("errors/index.md")
    errors.on_pre_build(None)  # what was put in its place is not remembered


def test_a_pasted_message_finds_its_page(tmp_path: Path, browser: Browser) -> None:
    text = (FOLDER / "index.md").read_text(encoding="utf-8")
    field = "".join(re.findall(r"^<.*>$", text, re.MULTILINE))
    rows = [("there is no layout …; choose one of …", "layouts"), ("… is no JSON", "json"), ("no layer …", "layers")]
    table = hook("errors")._table(("Message", "Page"), [(each, f'<a href="#">{page}</a>') for each, page in rows])
    (tmp_path / "index.html").write_text(f"<!doctype html><meta charset=utf-8>{field}{table}", encoding="utf-8")
    shutil.copy(FOLDER / "find.js", tmp_path)
    shown = "[...document.querySelectorAll('tbody tr:not([hidden]) a')].map((each) => each.innerText).join()"
    with browser.opened(tmp_path / "index.html") as page:
        assert page.ask(shown) == "layouts,json,layers"
        for typed, pages in {
            "tracer: There is no\n layout 'x'; choose one of a, b": "layouts",
            "layer": "layers",
        }.items():
            page.type_into("#message", typed)
            assert (page.ask(shown), page.ask("document.getElementById('found').innerText")) == (pages, pages)
        page.type_into("#message", "nothing of the kind")
        assert page.ask(shown) == "" and "No message" in page.ask("document.getElementById('found').innerText")
        assert not page.complaints


# --- what a page shows -----------------------------------------------------------------------------------------------
@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an empty folder, with warnings as errors; what libraries log about small files is no matter of a page."""
    monkeypatch.chdir(tmp_path)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    yield
    logging.disable(level)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", PAGES)
def test_a_page_raises_what_it_shows_and_repairs_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    blocks = [(each["language"], each["title"], each["code"]) for each in BLOCK.finditer(text)]
    titles = [(language, title) for language, title, _ in blocks]
    assert titles == [("python", "raises"), ("text", "message"), ("python", "repaired")]
    assert len(text.splitlines()) < 60 and text.count("```") == 6
    names: dict[str, Any] = {"__name__": "__main__"}
    said = run(blocks[0][2], names, capsys)
    assert said is not None, "the block titled raises did not raise"
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in f" {blocks[1][2]} ".split("…"))
    assert re.fullmatch(pattern.replace(r"\ ", " ").strip(), " ".join(said.split())), said
    assert run(blocks[2][2], names, capsys) is None
    # the message is one that this page is about
    page = next(each for each in hook("errors").pages(FOLDER) if each.path.stem == name)
    own = [each.template for each in known() if page.owns(each)]
    assert any(made_from(template, said) for template in own), said


def run(code: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str | None:
    """The message of the TracerError that a block raises, or that the command prints; None without one."""
    capsys.readouterr()
    try:
        exec(compile(code, "page", "exec"), names)
    except TracerError as error:
        return str(error)
    except SystemExit as end:  # of the command
        return capsys.readouterr().err.removeprefix("tracer: ") if end.code else None
    return None


def made_from(template: str, said: str) -> bool:
    parts = [re.escape(part) for part in template.split("…")]
    return len(template) > 8 and re.fullmatch(".*".join(parts), " ".join(said.split()), re.DOTALL) is not None
