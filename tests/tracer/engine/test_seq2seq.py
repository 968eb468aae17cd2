"""Encoder-decoder models in one row: the same numbers as transformers, and hooks that leave them alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stacked import NAMES, fact_for, stacked
from torch import Tensor

from tracer.engine import Add, Replace, Row, Site, Suffix, capture, generate, intervene
from tracer.engine.batch import pad
from tracer.engine.hooks import as_ids
from tracer.engine.layout import MARK
from tracer.engine.memories import forward
from tracer.engine.partial import Ability
from tracer.engine.sweep import record, sweep
from tracer.errors import MaskedModelError, SiteError, TextWithoutTokens
from tracer.facts import Fact, Readout, prompt_ids
from tracer.facts.prompt import source_length
from tracer.model import Model


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Model:
    return stacked(request.param)


def readout_of(model: Model, fact: Fact) -> Readout:
    return Readout.of(model, fact.align(model))


def push(model: Model) -> Tensor:
    """A change of a state that no norm takes out again, as it would one by the same number everywhere."""
    return torch.linspace(-1, 1, model.d_model) ** 3 * 3


def by_labels(model: Model, fact: Fact) -> Tensor:
    """Logits [k, V] at the answer, with the library's own shift of labels."""
    readout = readout_of(model, fact)
    source = source_length(model, readout.ids)
    hf: Any = model.hf
    # all that the decoder is to write: its own front, without the start that the shift puts there, and the target
    labels = [*readout.ids[source + 1 : readout.read[0] + 1], *readout.target]
    with torch.no_grad():
        logits = hf(input_ids=torch.tensor([readout.ids[:source]]), labels=torch.tensor([labels])).logits
    return logits[0, -len(readout.target) :]


def logits_of(model: Model, fact: Fact) -> Tensor:
    readout = readout_of(model, fact)
    with torch.no_grad():
        return forward(model, torch.tensor([readout.ids])).logits[0, list(readout.read)]


def test_logits_are_those_of_the_library(model: Model) -> None:
    for fact in (fact_for(model), Fact("Where is {}?", "Paris", "Rome and Milan")):
        assert len(readout_of(model, fact).target) > 1
        torch.testing.assert_close(logits_of(model, fact), by_labels(model, fact), atol=1e-5, rtol=0)


def test_a_target_is_not_what_predicts_it(model: Model) -> None:
    """The published off-by-one: targets given unshifted are read where they stand, so that copying looks right."""
    readout = readout_of(model, fact_for(model))
    assert not set(readout.target) & {readout.ids[position] for position in readout.read[:1]}
    for position, token in zip(readout.read[1:], readout.target[:-1], strict=True):
        assert readout.ids[position] == token  # what is given at a step is the token before the one read there
    other = [*readout.ids]
    other[readout.read[-1]] = (other[readout.read[-1]] + 1) % 100
    with torch.no_grad():
        both = forward(model, torch.tensor([readout.ids, other])).logits[:, list(readout.read)]
    torch.testing.assert_close(both[0, :-1], both[1, :-1], atol=1e-6, rtol=0)  # what is given later changes nothing
    assert (both[0, -1] - both[1, -1]).abs().max() > 1e-3


def test_rows_of_other_lengths_share_a_forward(model: Model) -> None:
    facts = [fact_for(model), Fact("Where?", "Where", "Rome"), Fact.span(model, "{} " + "is " * 4, "Paris", "in")]
    rows = [readout_of(model, fact) for fact in facts]
    assert len({source_length(model, row.ids) for row in rows}) == 3
    with torch.no_grad():
        logits = forward(model, pad([row.ids for row in rows])).logits
    for found, row, fact in zip(logits, rows, facts, strict=True):
        torch.testing.assert_close(found[list(row.read)], logits_of(model, fact), atol=1e-5, rtol=0)


def test_putting_states_where_they_are_changes_no_bit(model: Model) -> None:
    """Every site of both stacks, at every token, also where rows have sources of other lengths."""
    rows = [readout_of(model, fact) for fact in (fact_for(model), Fact("Where?", "Where", "Rome"))]
    ids = pad([row.ids for row in rows])
    sites = [Site("embed")]
    for stack, layers in model.stacks.items():
        kinds = ("hidden", "attn", "mlp", "key", "pre", *(("cross",) if stack == "decoder" else ()))
        sites += [Site(kind, layer) for layer in layers for kind in kinds]
    with torch.no_grad():
        states = capture(model, ids, sites)
        clean = forward(model, ids).logits
        with intervene(model, [Replace(site, states[site]) for site in sites]):
            again = forward(model, ids).logits
        with intervene(model, [Add(Site("mlp", model.stacks["decoder"][0]), push(model))]):
            changed = forward(model, ids).logits
    for found, row in zip((again, changed), rows, strict=True):
        assert found.shape == clean.shape and row.ids
    places = [(i, position) for i, row in enumerate(rows) for position in row.read]
    assert all(torch.equal(again[place], clean[place]) for place in places)
    assert all((changed[place] - clean[place]).abs().max() > 1e-3 for place in places)
    assert not hasattr(model.hf, MARK) and not model.hf._forward_hooks and not model.hf._forward_pre_hooks


