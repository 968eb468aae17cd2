"""Features: what a prompt and an entry are compared by, and how near they are then."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from editing.memories.scope import context_of, encoded, text_of, vectors_of
from editing.memories.similarity import log_similarities
from tracer.engine.hooks import check_site
from tracer.engine.prompt_states import mean_state, prompt_states
from tracer.engine.sites import WIDE, Site
from tracer.errors import HyperparameterError, MemoryMisfit, SiteError
from tracer.facts.prompt import prompt_ids, stated

from .heads import head
from .rules import made

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.model import Model

    from .given import Given, Line

SIMILARITIES = ("cosine", "dot", "scaled_dot")
KNOWN_BY = ("prompt", "fact")
POOLS = ("last", "mean")


class Features:
    """Vectors of prompts and of entries; it has no state.

    Attributes:
        settings: names, with defaults; None: has to be given.
        optional: names of settings that may be None.
        tensors: names of tensors that it needs.
    """

    settings: ClassVar[Mapping[str, Any]] = {}
    optional: ClassVar[tuple[str, ...]] = ()
    tensors: ClassVar[tuple[str, ...]] = ()

    def check(self, router: Given) -> None:
        """Raise TracerError for a setting out of range."""

    def fits(self, router: Given, model: Model) -> None:
        """Raise TracerError where a router cannot read a model."""

    def width(self, router: Given, model: Model) -> int:
        """Width of a vector."""
        raise NotImplementedError

    def keys(self, router: Given, model: Model, lines: Sequence[Line]) -> Tensor:
        """Vectors of entries, [entries, width] on the CPU, each made by itself."""
        raise NotImplementedError

    def queries(self, router: Given, model: Model, prompts: Sequence[Ids]) -> Tensor:
        """Vectors of prompts, [prompts, width] on the CPU, each made by itself."""
        raise NotImplementedError

    def scores(self, router: Given, queries: Tensor, keys: Tensor) -> Tensor:
        """How near they are, [prompts, entries]; each prompt by itself, so that others cannot change its bits."""
        return torch.stack([similarities(query, keys, router.settings["similarity"]) for query in queries])


class Texts(Features):
    """Prompts and entries that are compared as they stand, without vectors."""

    def width(self, router: Given, model: Model) -> int:
        """None."""
        return 0

    def keys(self, router: Given, model: Model, lines: Sequence[Line]) -> Tensor:
        """None: [entries, 0]."""
        return torch.zeros(len(lines), 0)

    def queries(self, router: Given, model: Model, prompts: Sequence[Ids]) -> Tensor:
        """None: [prompts, 0]."""
        return torch.zeros(len(prompts), 0)

    def compare(self, router: Given, model: Model, prompts: Sequence[Ids], lines: Sequence[Line]) -> Tensor:
        """How near they are, [prompts, entries]."""
        raise NotImplementedError


# --- of the model's own states ---------------------------------------------------------------------------------------
class States(Features):
    """The state of the edited model itself at a prompt's last token (or the mean over its tokens), less a mean.

    Tensors: "mean" [width], that of the states of some prompts, without which all states are alike; and, where they
    were trained, the heads of [`editing.memories.routing.heads.head`][], through which states go then.
    """

    settings: ClassVar[Mapping[str, Any]] = {
        "layer": None,
        "site": "hidden",
        "pool": "last",
        "similarity": "cosine",
        "known_by": "prompt",
    }

    def check(self, router: Given) -> None:
        """Words are among those known."""
        _known(router, {"pool": POOLS, "similarity": SIMILARITIES, "known_by": KNOWN_BY})

    def fits(self, router: Given, model: Model) -> None:
        """The model has the site, and states as wide as the mean."""
        kind, layer = router.settings["site"], router.settings["layer"]
        try:
            check_site(model, Site(kind, layer))
        except SiteError as error:
            raise MemoryMisfit(
                f"the router reads states that {model.name} does not have ({error}); make it on this model"
            ) from error
        own = model.d_mlp if kind in WIDE else model.d_model
        mean = router.tensors.get("mean")
        if mean is not None and mean.shape[-1] != own:
            raise MemoryMisfit(
                f"the router reads states {mean.shape[-1]} wide and those of {model.name} are {own} wide; make it on "
                "this model, or load the model it is of"
            )

    def width(self, router: Given, model: Model) -> int:
        """Of a state, or of what the heads make of it."""
        if "knowledge.linear.weight" in router.tensors:
            return router.tensors["knowledge.linear.weight"].shape[0]
        return model.d_mlp if router.settings["site"] in WIDE else model.d_model

    def keys(self, router: Given, model: Model, lines: Sequence[Line]) -> Tensor:
        """States of the entries' prompts, or of these with their targets."""
        return head(router.tensors, "knowledge", self._states(router, model, known_by(router, model, lines)))

    def queries(self, router: Given, model: Model, prompts: Sequence[Ids]) -> Tensor:
        """States of the prompts."""
        return head(router.tensors, "query", self._states(router, model, prompts))

    def _states(self, router: Given, model: Model, prompts: Sequence[Ids]) -> Tensor:
        place = (router.settings["site"], router.settings["layer"])
        if router.settings["pool"] == "last":
            found = prompt_states(model, prompts, [place])[place]
        else:
            found = torch.stack([mean_state(model, ids, place) for ids in prompts])
        found = found.float().cpu()
        return found - router.tensors["mean"].float() if "mean" in router.tensors else found


