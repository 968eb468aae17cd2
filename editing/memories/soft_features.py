"""What RECIPE compares prompts and edits by: representations of pooled states, by a head for either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from tracer.errors import MemoryMisfit

from .routing.features import Features, known_by
from .soft_nets import ENCODER, KNOWLEDGE, QUERY, STATES, representations

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.model import Model

    from .routing.router import Line, Router


class Pooled(Features):
    """Edits by prompt and target through one head, prompts through another; scores are scaled dot products.

    Tensors: the heads ("knowledge.linear.weight", ...) and, where an encoder reads the texts, its own ("encoder/...").
    """

    settings: ClassVar[Mapping[str, Any]] = {
        "by": STATES,
        "layers": None,
        "config": None,
        "similarity": "scaled_dot",
        "known_by": "fact",
    }
    optional: ClassVar[tuple[str, ...]] = ("layers", "config")
    tensors: ClassVar[tuple[str, ...]] = (f"{KNOWLEDGE}.linear.weight", f"{QUERY}.linear.weight")

    def fits(self, router: Router, model: Model) -> None:
        """The heads are as wide as what is pooled, and the encoder knows the model's tokens."""
        told = router.settings
        if told["by"] == ENCODER:
            known = int(told["config"]["vocab_size"])
            if model.n_tokens > known:
                raise MemoryMisfit(
                    f"the router's encoder knows {known} tokens and {model.name} has {model.n_tokens}; prepare it for "
                    "this model"
                )
            return
        found = router.tensors[f"{KNOWLEDGE}.linear.weight"].shape[1]
        layers = told["layers"]
        if found != 4 * len(layers) * model.d_model or not all(0 <= layer < model.n_layers for layer in layers):
            raise MemoryMisfit(
                f"the router's heads read {found} numbers of the layers {layers}; {model.name} has {model.n_layers} "
                f"layers, and pooled states of these would be {4 * len(layers) * model.d_model} wide. Prepare it for "
                "this model"
            )

    def width(self, router: Router, model: Model) -> int:
        """Of a representation."""
        return int(router.tensors[f"{KNOWLEDGE}.linear.weight"].shape[0])

    def keys(self, router: Router, model: Model, lines: Sequence[Line]) -> Tensor:
        """Representations of edits."""
        return representations(router.parts, router.settings, model, KNOWLEDGE, known_by(router, model, lines))

    def queries(self, router: Router, model: Model, prompts: Sequence[Ids]) -> Tensor:
        """Representations of prompts."""
        return representations(router.parts, router.settings, model, QUERY, prompts)
