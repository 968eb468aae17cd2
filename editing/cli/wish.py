"""Requests of `tracer edit`, and the prompts that show their effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from editing.questions.gather import with_factworlds
from editing.questions.probes import Probes
from editing.questions.question import Question
from editing.request import EditRequest
from tracer.cli.command import apart
from tracer.errors import CommandOptionError
from tracer.facts.fact import SLOT

from . import requestfile

if TYPE_CHECKING:
    from tracer.model import Model

Item = tuple[EditRequest, Probes]


@dataclass(frozen=True)
class Wish:
    """The texts of the command."""

    prompt: str | None
    subject: str | None
    target: str | None
    true: str | None
    space: bool | None
    path: Path | None
    limit: int | None
    paraphrases: Sequence[str]
    neighbours: Sequence[str]
    generate: Sequence[str]

    def given(self) -> dict[str, object]:
        """Values of the options that name the fact to edit, by the names of the options."""
        named = {"PROMPT": self.prompt, "--subject": self.subject, "--to": self.target, "--from": self.true}
        space = {"--space" if self.space else "--no-space": None if self.space is None else True}
        return {**named, **space, "--requests": self.path, "--limit": self.limit}

    def items(self) -> list[Item]:
        """The requests.

        Raises:
            TracerError: no requests, or invalid ones.
        """
        if self.path is not None:
            named = {name: value for name, value in self.given().items() if name not in ("--requests", "--limit")}
            apart(named, "names one fact, and --requests many; leave one of them out")
            return requestfile.read(self.path, self.limit)
        apart({"--limit": self.limit}, "is for --requests; add that, or leave it out")
        needed = {"PROMPT": self.prompt, "--subject": self.subject, "--to": self.target}
        missing = [name for name, value in needed.items() if value is None]
        if missing:
            names = missing[0] if len(missing) == 1 else f"{', '.join(missing[:-1])} and {missing[-1]}"
            raise CommandOptionError(
                f"{names} missing: an edit is a prompt, --subject and --to, or --requests FILE; see tracer edit --help"
            )
        request = EditRequest(str(self.prompt), str(self.subject), str(self.target), self.true, self.space)
        return [(request, Probes.of(request))]

    def check(self, items: Sequence[Item]) -> None:
        """Check that the prompts go with the requests.

        Args:
            items: the requests.

        Raises:
            TracerError: prompts that cannot go with them.
        """
        if len(items) > 1:
            several = {"--paraphrase": list(self.paraphrases), "--neighbour": list(self.neighbours)}
            apart(several, "is for a single request; of several, each record of the file brings its own")
        self._more(items[0][0])

    def probes(self, model: Model, items: Sequence[Item]) -> Probes:
        """All questions before and after; of the embedded model also FactWorld's about the facts."""
        self.check(items)
        requests, own = zip(*items, strict=True)
        joined = Probes.joined(with_factworlds(model, requests, own))
        questions, generate = joined.questions, joined.generate
        if len(items) == 1:
            questions += self._more(items[0][0], questions[0].true)
            generate = tuple(self._text(text, items[0][0]) for text in self.generate) or generate
            if not generate and model.causal:
                generate = (items[0][0].text,)
        else:  # not a screen of texts for each
            generate = tuple(self.generate)
        return replace(joined, questions=questions, generate=generate).completed(model)

    def _more(self, request: EditRequest, true: str | None = None) -> tuple[Question, ...]:
        """The questions of --paraphrase and --neighbour; `true` is the answer to the request itself."""
        new = request.target_new
        found = [Question.about("paraphrase", self._text(text, request), request, true) for text in self.paraphrases]
        for given in self.neighbours:
            prompt, equals, answer = given.rpartition("=")
            if equals and not (prompt.strip() and answer.strip()):
                raise CommandOptionError(f"--neighbour {given!r} lacks its prompt or its answer; write PROMPT=ANSWER")
            prompt, known = (prompt.strip(), answer) if equals else (answer.strip(), None)
            found.append(Question.of("neighbour", prompt, request.after(prompt, new), known))
        return tuple(found)

    @staticmethod
    def _text(text: str, request: EditRequest) -> str:
        return text.replace(SLOT, request.subject)
