"""Hyper-parameters of WISE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editing.memories.wise import KEYS, PUBLISHED, SITES
from editing.methods.training import as_layers
from tracer.checks import finite, whole
from tracer.errors import HyperparameterError

RULES = (KEYS, PUBLISHED)


@dataclass(frozen=True)
class WISESettings:
    """Hyper-parameters of WISE.

    Attributes:
        layers: the one whose projection has a side copy; None: the last, where keys tell subjects apart. (Published:
            27 of 32.)
        rule: "keys": an edit has rows of its own, whitened by what text puts there; a prompt is routed once, by its
            last token. "published": one whole copy for a shard of edits, routed by the mean over all tokens.
        site: "down", the MLP's down-projection; "up", that before its activation (as published for GPT-2).
        threshold: share of an edit's own score from which on a prompt is routed to it. (Published: `act_ratio`, 0.88.)
        steps: of the training. (Published: 70, 40 or 30.)
        lr: learning rate; None: of the rule "keys" 0.1 of the root mean square of what the projection gives, of the
            published one 1. (Published: 1.0, of SGD.)
        stop_loss: loss, mean over the target's tokens, at which training stops.
        tokens: of text that keys are whitened by.
        damping: of that, as a share of its mean square.
        alpha: published rule; the least distance of irrelevant text that costs anything.
        beta: published rule; the distance of edits up to which it costs something.
        gamma: published rule; by how much the latter is to exceed the former.
        weight_decay: published rule; of SGD.
        norm_constraint: published rule; most that an entry of the weight may change.
        density: published rule; share of the weight's entries that a shard may change.
        save_freq: published rule; edits of a shard.
        merge_freq: published rule; edits after which their shards become one, by TIES; 0: never. A multiple of
            `save_freq`. (Published: 1000.)
        merge_density: published rule; share of a shard's entries that are merged, the largest. (Published: 0.53.)
        templates: published rule; texts with `{}` that an edit is learnt in.
        irrelevant: published rule; texts, one for each edit in turn; (): sentences that no edit is about.
        seed: published rule; of the mask.
    """

    layers: Sequence[int] | None = None
    rule: str = KEYS
    site: str = "down"
    threshold: float = 0.65
    steps: int = 60
    lr: float | None = None
    stop_loss: float = 1e-2
    tokens: int = 4096
    damping: float = 0.01
    alpha: float = 5.0
    beta: float = 20.0
    gamma: float = 10.0
    weight_decay: float = 1e-5
    norm_constraint: float = 1.0
    density: float = 0.2
    save_freq: int = 500
    merge_freq: int = 0
    merge_density: float = 0.53
    templates: Sequence[str] = ("{}",)
    irrelevant: Sequence[str] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        for name, value, known in (("rule", self.rule, RULES), ("site", self.site, tuple(SITES))):
            if value not in known:
                raise HyperparameterError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")
        for name in ("steps", "tokens", "save_freq"):
            whole(name, getattr(self, name), 1, kind=HyperparameterError)
        for name in ("threshold", "damping", "norm_constraint", "density", "merge_density"):
            finite(name, getattr(self, name), above=0, kind=HyperparameterError)
        whole("merge_freq", self.merge_freq, kind=HyperparameterError)
        if self.merge_freq % self.save_freq or self.merge_density > 1:
            wrong = (
                ("merge_density", self.merge_density, "at most 1")
                if self.merge_density > 1
                else ("merge_freq", self.merge_freq, f"0 or a multiple of save_freq ({self.save_freq})")
            )
            raise HyperparameterError("{} is {}; expected {}".format(*wrong))
        for name in ("alpha", "beta", "gamma", "weight_decay", "stop_loss"):
            finite(name, getattr(self, name), 0, kind=HyperparameterError)
        if self.lr is not None:
            finite("lr", self.lr, above=0, kind=HyperparameterError)
        for name in ("templates", "irrelevant"):
            given = getattr(self, name)
            given = (given,) if isinstance(given, str) else tuple(given)
            if any(not isinstance(text, str) or (name == "templates" and "{}" not in text) for text in given):
                more = ", each with {}" if name == "templates" else ""
                raise HyperparameterError(f"{name} is {given!r}; expected texts{more}")
            object.__setattr__(self, name, given)
        if not self.templates:
            raise HyperparameterError("templates is empty; expected at least one text with {}, such as '{}'")
