"""What is true of every memory: it changes nothing but what it is asked for, and a row's answer is that row's alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import TEXTS, close, ids_of, inventory, lines, read, some_toys
from handmade import own
from toys import Preface, toy, vectors

import tracer
from editing.memories import Memory, attach, attached
from tracer import Fact, GaussianNoise, Model, TracerError
from tracer.engine import Line, Row, Site, capture, intervene, kv_cache, set_memories
from tracer.engine.answer import own_answer
from tracer.engine.batch import frame_of, logits_of
from tracer.engine.follow import follow
from tracer.engine.partial import Ability, Suffix
from tracer.engine.sites import Add, Replace
from tracer.engine.sweep import record

Tiny = Callable[[str], Model]


# --- nothing is left, nothing is touched -----------------------------------------------------------------------------
def test_a_memory_that_was_attached_leaves_everything_as_it_was(model: Model, tmp_path: Path) -> None:
    before, state = inventory(model), torch.random.get_rng_state()
    model.hf.save_pretrained(tmp_path / "before")
    for memory in some_toys(model):
        with attached(model, memory):
            now = inventory(model)
            assert all(now[name] == before[name] for name in ("parameters", "buffers", "types", "training"))
            assert now["fingerprint"] != before["fingerprint"] == model.weights_fingerprint()
            read(model)
            capture(model, TEXTS[0], [Site("hidden", 1)])
            assert inventory(model) == now  # hooks are there only while a forward runs
            model.hf.save_pretrained(tmp_path / "with")
        assert inventory(model) == before
    for file in (tmp_path / "before").iterdir():
        assert (tmp_path / "with" / file.name).read_bytes() == file.read_bytes()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_forward_that_is_broken_off_leaves_no_hook(gpt2: Model) -> None:
    attach(gpt2, some_toys(gpt2)[0])
    before = inventory(gpt2)
    hit = torch.tensor([ids_of(gpt2, TEXTS[0])])
    logits = gpt2.hf(hit).logits

    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = gpt2.module("hidden", 2).register_forward_hook(broken)
    with pytest.raises(KeyboardInterrupt):
        read(gpt2)
    handle.remove()
    assert inventory(gpt2) == before
    handle = gpt2.module("hidden", 2).register_forward_hook(broken)
    with pytest.raises(KeyboardInterrupt):
        gpt2.hf(hit)
    handle.remove()
    assert torch.equal(gpt2.hf(hit).logits, logits)
    assert gpt2.hf(torch.tensor([ids_of(gpt2, TEXTS[3])])).logits.isfinite().all()
    assert inventory(gpt2) == before


def test_an_empty_memory_and_every_miss_give_the_same_bits(model: Model) -> None:
    missed = TEXTS[2:]
    bare, whole = read(model, missed), read(model)
    ids = torch.tensor([ids_of(model, TEXTS[3])])
    logits = model.hf(ids).logits
    sites = [Site(kind, 1) for kind in ("hidden", "mlp", "key", "mlp_in")]
    states = capture(model, TEXTS[2], sites)
    empty = toy(model, [], torch.zeros(0, model.d_model))
    for memory in [*some_toys(model), empty]:
        with attached(model, memory):
            found = read(model, missed)
            assert all(np.array_equal(a, b) for a, b in zip(found[0], bare[0], strict=True)) and found[1] == bare[1]
            assert torch.equal(model.hf(ids).logits, logits)
            assert all(torch.equal(state, states[site]) for site, state in capture(model, TEXTS[2], sites).items())
    with attached(model, empty):
        assert all(np.array_equal(a, b) for a, b in zip(read(model)[0], whole[0], strict=True))


# --- what it does ----------------------------------------------------------------------------------------------------
def test_a_hit_is_what_the_same_hook_by_hand_gives(model: Model) -> None:
    """From the prompt's last token on, in every way of asking, against one plain forward of prompt and target."""
    bare = read(model)[0]
    for memory in some_toys(model):
        site = Site(memory.header["site"], memory.header["layer"])
        expected = []
        for line, entry in zip(lines(model)[:2], (0, 1), strict=True):
            for target in line.targets:
                ids = torch.tensor([(*line.ids, *target)])
                added = torch.zeros(ids.shape[1], model.d_model)
                added[len(line.ids) - 1 :] = memory.tensors["vectors"][entry]
                with torch.no_grad(), intervene(model, [Add(site, added)]):
                    logits = model.hf(ids).logits[0].log_softmax(-1)
                places = torch.arange(len(line.ids) - 1, ids.shape[1] - 1)
                expected.append(logits[places, torch.tensor(target)].double().numpy())
        with attached(model, memory):
            found = read(model)[0]
        assert close([np.concatenate(found[:2])], [np.concatenate(expected)])
        assert np.abs(found[0] - bare[0]).max() > 0.05 and close(found[2:], bare[2:])