def test_the_stream_is_the_sum_of_its_parts(model: Model) -> None:
    if model.name == "bart":
        pytest.skip("its norms come behind the sums")
    ids = as_ids(model, prompt_ids(model, "The city of Paris is"))
    source = source_length(model, ids[0].tolist())
    layer = model.stacks["decoder"][1]
    kinds = ("hidden", "attn", "cross", "mlp")
    with torch.no_grad():
        found = capture(model, ids, [Site(kind, layer, source) for kind in kinds] + [Site("hidden", layer - 1, source)])
    parts = sum(found[Site(kind, layer, source)] for kind in kinds[1:])
    before, after = found[Site("hidden", layer - 1, source)], found[Site("hidden", layer, source)]
    torch.testing.assert_close(after - before, parts, atol=1e-6, rtol=0)


def test_calls_by_others_are_laid_out_too(model: Model) -> None:
    ids = as_ids(model, prompt_ids(model, "The city of Paris is"))
    source = source_length(model, ids[0].tolist())
    item = Add(Site("hidden", 0, 2), push(model))
    parts = {"input_ids": ids[:, :source], "decoder_input_ids": ids[:, source:]}
    with torch.no_grad(), intervene(model, [item]):
        ours, theirs = forward(model, ids).logits[:, source:], model.hf(**parts).logits
        with pytest.raises(SiteError, match="whose tokens are counted"):
            model.hf(input_ids=ids[:, :source], labels=ids[:, source:])
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    with torch.no_grad():
        assert (model.hf(**parts).logits - theirs).abs().max() > 1e-3
    assert not hasattr(model.hf, MARK)


def test_a_sweep_equals_runs_one_by_one(model: Model) -> None:
    readout = readout_of(model, fact_for(model))
    edges = (0, model.stacks["encoder"][-1], model.stacks["decoder"][0], model.n_layers - 1)
    places = [(kind, layer) for layer in edges for kind in ("hidden", "mlp")] + [
        ("cross", edges[2]),
        ("cross", edges[3]),
    ]
    branches = []
    for kind, layer in places:
        token = 1 if layer in model.stacks["encoder"] else readout.read[0]
        branches.append([Add(Site(kind, layer, token), push(model))])
    branches.append([*branches[0], *branches[-1]])
    with torch.no_grad():
        base = record(model, torch.tensor([readout.ids, readout.ids]), read=readout.read)
        found = sweep(model, base, branches, lambda logits: logits, max_rows=5)
        for branch, logits in zip(branches, found, strict=True):
            with intervene(model, branch):
                expected = forward(model, base.ids).logits[:, list(readout.read)]
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
            assert (logits - base.logits).abs().max() > 1e-4


def test_text_is_written_as_the_library_writes_it(model: Model) -> None:
    hf: Any = model.hf
    text = "Where is Paris?"
    source = model.tokenizer(text, return_tensors="pt")
    written = hf.generate(input_ids=source["input_ids"], max_new_tokens=7, num_beams=1, use_cache=False)[0].tolist()
    front = len(prompt_ids(model, text)) - source["input_ids"].shape[1]
    expected = written[front:]
    ends = {hf.config.eos_token_id, model.tokenizer.get_vocab().get("<extra_id_1>")}
    stop = next((place for place, token in enumerate(expected) if token in ends), len(expected))
    found = generate(model, text, max_new_tokens=len(expected))[0]
    assert found == model.tokenizer.decode(expected[:stop], clean_up_tokenization_spaces=False)


def test_prompts_that_no_row_can_be_made_of(model: Model) -> None:
    mark = "<mask>" if model.name == "bart" else "<extra_id_0>"
    with pytest.raises(MaskedModelError, match="2 times; write it once"):
        Fact(f"{{}} is {mark} {mark}", "Paris", "in").align(model)
    with pytest.raises(TextWithoutTokens, match="a source has one, its last token"):
        prompt_ids(model, "Paris</s> is")
    with pytest.raises(SiteError, match="no end of a source"):
        forward(model, torch.tensor([[5, 6, 7]]))
    with pytest.raises(SiteError, match="the encoder, which has no cross-attention"):
        model.path("cross", 0)


def test_a_folder_is_loaded_as_it_was_saved(model: Model, tmp_path: Any) -> None:
    from tracer.model import load

    model.hf.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert (again.style, again.stacks, again.causal) == ("seq2seq", model.stacks, True)
    torch.testing.assert_close(logits_of(again, fact_for(again)), logits_of(model, fact_for(model)), atol=0, rtol=0)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_some_rows_go_on_from_a_block_when_the_longest_have_ended(model: Model, stack: str) -> None:
    facts = [Fact.span(model, "The city of {} is in", subject, " Rome") for subject in ("Rome", "Paris in the north")]
    rows = []
    for fact in facts:
        readout = readout_of(model, fact)
        rows.append(Row(readout.ids, fact.align(model).subject_range[1] - 1, readout.read, readout.target))
    start = model.stacks[stack][1]
    given = (model, Ability.of(model, rows[0]))
    whole, _ = Suffix.recorded(*given, rows, start, [])
    delta = {("hidden", start - 1): push(model)[None]} if stack == "encoder" else {}
    for kept in ([0], [1]):
        alone, _ = Suffix.recorded(*given, [rows[kept[0]]], start, [])
        with torch.no_grad():
            found, expected = whole.select(kept).logp(delta), alone.logp(delta)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
