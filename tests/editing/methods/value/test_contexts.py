"""Context templates: sampled from the model, or given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing.methods.value.context_templates import STARTS, as_templates, context_templates, fill
from tracer import TracerError
from tracer.model import Model


def test_templates_are_a_bare_one_and_sampled_prefixes(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    bare, sampled = context_templates(model, [(4, 7), (9, 3)], seed=1)
    assert bare == ("{}",)
    assert len(sampled) == 10
    for text in sampled:
        assert text.startswith(STARTS)
        assert text.endswith(". {}") and text.count("{") == text.count("}") == 1
        assert "\n" not in text
    assert all(any(text.startswith(start) for text in sampled) for start in STARTS)


def test_the_seed_decides_and_nothing_else(tiny: Callable[[str], Model]) -> None:
    model = tiny("llama")
    torch.manual_seed(0)
    one = context_templates(model, [(6, 5)], seed=1)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    assert context_templates(model, [(6, 5)], seed=1) == one
    assert context_templates(model, [(6, 5)], seed=2) != one
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # the global state was not drawn from


def test_prefixes_are_drawn_from_the_likeliest_tokens(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    _, sampled = context_templates(model, [(2, 50)], seed=0)
    ids = torch.tensor([model.tokenizer("The")["input_ids"]])
    with torch.no_grad():
        top = model.hf(ids).logits[0, -1].topk(6).indices.tolist()
    allowed = {
        str(model.tokenizer.decode([*ids[0].tolist(), token])).strip().rstrip(".!?,;: ")
        for token in top
        if token not in model.tokenizer.all_special_ids
    }
    drawn = {text.removesuffix(". {}") for text in sampled if text.startswith("The") and "Therefore" not in text}
    assert (
        len(ids[0]) == 1 and drawn and all(" ".join(a.split()) in {" ".join(b.split()) for b in allowed} for a in drawn)
    )


def test_no_prefixes(tiny: Callable[[str], Model]) -> None:
    assert context_templates(tiny("gpt2"), [], seed=0) == (("{}",),)


def test_templates_given_as_texts_or_as_kinds() -> None:
    assert as_templates(["{}", "A. {}", "B. {}"]) == (("{}",), ("A. {}", "B. {}"))
    assert as_templates([["{}"], ["A. {}"], ["B. {}"]]) == (("{}",), ("A. {}",), ("B. {}",))
    assert as_templates(["{}"]) == (("{}",),)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], 'the first context template is the bare prompt, "{}"'),
        (["A. {}"], 'the first context template is the bare prompt, "{}"'),
        (["{}", "no slot"], "'no slot' holds {} 0 times"),
        (["{}", "{} and {}"], "holds {} 2 times"),
        (["{}", ["A. {}"]], "these are both"),
    ],
)
def test_templates_that_are_none(wrong: list, message: str) -> None:
    with pytest.raises(TracerError, match=message.replace("{", r"\{").replace("}", r"\}")):
        as_templates(wrong)


@given(st.text(alphabet="ab. {}", max_size=12), st.text(alphabet="cd {", max_size=8))
def test_filling_keeps_the_prompts_own_slot(before: str, after: str) -> None:
    if "{}" in before or "{}" in after or "{}" in before + "{}" + after.replace("{", ""):
        before = before.replace("{", "").replace("}", "")
    after = after.replace("{", "")
    assert fill(before + "{}" + after, "{} is in") == before + "{} is in" + after
