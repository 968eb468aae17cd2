"""A module that a caller already holds: what it is, and whether it is a whole language model without wrappers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from torch import nn

from tracer.errors import TracerNote, UnknownArchitecture

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def whole(hf: Any, name: str) -> PreTrainedModel:
    """The transformers model in `hf`: itself, or the one inside torch.compile's wrapper.

    Raises:
        TracerError: anything else, or a model with adapters beside its weights.
    """
    from transformers import PreTrainedModel

    hf = getattr(hf, "_orig_mod", hf)
    adapters = [path for path, part in hf.named_modules() if _peft(part)] if isinstance(hf, nn.Module) else []
    if adapters:
        raise UnknownArchitecture(
            f"{name!r} is a {type(hf).__name__} with adapters of peft ({len(adapters)} modules of them), which act "
            "beside its weights; merge them first, merged = peft_model.merge_and_unload(), and give that"
        )
    if not isinstance(hf, PreTrainedModel):
        inside = [getattr(hf, name, None) for name in ("module", "hf")]
        found = [type(inner).__name__ for inner in inside if isinstance(inner, PreTrainedModel)]
        hint = f"give the {found[0]} inside it" if found else "give such a one"
        raise UnknownArchitecture(
            f"{name!r} is a {type(hf).__name__}; expected a language model of transformers (a PreTrainedModel): {hint}"
        )
    return hf


def own_class(hf: PreTrainedModel) -> str:
    """Name of the class of transformers that `hf` is, or that its own class was made from."""
    return next(kind.__name__ for kind in type(hf).__mro__ if kind.__module__.startswith("transformers."))


def note_tokens_beyond(tokenizer: PreTrainedTokenizerBase, rows: int, name: str, stacklevel: int) -> None:
    """Warn of tokens of the tokenizer that the word embedding, of so many `rows`, has no row for.

    Warns:
        TracerNote: there are some.
    """
    vocabulary: dict[str, Any] = tokenizer.get_vocab()
    beyond = sorted((place, token) for token, place in vocabulary.items() if place >= rows)
    if beyond:
        some = ", ".join(repr(token) for _, token in beyond[:3]) + (", ..." if len(beyond) > 3 else "")
        warnings.warn(
            f"the tokenizer of {name!r} has {len(beyond)} tokens ({some}) that the model has no row for; texts "
            "with them are refused. Is it this model's tokenizer?",
            TracerNote,
            stacklevel=stacklevel,
        )


def _peft(part: nn.Module) -> bool:
    return type(part).__module__.split(".")[0] == "peft"
