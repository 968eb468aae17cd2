"""What an evaluation leaves out of a model, where it would mean nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .protocol import Protocol

if TYPE_CHECKING:
    from tracer.model import Model

RUNNING = {
    "canary_tokens": "drift and perplexity on running text",
    "texts": "continued texts",
    "attack": "attacks through the unembedding",
}
"""Measurements by the field of the protocol that asks for them, which take a model that goes on after a text."""


def meaningful(model: Model, protocol: Protocol) -> Protocol:
    """A protocol without what means nothing for a model: a decoder does not go on after a text that an encoder reads.

    Args:
        model: to be measured.
        protocol: as it was asked for.
    """
    return replace(protocol, canary_tokens=0, texts=False, attack=0) if model.stacks else protocol


def left_out(model: Model, protocol: Protocol) -> str:
    """What of a protocol means nothing for a model, in words; "": nothing.

    Args:
        model: to be measured.
        protocol: as it was asked for.
    """
    fit = meaningful(model, protocol)
    return ", ".join(words for name, words in RUNNING.items() if getattr(fit, name) != getattr(protocol, name))
