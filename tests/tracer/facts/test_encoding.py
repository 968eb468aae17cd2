"""A text that brings its special tokens itself is the same ids as one that does not, wherever text becomes ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import SENTENCES, metaspace
from tokenizers.processors import TemplateProcessing

from editing.covariance.text import windows
from editing.health.drift import windows as drift_windows
from editing.questions.target_scores import target_log_probs
from editing.questions.text_metrics import essence_perplexity
from tracer import Model, TracerError, attribute_neurons, causal_trace, generate
from tracer.facts.encoding import added_ids, body_ids, encode
from tracer.facts.fact import Fact

TEXT = " ".join(SENTENCES[:3])


def test_numbers_of_a_rendered_text_are_those_of_the_bare_one(tiny: Callable[[str], Model]) -> None:
    model = tiny("llama")
    facts = [Fact(f"{front}{{}} is in", "The Space Needle", "Paris") for front in ("", "<s>")]
    bare, given = (causal_trace(model, fact, max_rows=4) for fact in facts)
    assert bare.clean == given.clean
    np.testing.assert_allclose(bare.scores, given.scores, atol=1e-6)
    one, two = (attribute_neurons(model, fact, steps=2).scores for fact in facts)
    np.testing.assert_allclose(one, two, atol=1e-6)
    scores = target_log_probs(model, [fact.text for fact in facts], "Paris").sums
    assert scores[0] == scores[1]
    texts = generate(model, [fact.text for fact in facts], max_new_tokens=4)
    assert texts[0] == texts[1]
    assert essence_perplexity(model, [TEXT]) == essence_perplexity(model, [f"<s>{TEXT}"])


def test_running_text_begins_once(tiny: Callable[[str], Model]) -> None:
    model = tiny("llama")
    bos = model.tokenizer.bos_token_id
    for given in ([TEXT, TEXT], [f"<s>{TEXT}", f"<s>{TEXT}"]):
        with windows(model, given, 16, None) as found:
            rows = found.rows(0, len(found.ends))
        assert all(row[0] == bos and bos not in row[1:] for row in rows)
        assert len(rows) == len(rows[: len(rows) // 2]) * 2
    plain, lead = drift_windows(model, TEXT, None, 16)
    rendered, same = drift_windows(model, f"<s>{TEXT}", None, 16)
    assert torch.equal(plain, rendered) and lead == same == 1


def test_several_tokens_in_front_are_one_beginning() -> None:
    toks: Any = metaspace()
    toks.add_special_tokens({"additional_special_tokens": ["[g]", "[s]"]})
    pair = [(name, toks.convert_tokens_to_ids(name)) for name in ("[g]", "[s]")]
    toks.backend_tokenizer.post_processor = TemplateProcessing(single="[g] [s] $A", special_tokens=pair)
    ids = [i for _, i in pair]
    assert added_ids(toks) == (ids, [])
    plain, _ = encode(toks, "The Space")
    assert plain[:2] == ids and encode(toks, "[g][s]The Space")[0] == plain
    assert body_ids(toks, "[g][s]The Space") == body_ids(toks, "The Space") == plain[2:]
    assert encode(toks, "[s]The Space")[0] == [*ids, *encode(toks, "[s]The Space")[0][2:]]  # not the same beginning


def test_half_a_character_is_named_in_running_text(tiny: Callable[[str], Model]) -> None:
    for go in (lambda t: drift_windows(tiny("gpt2"), t, None, 8), lambda t: essence_perplexity(tiny("gpt2"), [t])):
        with pytest.raises(TracerError, match=r"holds half a character, U\+DCE9 at 3: .* read it as UTF-8 again"):
            go("caf\udce9 is old and small and nice")
