"""The documentation: what its pages are made of, that its commands exist, and that its site holds together."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import docpages
import pytest
from browsers import Browser

ROOT = Path(__file__).parents[2]
PAGES = docpages.pages()
TEXTS = {page: (docpages.DOCS / page).read_text(encoding="utf-8") for page in PAGES}


# --- code ------------------------------------------------------------------------------------------------------------
def test_what_is_not_run_is_known_and_names_what_exists() -> None:
    not_run = {
        page: [b for b in docpages.blocks(text) if b.language == "python" and b.title == docpages.NOT_RUN]
        for page, text in TEXTS.items()
    }
    assert {page: len(blocks) for page, blocks in not_run.items() if blocks} == {
        "howto/ability.md": 1,  # needs an extra
        "howto/figures.md": 1,  # needs a browser
        "howto/load.md": 1,  # downloads
        "howto/long-runs.md": 1,  # workers and a cluster
        "howto/pretrained.md": 1,  # files and packages
        "howto/records.md": 1,  # downloads
        "howto/workbench.md": 1,  # JupyterLab
    }
    for page, found in not_run.items():
        for block in found:
            compile(block.code, page, "exec")
            assert docpages.unknown_names(block.code) == [], page


def test_fences_are_of_known_kinds_and_titles() -> None:
    for page, text in TEXTS.items():
        assert not re.search(r"^[ \t]+```", text, re.M), f"{page}: fences begin a line, so that their code is found"
        found = {(b.language, b.title) for b in docpages.blocks(text)}
        assert found <= {
            *(
                ("python", ""),
                ("python", docpages.NOT_RUN),
                ("text", docpages.PRINTS),
                ("text", docpages.LIKE),
                ("text", docpages.ELSEWHERE),
                ("sh", ""),
            ),
        }, page
        assert text.count("\n```") == 2 * len(docpages.blocks(text)), f"{page} has a fence that is not closed"


@pytest.mark.parametrize("page", [page for page in PAGES if "```sh" in TEXTS[page]])
def test_commands_exist_with_their_options(page: str) -> None:
    for block in docpages.blocks(TEXTS[page]):
        if block.language == "sh":
            for words in docpages.shell_commands(block.code):
                assert docpages.wrong_command(words) == "", f"{page}: {' '.join(words)}"


def test_the_checks_of_blocks_can_fail() -> None:
    page = 'a\n\n```python\nprint(1.0, "x")\n```\n\n```text title="prints"\n1.01 x\n```\n'
    [(block, printed)] = docpages.run("a.md", page)
    assert (block.line, printed) == (4, "1.0 x\n")
    assert docpages.said(page)[4].code == "1.01 x\n"
    assert docpages.differs(printed, "1.01 x") == ""
    assert docpages.differs(printed, "1.5 x") and docpages.differs(printed, "1.0 y") and docpages.differs("3", "4")
    assert docpages.unlike("a 1\nb", "a 2\nc") == "" and docpages.unlike("a 1\nb", "b 1\nb")
    assert docpages.unlike("a 1\nb", "a 1")
    assert docpages.unknown_names("import tracer\ntracer.lod()\nfrom editing import Edits") == [
        "editing.Edits",
        "tracer.lod",
    ]
    assert docpages.unknown_names("import tracer\ntracer.hooks.Site\neditor.nothing()") == []
    assert docpages.wrong_command(["tracer", "trace", "x", "-s", "x"]) == ""
    assert "no option --nothing" in docpages.wrong_command(["tracer", "trace", "x", "--nothing", "1"])
    assert "no command" in docpages.wrong_command(["tracer", "paint"])


def test_the_reference_has_every_public_name() -> None:
    import editing
    import editing.datasets
    import editing.evaluation
    import tracer
    from tracer import factworld, runs

    modules = {"tracer", "editing", "factworld", "hooks", "sweep"}
    text = "\n".join(text for page, text in TEXTS.items() if page.startswith("reference/"))
    listed = {line.split(".")[-1] for line in re.findall(r"^::: (\S+)$", text, re.M)}
    told_in_tables = {"METRICS", "KINDS", "MEASURES", "Kind"}
    for module in (tracer, editing, factworld, runs, editing.datasets, editing.evaluation):
        missing = {*module.__all__} - listed - modules - told_in_tables
        assert not missing, f"reference/ has no ::: for {sorted(missing)} of {module.__name__}"


# --- the site --------------------------------------------------------------------------------------------------------
class Tags(HTMLParser):
    """What a page refers to, and what in it can be referred to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.ids.add(value)
            elif name in ("href", "src", "srcset", "data", "action") and value is not None and tag != "base":
                (self.links if tag == "a" else self.loads).append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    if any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")):
        pytest.skip('needs mkdocs-material and mkdocstrings: pip install "tracer-workbench[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    settings = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "TRACER_PROGRESS": "0"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def tags(site: Path) -> dict[Path, Tags]:
    return {path: Tags(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_built(site: Path) -> None:
    for page in [*PAGES, "errors/index.md"]:
        assert (site / page).with_suffix(".html").is_file(), page
    assert not list(site.rglob("*.py"))


def inside(tags: dict[Path, Tags]) -> Iterator[tuple[Path, str]]:
    """(page, reference) of everything that stays in the site."""
    for path, found in tags.items():
        yield from ((path, each) for each in (*found.links, *found.loads) if not urlsplit(each).scheme)


def test_internal_links_and_anchors_exist(site: Path, tags: dict[Path, Tags]) -> None:
    count = 0
    for path, link in inside(tags):
        if path.name == "404.html" and link.startswith("/"):  # served from anywhere, so from the root
            link = os.path.relpath(site / link.lstrip("/"), path.parent)
        parts = urlsplit(link)
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        target = target / "index.html" if target.is_dir() else target
        assert target.is_file(), f"{path.relative_to(site)}: {link}"
        if parts.fragment and target.suffix == ".html" and not parts.fragment.startswith("__"):
            assert unquote(parts.fragment) in tags[target].ids, f"{path.relative_to(site)}: {link}"
        count += 1
    assert count > 1000


def test_nothing_is_loaded_from_outside(site: Path, tags: dict[Path, Tags]) -> None:
    for path, found in tags.items():
        for each in found.loads:
            parts = urlsplit(each)
            assert parts.scheme in ("", "data") and not parts.netloc, f"{path.relative_to(site)} loads {each}"
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", text), sheet.name


def test_links_to_elsewhere_are_https(tags: dict[Path, Tags]) -> None:
    outside = {each for found in tags.values() for each in found.links if urlsplit(each).scheme}
    assert {"https://arxiv.org/abs/2202.05262", "https://arxiv.org/abs/2502.11177"} <= outside
    for each in outside:
        parts = urlsplit(each)
        assert parts.scheme == "https" and "." in parts.netloc and " " not in each, each


def test_generated_pages_have_what_the_code_has(site: Path) -> None:
    import typer

    from editing.cli import app
    from editing.evaluation import METRICS
    from editing.methods.compute import METHODS

    command = (site / "reference/command.html").read_text(encoding="utf-8")
    for name, each in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"tracer {name}" in command and "--json" in command
        for option in (opt for p in each.params for opt in p.opts if opt.startswith("--")):
            assert f"<code>{option}</code>" in command, (name, option)
    metrics = (site / "reference/metrics.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in metrics for name in METRICS)
    methods = (site / "reference/methods.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in methods for name in METHODS)
    assert "generated:" not in command + metrics + methods


def test_the_gallery_draws_its_figures_without_a_network(site: Path, browser: Browser) -> None:
    names = re.findall(r'data-figure="(\w+)"', (site / "gallery.html").read_text(encoding="utf-8"))
    scripts = {path.stem: path.stat().st_size for path in (site / "gallery").iterdir()}
    assert len(names) == 7 and scripts.keys() == {*names, "plotly"}
    assert scripts.pop("plotly") < 6e6 and sum(scripts.values()) < 4e5
    drawn = "document.querySelectorAll('.live.js-plotly-plot .main-svg').length"
    with browser.opened(site / "gallery.html") as page:
        page.wait(f"{drawn} >= {len(names)}")
        assert page.ask("document.querySelector('[data-figure=space_needle]').data.length") >= 3
        widths = "[...document.querySelectorAll('.live')].map((box) => box.querySelector('.main-svg').clientWidth)"
        assert min(page.ask(widths)) > 500
        assert page.requests and all(address.startswith(("file:", "data:", "blob:")) for address in page.requests)
        assert not page.complaints


def test_docstrings_are_shown_as_lists(site: Path) -> None:
    """Arguments in paragraphs, references and tables of docstrings do not stand on the page as they are written."""
    for page in sorted((site / "reference").glob("*.html")):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r":(?:func|class|meth|mod|attr):`|={5}|<autoref", text), page.name
    trace = (site / "reference/tracer.html").read_text(encoding="utf-8")
    function = trace[trace.index('id="tracer.causal_trace"') :]
    for name in ("kind", "corruption", "metric", "foil", "sever", "layers", "tokens", "max_rows"):
        assert re.search(rf"<b><code>{name}</code></b>|<code>{name}</code>", function[:20_000]), name