class Classifier(Features):
    """SERAC's classifier (Mitchell et al. 2022): a trained projection of states, or an encoder; see `prepare`.

    Tensors are those that were prepared for serac, less the model that answers.
    """

    settings: ClassVar[Mapping[str, Any]] = {"scope": None, "comparison": None, "width": None}

    def width(self, router: Given, model: Model) -> int:
        """As prepared."""
        return int(router.settings["width"])

    def fits(self, router: Given, model: Model) -> None:
        """The states are as wide as the projection reads."""
        projection, scope = router.tensors.get("projection"), router.settings["scope"]
        if projection is not None and projection.shape[-1] != len(scope["layers"]) * model.d_model:
            raise MemoryMisfit(
                f"the router's classifier reads states {projection.shape[-1]} wide of the layers {scope['layers']}, "
                f"and those of {model.name} are {len(scope['layers']) * model.d_model} wide; make it on this model"
            )

    def keys(self, router: Given, model: Model, lines: Sequence[Line]) -> Tensor:
        """Vectors of the edits, by prompt or as the encoder knows them."""
        scope = router.settings["scope"]
        if scope["by"] != "encoder":
            return self.queries(router, model, [tuple(line["ids"]) for line in lines])
        texts = [context_of(scope, scope["separator"], line["prompt"], line["target"]) for line in lines]
        return torch.cat([encoded(router.parts, scope, model, text) for text in texts])

    def queries(self, router: Given, model: Model, prompts: Sequence[Ids]) -> Tensor:
        """Vectors of prompts."""
        return vectors_of(router.parts, router.settings["scope"], model, prompts)

    def scores(self, router: Given, queries: Tensor, keys: Tensor) -> Tensor:
        """Similarities, 1 for the same."""
        told = router.settings["comparison"]
        return torch.cat([log_similarities(query.unsqueeze(0), keys, **told).exp() for query in queries])


