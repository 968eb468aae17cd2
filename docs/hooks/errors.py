"""A mkdocs hook: puts onto each page about errors the messages it is about, and all of them onto the index.

Each page of ``docs/errors`` names in its front matter the class of errors it is about; its messages are those of this
class and of classes made from it that have no page of their own.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from messages import FILLED, Message, messages

FOLDER = "errors"


@dataclass(frozen=True)
class ErrorPage:
    """A page about one kind of failure.

    Attributes:
        path: the file.
        title: its first heading.
        error: the class of errors.
        body: the Markdown below the front matter.
    """

    path: Path
    title: str
    error: str
    body: str

    def owns(self, message: Message) -> bool:
        """Whether a message is of this page."""
        return self.path.stem == message.page


def pages(folder: Path) -> list[ErrorPage]:
    """The pages in ``folder``, by name, without the index. Raises ValueError for one without front matter or title."""
    return [_page(path) for path in sorted(folder.glob("*.md")) if path.name != "index.md"]


def _page(path: Path) -> ErrorPage:
    parts = re.fullmatch(r"---\n(.*?)\n---\n(.*)", path.read_text(encoding="utf-8"), re.DOTALL)
    title = re.search(r"^# (.+)$", parts[2], re.MULTILINE) if parts else None
    if parts is None or title is None:
        raise ValueError(f"{path} needs front matter with `error:` and a first heading")
    error = (yaml.safe_load(parts[1]) or {}).get("error")
    return ErrorPage(path, title[1].strip(), str(error), parts[2])


# --- what mkdocs calls and shows -------------------------------------------------------------------------------------
@cache
def _all(root: Path) -> tuple[list[Message], list[ErrorPage]]:
    return messages(root), pages(root / "docs" / FOLDER)


def groups(folder: Path) -> dict[str, list[str]]:
    """The index's headings, each with the names of the pages listed under it."""
    found: dict[str, list[str]] = {}
    for heading, page in re.findall(r"^## (.+)$|^- \[.*\]\((.+\.md)\)$", index(folder), re.MULTILINE):
        if heading:
            found[heading] = []
        else:
            found[list(found)[-1]].append(page)
    return {heading: listed for heading, listed in found.items() if listed}


def index(folder: Path) -> str:
    return (folder / "index.md").read_text(encoding="utf-8")


def on_config(config: Any) -> Any:
    """List the pages in the navigation as the index has them."""
    named = groups(Path(config.docs_dir, FOLDER))
    listed = [{heading: [f"{FOLDER}/{name}" for name in names]} for heading, names in named.items()]
    own = {"Errors": [f"{FOLDER}/index.md", *listed]}
    config.nav = [own if isinstance(item, dict) and "Errors" in item else item for item in config.nav or ()] or None
    return config


def on_pre_build(config: Any) -> None:
    """Read the source anew for every build."""
    _all.cache_clear()


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Append its messages to an error page, and the table of all messages to the index."""
    folder, _, name = page.file.src_uri.rpartition("/")
    if folder != FOLDER:
        return markdown
    found, known = _all(Path(config.docs_dir).parent)
    if name == "index.md":
        uris = {each: files.get_file_from_path(f"{FOLDER}/{each.path.name}") for each in known}
        links = {
            each: f'<a href="{uri.url_relative_to(page.file)}">{html.escape(each.title)}</a>'
            for each, uri in uris.items()
        }
        spelled = [message for message in found if len(re.findall(r"\w", message.template)) > 8]
        rows = [(message.template, links[each]) for message in spelled for each in known if each.owns(message)]
        rows.sort(key=lambda row: (re.sub(r"[^\w ]", "", row[0]).strip().casefold(), row))
        return f"{markdown}\n\n{_table(('Message', 'Page'), rows)}\n"
    own = next(each for each in known if each.path.name == name)
    rows = [(message.template, _code(_where(message)).replace(".", ".<wbr>")) for message in found if own.owns(message)]
    table = _table(("Message", "Raised by"), rows)
    raised = f"Raised as `tracer.errors.{own.error}`"
    return f"{markdown}\n\n## Messages\n\n{raised}; {FILLED} stands for what is filled in.\n\n{table}\n"


def _where(message: Message) -> str:
    module = message.module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return f"{module}.{message.function}"


def _code(text: str) -> str:
    return f'<code style="white-space: normal">{html.escape(text)}</code>'


def _table(heads: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    """A table of templates and what belongs to each, as HTML without blank lines: Markdown leaves that as it is."""
    head = "".join(f"<th>{each}</th>" for each in heads)
    body = "\n".join(f"<tr><td>{_code(text)}</td><td>{other}</td></tr>" for text, other in dict.fromkeys(rows))
    return (
        f'<div class="messages">\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>'
    )
