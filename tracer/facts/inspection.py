"""A fact in a model's tokens, and as a table to look at."""

from __future__ import annotations

import html
from dataclasses import dataclass


@dataclass(frozen=True)
class Alignment:
    """A fact in a model's tokens.

    Attributes:
        input_ids: the prompt, with the special tokens the tokenizer adds in front of it (masked models: and behind;
            encoder-decoder models: and the decoder's start, see `tracer.facts.prompt`).
        tokens: text of each, with its leading space; a part of a split character shows as the replacement character.
        subject_range: first subject token and the one after the last.
        target_ids: the tokens that follow the prompt (or fill the masks) when the target is added; empty without one.
        answer_position: the last token, or the first mask of a masked model.
    """

    input_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    subject_range: tuple[int, int]
    target_ids: tuple[int, ...]
    answer_position: int


@dataclass(frozen=True, repr=False)
class Inspection:
    """An alignment to look at: `print` it, or leave it as the last line of a notebook cell.

    Attributes:
        text: the prompt.
        alignment: the alignment.
        target_tokens: text of each token of the target.
    """

    text: str
    alignment: Alignment
    target_tokens: tuple[str, ...]

    def __str__(self) -> str:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text  # token text is shown as it is, "[MASK]" is no markup

        found = self.alignment
        table = Table("#", "id", "token", "subject", "role", box=box.SIMPLE_HEAD, title=Text(self.text))
        answers = range(found.answer_position, found.answer_position + 1)
        masked = bool(found.target_ids) and found.answer_position + 1 < len(found.input_ids)
        if masked:
            answers = range(found.answer_position, found.answer_position + len(found.target_ids))
        for i, (token_id, token) in enumerate(zip(found.input_ids, found.tokens, strict=True)):
            star = "*" if found.subject_range[0] <= i < found.subject_range[1] else ""
            role = "answer is read here" if i in answers else ""
            if masked and i in answers:
                role += f": {visible(self.target_tokens[i - answers.start])}"
            table.add_row(str(i), str(token_id), Text(visible(token)), star, Text(role))
        if not masked:
            for i, (token_id, token) in enumerate(zip(found.target_ids, self.target_tokens, strict=True)):
                table.add_row(f"+{i + 1}", str(token_id), Text(visible(token)), "", Text("target"))
        console = Console(width=100, color_system=None, force_jupyter=False, record=False)
        with console.capture() as capture:
            console.print(table)
        return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def visible(token: str) -> str:
    """Token text with its spaces as · and its line breaks and tabs as escapes."""
    return "".join("·" if c == " " else c if c.isprintable() else ascii(c)[1:-1] for c in token)
