"""Corruptions of the subject, which make the model forget the fact.

A corruption is a frozen object with `corrupt(model, ids, span, fact) -> Corrupted`; see `Corruption`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from tracer.engine.batch import logits_of
from tracer.engine.hooks import Add, Intervention, Site, evaluating, keep_logits
from tracer.engine.memories import read_at
from tracer.errors import NoiseError, ReplacementError, TextWithoutTokens
from tracer.model.vocabulary import check_ids

if TYPE_CHECKING:
    from tracer.facts.fact import Fact
    from tracer.model import Model


CONSIDERED = 64  # subjects that a suggestion tries


class Corrupted(NamedTuple):
    """A corruption's rows and interventions.

    Attributes:
        ids: rows to run, [1 + R, T]; the first stays clean.
        interventions: made in the run.
        settings: plain values that a result keeps.
    """

    ids: Tensor
    interventions: list[Intervention]
    settings: dict[str, Any]


class Corruption(Protocol):
    """Interface of a corruption."""

    def corrupt(self, model: Model, ids: Tensor, span: tuple[int, int], fact: Fact) -> Corrupted:
        """Rows 1 + R of `ids` [T], `fact` as it is run; all but the first have the subject, `span`, corrupted."""
        ...


@dataclass(frozen=True)
class GaussianNoise:
    """Gaussian noise on the word embeddings of the subject's tokens, as the ROME authors' code draws and adds it.

    Attributes:
        sigma: the noise level in standard deviations of the word embeddings of `subjects`.
        level: its absolute standard deviation, instead of `sigma`.
        samples: rows of noise, each with its own draw.
        seed: seed of the draws from `numpy.random.RandomState(seed)`, the same in every run.
        subjects: names; None: those of the FactWorld table, which serve any model.

    Raises:
        TracerError: a negative `sigma` or `level`, `samples` below 1, or an invalid seed.
    """

    sigma: float = 3.0
    level: float | None = None
    samples: int = 10
    seed: int = 1
    subjects: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, value in (("sigma", self.sigma), ("level", self.level)):
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise NoiseError(f"{name} of the noise is {value}; expected a number of at least 0")
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise NoiseError(f"samples of the noise is {self.samples!r}; expected a whole number of at least 1")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise NoiseError(f"seed of the noise is {self.seed!r}; expected a whole number from 0 to 2**32 - 1")
        if self.subjects is not None:
            if isinstance(self.subjects, str) or not self.subjects:
                raise NoiseError(f"subjects of the noise is {self.subjects!r}; expected a list of names, or None")
            object.__setattr__(self, "subjects", tuple(self.subjects))

    def level_for(self, model: Model) -> float:
        """The absolute level on `model`: `level`, or `sigma` times the measured deviation.

        Measured as in the ROME code: each subject tokenised alone, without special tokens or leading space; the outputs
        of the word embedding for all their tokens, repeated ones too; the unbiased standard deviation over all scalars.
        """
        if self.level is not None:
            return float(self.level)
        subjects = self.subjects
        if subjects is None:
            from tracer.factworld import subjects as known

            subjects = tuple(known())
        ids = [i for name in model.tokenizer(list(subjects), add_special_tokens=False)["input_ids"] for i in name]
        if not ids:
            raise TextWithoutTokens(
                "none of the noise's subjects has a token in this model; give other subjects, or a level"
            )
        check_ids(model, ids)
        with torch.no_grad():
            embedded = model.module("embed")(torch.tensor([ids], device=model.device))
        wide = embedded if embedded.dtype == torch.float64 else embedded.float()
        return self._level(float(self.sigma) * float(wide.std()))

    def _level(self, deviation: float) -> float:
        """The level at which the noise has this standard deviation."""
        return deviation

    def measured(self, model: Model) -> GaussianNoise:
        """This noise with its level fixed to what it is on `model`, so that it is not measured again."""
        return replace(self, level=self.level_for(model))

    def draw(self, n_tokens: int, d: int, skip: int = 0) -> np.ndarray:
        """Noise of level 1, float64 [samples, n_tokens, d]; the first rows do not depend on `samples`.

        Args:
            n_tokens: tokens with noise.
            d: width of the embeddings.
            skip: how many draws of this size the stream of random numbers has given before.
        """
        stream = np.random.RandomState(self.seed)
        for _ in range(skip):
            self._drawn(stream, (self.samples, n_tokens, d))
        return self._drawn(stream, (self.samples, n_tokens, d))

    def _drawn(self, stream: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
        return stream.randn(*shape)

    def corrupt(
        self, model: Model, ids: Tensor, span: tuple[int, int], fact: Fact | None = None, skip: int = 0
    ) -> Corrupted:
        """Rows 1 + `samples` of `ids` [T]; all but the first have noise added at the tokens `span` (half open).

        The noise is float64: it is added to the word embeddings in float64 and the sum cast back to the model's dtype.
        The settings hold the level as it is on `model`. `skip` as in [`draw`][tracer.GaussianNoise.draw].
        """
        start, end = span
        level = self.level_for(model)
        noise = level * torch.from_numpy(self.draw(end - start, model.d_embed, skip))
        noise = torch.cat([torch.zeros_like(noise[:1]), noise])
        added: list[Intervention] = [Add(Site("embed", token=t), noise[:, t - start]) for t in range(start, end)]
        sigma = float(self.sigma) if self.level is None else None
        settings = {"name": type(self).__name__, "sigma": sigma, "level": level}
        return Corrupted(
            ids.expand(1 + self.samples, -1), added, {**settings, "samples": self.samples, "seed": self.seed}
        )


@dataclass(frozen=True)
class UniformNoise(GaussianNoise):
    """Noise drawn uniformly between `-level` and `level` (the ROME code's `u`); all else as in GaussianNoise.

    Without a level, it is such that the noise has `sigma` times the standard deviation of the subjects' embeddings.
    """

    def _level(self, deviation: float) -> float:
        return deviation * 3**0.5

    def _drawn(self, stream: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
        return stream.uniform(-1, 1, shape)


@dataclass(frozen=True)
class TokenReplacement:
    """Another subject in place of the fact's own: symmetric token replacement (Zhang & Nanda 2024, section 2).

    The corrupted prompt is one that the model may well have met, and no noise leaves the paths that embeddings take.
    Every token outside the subject has to stay what and where it is, so both must have the same number of tokens.

    Attributes:
        subject: the other subject, or several of them, one row each. None: the first that `suggest` finds for the fact
            at hand.
        samples: how many are taken then.
        candidates: names to choose from then; None: see `suggest`.
    """

    subject: str | Sequence[str] | None = None
    samples: int = 1
    candidates: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise ReplacementError(
                f"samples of the replacement is {self.samples!r}; expected a whole number of at least 1"
            )
        if self.subject is not None:
            names = (self.subject,) if isinstance(self.subject, str) else tuple(self.subject)
            if not names or not all(isinstance(name, str) and name.strip() for name in names):
                raise ReplacementError(f"subject of the replacement is {self.subject!r}; expected a name or several")
            object.__setattr__(self, "subject", names)
            object.__setattr__(self, "samples", len(names))
        if self.candidates is not None:
            object.__setattr__(self, "candidates", tuple(self.candidates))

    def corrupt(self, model: Model, ids: Tensor, span: tuple[int, int], fact: Fact) -> Corrupted:
        """Rows 1 + R of `ids` [T]; each but the first has one of the other subjects' tokens at `span`.

        Raises:
            TracerError: a subject with another number of tokens in this prompt, one that changes tokens around it, the
                fact's own subject, or nothing to suggest.
        """
        if self.subject is None:
            names = self.suggest(model, fact, self.samples, self.candidates)
            if not names:
                raise ReplacementError(
                    f"no other subject known here has {span[1] - span[0]} tokens in {fact.text!r} and another answer; "
                    "name one: TokenReplacement(subject)"
                )
        else:
            names = list(self.subject)
        rows = [ids]
        for name in names:
            found = _in_place(model, fact, name, span, tuple(ids[: len(fact.align(model).input_ids)].tolist()))
            if isinstance(found, str):
                raise ReplacementError(f"{found}; TokenReplacement.suggest(model, fact) lists some that fit")
            row = ids.clone()
            row[span[0] : span[1]] = torch.tensor(found, device=ids.device)
            rows.append(row)
        return Corrupted(torch.stack(rows), [], {"name": "TokenReplacement", "subjects": names, "samples": len(names)})

    @staticmethod
    def suggest(model: Model, fact: Fact, n: int = 5, candidates: Sequence[str] | None = None) -> list[str]:
        """At most `n` subjects that fit, and for which the model answers something else; the surest answers first.

        Of more than some 60 that fit, as many are tried, spread evenly over the list.

        Args:
            model: the model.
            fact: the fact.
            n: how many.
            candidates: names to choose from; None: FactWorld's subjects of the same type, or all of them for a subject
                that is not in FactWorld.
        """
        from tracer.engine.sweep import check_numbers, default_rows
        from tracer.facts.readout import Readout

        found = fact.align(model)
        readout = Readout.of(model, found)
        names = dict.fromkeys(_alike(fact.subject) if candidates is None else candidates)
        names.pop(fact.subject, None)
        start, end = fact.subject_span
        texts = [fact.text, *(fact.text[:start] + name + fact.text[end:] for name in names)]
        lengths = [len(ids) for ids in model.tokenizer(texts)["input_ids"]]  # all at once: most names are out by it
        likely = [name for name, length in zip(names, lengths[1:], strict=True) if length == lengths[0]]
        fits = [(name, _in_place(model, fact, name, found.subject_range, found.input_ids)) for name in likely]
        fits = [(name, tokens) for name, tokens in fits if not isinstance(tokens, str)]
        if not fits:
            return []
        fits = fits[:: -(-len(fits) // CONSIDERED)]
        own = torch.tensor([readout.ids], device=model.device)
        rows = own.repeat(1 + len(fits), 1)
        rows[1:, slice(*found.subject_range)] = torch.tensor([tokens for _, tokens in fits], device=model.device)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(evaluating(model))
            stack.callback(keep_logits(model, readout.read[:1]).remove)
            some = rows.split(default_rows(model, len(readout.ids), 1))
            read = torch.cat(
                [logits_of(model, part, frame=read_at(model, part, readout.read))[:, 0].float() for part in some]
            )
        p = check_numbers(model, read).softmax(-1)
        answer = readout.target[0] if readout.target else int(p[0].argmax())
        sure, says = p[1:].max(-1)
        order = [i for i in sure.argsort(descending=True).tolist() if int(says[i]) != answer]
        return [fits[i][0] for i in order[:n]]


def _alike(subject: str) -> list[str]:
    """FactWorld's subjects of the type that `subject` has there; all of them if it is not there."""
    from tracer.factworld import statements

    types = {s.type for s in statements() if s.subject == subject}
    return [s.subject for s in statements() if not types or s.type in types]


def _in_place(model: Model, fact: Fact, name: str, span: tuple[int, int], ids: tuple[int, ...]) -> list[int] | str:
    """Tokens of another subject in the fact's place, or the reason why they do not fit."""
    if name == fact.subject:
        return f"the replacement {name!r} is the fact's own subject"
    start, end = fact.subject_span
    text = fact.text
    other = replace(fact, prompt=text[:start] + "{}" + text[end:], subject=name).align(model)
    if other.subject_range != span or len(other.input_ids) != len(ids):
        had, has = span[1] - span[0], other.subject_range[1] - other.subject_range[0]
        return f"{fact.subject!r} takes {had} tokens in {text!r} and {name!r} takes {has}; expected equally many"
    a, b = span
    if other.input_ids[:a] != ids[:a] or other.input_ids[b:] != ids[b:]:
        return f"{name!r} in place of {fact.subject!r} changes the tokens around it in {text!r}"
    return list(other.input_ids[a:b])