@pytest.mark.parametrize("cached", [True, False])
def test_a_rows_answer_is_its_own(model: Model, cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rows are beside it, however many share a forward, with and without keys and values kept."""
    memory = some_toys(model)[0]
    bare = read(model)[1]
    if not cached:
        monkeypatch.setattr(kv_cache.Prefix, "read", lambda *_: None)
    with attached(model, memory):
        whole = read(model)
        assert whole[1][0] != bare[0] or whole[1][1] != bare[1]
        for max_rows in (1, 2, 3):
            found = read(model, max_rows=max_rows)
            assert close(found[0], whole[0]) and found[1] == whole[1]
        for place, text in enumerate(TEXTS):
            alone = read(model, (text,))
            assert close(alone[0], whole[0][place : place + 1]) and alone[1] == whole[1][place : place + 1]
        with monkeypatch.context() as patch:
            patch.undo()
            assert read(model)[1] == whole[1]


def test_what_is_forced_is_what_is_written_step_by_step(model: Model) -> None:
    """The decision of the prompt is kept: each token forced after those before it is the one that was written."""
    with attached(model, some_toys(model)[1]):
        for text, written in zip(TEXTS, read(model)[1], strict=True):
            (again,) = follow(model, [Line(ids_of(model, text), (written,))])
            assert tuple(again.best[0].tolist()) == written
            fact = Fact(text, text)
            assert own_answer(model, fact) == [written[0]]


def test_a_bare_call_of_the_module_has_the_memory_too(model: Model) -> None:
    """Of either padding, going on from its own cache, and through transformers' own generation."""
    with attached(model, some_toys(model)[0]):
        texts = TEXTS[:3]
        prompts = [ids_of(model, text) for text in texts]
        expected = read(model, texts)[1]
        hf: Any = model.hf
        for prompt, written in zip(prompts, expected, strict=True):
            ids = torch.tensor([prompt])
            options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
            made = hf.generate(ids, attention_mask=torch.ones_like(ids), **options)
            assert tuple(made[0, len(prompt) :].tolist())[: len(written)] == written
        longest = max(map(len, prompts))
        alone = [hf(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
        for left in (False, True):
            ids, mask = torch.zeros(3, longest, dtype=torch.long), torch.zeros(3, longest, dtype=torch.long)
            for row, prompt in enumerate(prompts):
                place = slice(longest - len(prompt), None) if left else slice(0, len(prompt))
                ids[row, place], mask[row, place] = torch.tensor(prompt), 1
            position = (mask.cumsum(1) - 1).clamp_min(0)
            logits = model.hf(ids, attention_mask=mask, position_ids=position).logits
            last = [longest - 1 if left else len(prompt) - 1 for prompt in prompts]
            for row, at in enumerate(last):
                assert torch.allclose(logits[row, at], alone[row], atol=2e-4)
            if not left:
                real = mask.bool()
                assert torch.allclose(logits_of(model, ids, real)[real], logits[real], atol=1e-5)


def test_a_cache_of_prompts_that_no_memory_saw_is_refused(gpt2: Model) -> None:
    ids = torch.tensor([ids_of(gpt2, TEXTS[0])])
    cache = gpt2.hf(ids, use_cache=True).past_key_values
    attach(gpt2, some_toys(gpt2)[0])
    with pytest.raises(TracerError, match=r"keys and values of prompts that its memories have not seen; run the pro"):
        gpt2.hf(ids[:, :1], past_key_values=cache)
    with pytest.raises(TracerError, match="was given embeddings; give input_ids"):
        gpt2.hf(inputs_embeds=torch.zeros(1, 2, gpt2.d_model))


def test_traces_are_of_the_model_with_its_memory(model: Model) -> None:
    """The branched sweep against the plain loop of whole forwards, on a prompt that is hit."""
    fact = Fact("{} is in", "The Space Needle")
    ids = ids_of(model, TEXTS[0])
    start, stop = fact.align(model).subject_range
    bare = tracer.causal_trace(model, fact, corruption=GaussianNoise(level=0.5, samples=2))
    for memory in some_toys(model):
        with attached(model, memory):
            trace = tracer.causal_trace(model, fact, corruption=GaussianNoise(level=0.5, samples=2))
            clean = model.hf(torch.tensor([ids])).logits[0, -1].softmax(-1).detach()
            answer = own_answer(model, fact)[0]
            assert trace.clean == pytest.approx(float(clean[answer]), abs=2e-5)
            noise = GaussianNoise(level=0.5, samples=2).corrupt(model, torch.tensor(ids), (start, stop), fact)
            for token, layer in ((start, 0), (stop - 1, 1), (len(ids) - 1, 2), (len(ids) - 1, model.n_layers - 1)):
                site = Site("hidden", layer, token)
                state = capture(model, list(ids), [site])[site]
                rows = noise.ids[1:]
                items = [replace(item, value=item.value[1:]) for item in noise.interventions]
                with torch.no_grad(), intervene(model, [*items, Replace(site, state)]):
                    p = model.hf(rows).logits[:, -1].softmax(-1)[:, answer]
                assert trace.scores[token, layer] == pytest.approx(float(p.mean()), abs=2e-5)
        assert trace.fingerprint != bare.fingerprint


def test_the_short_forward_of_an_optimised_value_has_the_memory(model: Model) -> None:
    """Blocks from a layer on and tokens from a lookup on, hit and missed rows together."""
    with attached(model, some_toys(model)[1]), torch.no_grad():
        rows = []
        for text in (TEXTS[0], TEXTS[2]):
            ids = ids_of(model, text)
            rows.append(Row((*ids, 7, 8), len(ids) - 2, (len(ids) - 1, len(ids), len(ids) + 1), (7, 8, 9)))
        suffix, _ = Suffix.recorded(model, Ability.of(model, rows[0]), rows, 1, [])
        short = suffix.run({})
        for row, found in zip(rows, short, strict=True):
            ids = torch.tensor([row.ids])
            whole = logits_of(model, ids, frame=frame_of(model, [row], ids.shape[1]))[0, list(row.read)]
            assert torch.allclose(whole.log_softmax(-1), found, atol=2e-4)
            recorded = record(model, ids, read=row.read).logits[0]  # the answer behind the prompt is not of it
            assert torch.allclose(recorded, whole, atol=2e-4)
            forced = np.concatenate(follow(model, [Line(row.ids[: row.read[0] + 1], (row.target,))])[0].log_probs)
            target = torch.tensor(row.target)
            assert np.allclose(found[range(3), target].numpy(), forced, atol=2e-4)


def test_decisions_by_the_models_own_state_are_of_the_bare_model(model: Model) -> None:
    """They do not see the memory itself, another memory, nor what shares the forward."""
    site = Site("hidden", model.n_layers - 1, -1)
    key = capture(model, list(ids_of(model, TEXTS[1])), [site])[site]
    header = {"site": "hidden", "layer": 0, "radius": 0.01}
    near = Memory("near", "near", model.weights_fingerprint(), {"keys": key, "vectors": vectors(model, seed=1)}, header)
    other = toy(model, [ids_of(model, TEXTS[1])], vectors(model, seed=2), layer=2)
    bare = read(model)
    with attached(model, near):
        one = read(model)
        assert not close(one[0][1:2], bare[0][1:2])
        assert close(one[0][2:], bare[0][2:]) and close(one[0][:1], bare[0][:1])
        with attached(model, other):
            both = read(model)
            assert not close(both[0][1:2], one[0][1:2])
            assert [memory.name for memory in model.memories] == ["near", "toy"]
    with attached(model, other), attached(model, near):  # the order of attaching does not count
        again = read(model)
        assert all(np.array_equal(a, b) for a, b in zip(again[0], both[0], strict=True))


def test_a_memory_that_reads_one_site_and_writes_another_acts_at_every_token(model: Model) -> None:
    header = {"layer": 1}
    tensors = {"keys": vectors(model, 2, 3, 1.0), "values": vectors(model, 2, 4, 1.0)}
    patch = Memory("patch", "patch", model.weights_fingerprint(), tensors, header)
    bare = read(model)
    with attached(model, patch):
        found = read(model)
        assert all(not close([a], [b]) for a, b in zip(found[0], bare[0], strict=True))
        for max_rows in (1, 2):
            assert close(read(model, max_rows=max_rows)[0], found[0])
        ids = ids_of(model, TEXTS[0])
        entered, site = Site("mlp_in", 1), Site("mlp", 1)
        states = capture(model, list(ids), [entered, site])
    plain = capture(model, list(ids), [entered, site])
    assert torch.equal(states[entered], plain[entered])  # read only
    added = torch.relu(plain[entered] @ tensors["keys"].T) @ tensors["values"]
    assert torch.allclose(states[site] - plain[site], added, atol=1e-4)


# --- asking another question -----------------------------------------------------------------------------------------
def test_a_memory_may_rewrite_the_question(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    known, front = ids_of(model, TEXTS[0]), ids_of(model, "a")
    memory = Memory("preface", "preface", model.weights_fingerprint(), {}, {"prompts": [known], "front": front})
    rewritten = [replace(line, ids=(*front, *line.ids)) if line.ids == known else line for line in lines(model)]
    expected = follow(model, rewritten)
    with attached(model, memory):
        found = follow(model, lines(model))
        scores = [[np.concatenate(each.log_probs) for each in some] for some in (found, expected)]
        assert close(*scores)
        assert [each.written for each in found] == [each.written for each in expected]
        with pytest.raises(TracerError, match=r"answers another question than the one that is put.*tracer.generate"):
            capture(model, list(known), [Site("hidden", 0)])
        other = own(model)
        set_memories(other, [])
        with torch.no_grad():
            for weight in other.hf.parameters():
                weight.mul_(1.1)
        monkeypatch.setattr(Preface, "answering", other)
        answered = follow(model, lines(model))
        assert answered[0].written == follow(other, rewritten[:1])[0].written
        assert [each.written for each in answered[1:]] == [each.written for each in expected[1:]]


def test_a_masked_model_decides_by_the_whole_prompt(tiny: Tiny) -> None:
    model = tiny("bert")
    fact = Fact("{} is in [MASK]", "The Space Needle")
    bare = own_answer(model, fact)
    ids = tuple(fact.align(model).input_ids)
    memory = toy(model, [ids], 20 * vectors(model), site="mlp_in", layer=1)
    other = Fact("{} is in [MASK]", "Miles Davis")
    missed = own_answer(model, other)
    with attached(model, memory):
        states = capture(model, list(ids), [Site("mlp_in", 1)])
        assert own_answer(model, other) == missed
        changed = follow(model, [Line(ids, ((1,),), first=fact.align(model).answer_position)])
    plain = capture(model, list(ids), [Site("mlp_in", 1)])
    difference = (states[Site("mlp_in", 1)] - plain[Site("mlp_in", 1)])[0]
    assert torch.allclose(difference[-1], memory.tensors["vectors"][0], atol=1e-4) and not difference[:-1].any()
    again = follow(model, [Line(ids, ((1,),), first=fact.align(model).answer_position)])
    assert own_answer(model, fact) == bare and again[0].log_probs[0][0] != changed[0].log_probs[0][0]
