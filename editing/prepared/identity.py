"""Hashes of what a preparation depends on besides the weights: the tokenizer and the records."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from tracer.facts.encoding import added_ids

if TYPE_CHECKING:
    from editing.questions.record import EditRecord
    from tracer.model import Model


def tokenizer_hash(model: Model) -> str:
    """BLAKE3 hash of what a model's tokenizer makes of texts: its pieces and rules, and the tokens it adds itself.

    Args:
        model: with the tokenizer.
    """
    tokenizer: Any = model.tokenizer
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is not None:
        rules = json.loads(inner.to_str())
        for name in ("truncation", "padding"):  # settings of calls, which a tokenizer remembers
            rules.pop(name, None)
    else:
        rules = sorted(tokenizer.get_vocab().items())
    own = [type(tokenizer).__name__, len(tokenizer), added_ids(tokenizer), rules]
    return blake3(json.dumps(own, sort_keys=True).encode()).hexdigest()


def records_hash(records: Iterable[EditRecord]) -> str:
    """BLAKE3 hash of records in their order; "" for none.

    Args:
        records: with all that is in them.
    """
    lines = [json.dumps(record.model_dump(mode="json"), sort_keys=True) for record in records]
    return blake3("\n".join(lines).encode()).hexdigest() if lines else ""