# --- of texts --------------------------------------------------------------------------------------------------------
class Overlap(Texts):
    """Tokens that a prompt and an entry's prompt share, each counting as rare as it is: what a router has to beat.

    The cosine of two vectors with the root of a token's inverse document frequency where the token occurs. Tensors:
    "tokens" [m] and "idf" [m]; a token that is not among them counts as the rarest.
    """

    tensors: ClassVar[tuple[str, ...]] = ("tokens", "idf")

    def compare(self, router: Given, model: Model, prompts: Sequence[Ids], lines: Sequence[Line]) -> Tensor:
        """Shared weight over the geometric mean of both weights."""
        tensors = router.tensors
        weights = dict(zip(tensors["tokens"].tolist(), tensors["idf"].tolist(), strict=True))
        rarest = max(weights.values(), default=1.0)

        def weight(ids: set[int]) -> float:
            return sum(weights.get(token, rarest) for token in sorted(ids))

        entries = [(own := set(line["ids"]), weight(own)) for line in lines]
        rows = []
        for prompt in prompts:
            asked = set(prompt)
            whole = weight(asked)
            rows.append([weight(asked & own) / max((whole * size) ** 0.5, 1e-12) for own, size in entries])
        return torch.tensor(rows)


class Subject(Texts):
    """Whether an entry's subject stands in the prompt, letter by letter: a control. The score is its share of that."""

    def compare(self, router: Given, model: Model, prompts: Sequence[Ids], lines: Sequence[Line]) -> Tensor:
        """Length of the subject over that of the prompt; 0 where it does not occur."""
        texts = [text_of(model, prompt) for prompt in prompts]
        subjects = [str(line["subject"]) for line in lines]
        rows = [[len(one) / len(text) if one and one in text else 0.0 for one in subjects] for text in texts]
        return torch.tensor(rows).reshape(len(texts), len(subjects))


class Drawn(Texts):
    """An entry drawn by chance, always the same one for the same prompt: a control, right for 1 of n."""

    settings: ClassVar[Mapping[str, Any]] = {"seed": 0}

    def compare(self, router: Given, model: Model, prompts: Sequence[Ids], lines: Sequence[Line]) -> Tensor:
        """1 for the one that is drawn."""
        found = torch.zeros(len(prompts), len(lines))
        for row, prompt in enumerate(prompts):
            text = f"{router.settings['seed']} {' '.join(map(str, prompt))}"
            drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
            found[row, drawn % len(lines)] = 1.0
        return found


FEATURES: dict[str, str | type] = {
    "states": "editing.memories.routing.features.States",
    "classifier": "editing.memories.routing.features.Classifier",
    "recipe": "editing.memories.soft_features.Pooled",
    "overlap": "editing.memories.routing.features.Overlap",
    "string": "editing.memories.routing.features.Subject",
    "random": "editing.memories.routing.features.Drawn",
}
"""Features by name; new ones are a line here."""


def features_named(name: str) -> Features:
    """The features with this name.

    Args:
        name: one of `FEATURES`.

    Raises:
        TracerError: an unknown name.
    """
    return made(name, FEATURES, "features")


def similarities(query: Tensor, keys: Tensor, how: str) -> Tensor:
    """How near a vector is to others, [n].

    Args:
        query: [width].
        keys: [n, width].
        how: "cosine"; "dot", the product; "scaled_dot", the product over the root of the width.
    """
    product = keys @ query
    if how == "cosine":
        return (product / (keys.norm(dim=1) * query.norm()).clamp_min(1e-12)).clamp(-1.0, 1.0)
    return product / query.shape[-1] ** 0.5 if how == "scaled_dot" else product


def known_by(router: Given, model: Model, lines: Sequence[Line]) -> list[Ids]:
    """The ids that entries are known by: their prompts, or these with their targets behind."""
    if router.settings["known_by"] == "prompt":
        return [tuple(line["ids"]) for line in lines]
    return [tuple(prompt_ids(model, stated(model, line["prompt"], line["target"]))) for line in lines]


def _known(router: Given, words: Mapping[str, Sequence[str]]) -> None:
    for name, choices in words.items():
        if router.settings[name] not in choices:
            raise HyperparameterError(
                f"{name} of a router is {router.settings[name]!r}; expected one of {', '.join(map(repr, choices))}"
            )
