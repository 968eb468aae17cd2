"""What is true of every memory: it changes nothing but what it is asked for, and a row's answer is that row's alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import own
from toys import TOYS, Preface, toy, vectors

import tracer
from editing.memories import KINDS, Memory, MemoryChange, attach, attached, detach, folded, load_memory
from tracer import Fact, GaussianNoise, Model, TracerError
from tracer.engine import Line, Row, Site, capture, intervene, kv_cache, set_memories
from tracer.engine.answer import own_answer
from tracer.engine.batch import frame_of, logits_of
from tracer.engine.follow import follow
from tracer.engine.partial import Ability, Suffix
from tracer.engine.sites import Add, Replace

ARCHITECTURES = ("gpt2", "llama", "gemma3", "neox")
TEXTS = ("The Space Needle is in", "Miles Davis plays the", "The mother tongue of Dvořák is Spanish. Yo-Yo Ma is", "a")
Tiny = Callable[[str], Model]


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, place in TOYS.items():
        monkeypatch.setitem(KINDS, name, place)


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tiny: Tiny) -> Iterator[Model]:
    found = tiny(request.param)
    before = found.fingerprint()
    yield found
    set_memories(found, [])
    assert found.fingerprint() == before


@pytest.fixture
def gpt2(tiny: Tiny) -> Iterator[Model]:
    yield (found := tiny("gpt2"))
    set_memories(found, [])


def ids_of(model: Model, text: str) -> tuple[int, ...]:
    return tuple(Fact(text, text).align(model).input_ids)


def some_toys(model: Model) -> list[Memory]:
    """A memory that hits the first two texts, at each kind of site."""
    prompts = [ids_of(model, text) for text in TEXTS[:2]]
    return [
        toy(model, prompts, vectors(model, 2), site=site, layer=layer)
        for site, layer in (("hidden", 1), ("mlp", 2), ("mlp_in", model.n_layers - 1), ("value", 0))
    ]


def lines(model: Model, tokens: int = 6) -> list[Line]:
    targets = ((7, 8, 9), (7, 5), (11,))
    return [Line(ids_of(model, text), targets, tokens=tokens) for text in TEXTS]


def read(model: Model, texts: tuple[str, ...] = TEXTS, **options: Any) -> tuple[list[np.ndarray], list[tuple]]:
    """Log-probabilities of forced targets, and what is written, for each text."""
    wanted = [line for line, text in zip(lines(model), TEXTS, strict=True) if text in texts]
    found = follow(model, wanted, **options)
    return [np.concatenate(each.log_probs) for each in found], [each.written for each in found]


def close(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
    return all(np.allclose(a, b, rtol=0, atol=2e-4) for a, b in zip(one, two, strict=True))


def inventory(model: Model) -> dict[str, Any]:
    """All that hooks must leave alone."""
    hf = model.hf
    return {
        "parameters": [(name, id(p), p.data_ptr(), p.requires_grad) for name, p in hf.named_parameters()],
        "buffers": [(name, id(b)) for name, b in hf.named_buffers()],
        "types": [(name, type(m)) for name, m in hf.named_modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in hf.modules()],
        "attributes": sorted(vars(hf)),
        "training": [m.training for m in hf.modules()],
        "fingerprint": model.fingerprint(),
    }


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

    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = gpt2.module("hidden", 2).register_forward_hook(broken)
    with pytest.raises(KeyboardInterrupt):
        read(gpt2)
    handle.remove()
    assert inventory(gpt2) == before
    handle = gpt2.module("hidden", 2).register_forward_hook(broken)
    with pytest.raises(KeyboardInterrupt):
        gpt2.hf(torch.tensor([ids_of(gpt2, TEXTS[0])]))
    handle.remove()
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
        for prompt, written in zip(prompts, expected, strict=True):
            ids = torch.tensor([prompt])
            options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
            made = model.hf.generate(ids, attention_mask=torch.ones_like(ids), **options)
            assert tuple(made[0, len(prompt) :].tolist())[: len(written)] == written
        longest = max(map(len, prompts))
        alone = [model.hf(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
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


# --- as values -------------------------------------------------------------------------------------------------------
def grown(model: Model, count: int = 4) -> list[Memory]:
    """Memories of 1, 2, ... entries, of which the last but one overwrites the first."""
    prompts = [ids_of(model, text) for text in TEXTS]
    rows = vectors(model, count)
    found = [toy(model, prompts[:n], rows[:n]) for n in range(1, count)]
    changed = rows[: count - 1].clone()
    changed[0] = vectors(model, seed=9)[0]
    return [*found, toy(model, prompts[: count - 1], changed)]


def test_changes_one_by_one_are_the_folded_memory(gpt2: Model) -> None:
    states = grown(gpt2)
    pairs = list(zip([None, *states], states, strict=False))
    changes = [MemoryChange.between(one, two) for one, two in pairs]
    assert [len(change.rows["vectors"]) for change in changes] == [
        1,
        1,
        1,
        3,
    ]  # of what is new; then one is overwritten
    assert folded(None, changes).digest == states[-1].digest  # type: ignore[union-attr]
    assert folded(None, changes[:2]).digest == states[1].digest  # type: ignore[union-attr]
    gone = MemoryChange.between(states[-1], None)
    assert folded(None, [*changes, gone]) is None
    with pytest.raises(TracerError, match=r"begins with the memory 'toy' .*, but the model has no memory 'toy'; make"):
        changes[1].on(None)
    with pytest.raises(TracerError, match=r"leads to the memory 'toy' .* its file was changed"):
        replace(changes[0], rows={"vectors": changes[0].rows["vectors"] + 1}).on(None)
    with pytest.raises(TracerError, match="a change goes from a memory to another of its name"):
        MemoryChange.between(states[0], replace(states[0], name="other"))


def test_saved_loaded_and_attached_it_gives_the_same_bits(model: Model, tmp_path: Path) -> None:
    memory = some_toys(model)[1]
    again = load_memory(memory.save(tmp_path / "m"))
    assert again.digest == memory.digest and again.header == memory.header
    with attached(model, memory):
        one = read(model)
        print_one = model.fingerprint()
    with attached(model, again):
        two = read(model)
        assert model.fingerprint() == print_one
    assert all(np.array_equal(a, b) for a, b in zip(one[0], two[0], strict=True)) and one[1] == two[1]


def test_the_last_of_two_targets_of_a_prompt_wins(model: Model) -> None:
    *_, before, after = grown(model)
    with attached(model, before):
        one = read(model)[0]
    with attached(model, after):
        two = read(model)[0]
    with attached(model, toy(model, [ids_of(model, TEXTS[0])], vectors(model, seed=9))):
        alone = read(model)[0]
    assert not close(one[:1], two[:1]) and close(two[:1], alone[:1]) and close(one[1:], two[1:])


def test_a_copy_of_the_module_has_the_memory_and_its_own_hooks(gpt2: Model) -> None:
    memory = some_toys(gpt2)[0]
    bare = read(gpt2)[0]
    attach(gpt2, memory)
    copy = own(gpt2)
    assert copy.fingerprint() == gpt2.fingerprint() and copy.memories[0] is memory
    here = read(gpt2)[0]
    detach(gpt2, "toy")
    assert all(np.array_equal(a, b) for a, b in zip(read(copy)[0], here, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(read(gpt2)[0], bare, strict=True))
    detach(copy, "toy")
    assert inventory(copy)["hooks"] == inventory(gpt2)["hooks"] and copy.fingerprint() == gpt2.fingerprint()


# --- refusals --------------------------------------------------------------------------------------------------------
def test_memories_that_do_not_fit_are_refused_with_the_repair(gpt2: Model, tiny: Tiny, tmp_path: Path) -> None:
    before = inventory(gpt2)
    memory = some_toys(gpt2)[0]
    with pytest.raises(TracerError, match=r"was made on the weights .*load the model it was made for, or pass anyway"):
        attach(gpt2, replace(memory, fingerprint="0" * 64))
    wide = toy(gpt2, [(1, 2)], torch.ones(1, 5))
    with pytest.raises(TracerError, match=r"is \[1, 5\]; expected a last dimension of 32, the d_model"):
        attach(gpt2, wide, anyway=True)
    with pytest.raises(TracerError, match="the tensor 'vectors' of the memory 'toy' is missing"):
        attach(gpt2, replace(memory, tensors={}))
    with pytest.raises(TracerError, match=r"does not fit .*layer 99 .* out of range.*make it on this model"):
        attach(gpt2, toy(gpt2, [(1,)], vectors(gpt2), layer=99))
    with pytest.raises(TracerError, match="holds NaN or infinity; nothing was attached"):
        toy(gpt2, [(1,)], torch.full((1, 32), torch.nan))
    with pytest.raises(TracerError, match="cannot be written as json"):
        replace(memory, header={"text": torch.ones(1)})
    with pytest.raises(TracerError, match=r"there is no kind of memory 'grass'; known are: .*toy"):
        replace(memory, kind="grass")
    assert inventory(gpt2) == before
    attach(gpt2, memory)
    with pytest.raises(TracerError, match="cannot have two memories named 'toy'; give one of them another name"):
        attach(gpt2, some_toys(gpt2)[1])
    assert gpt2.memories == (memory,)
    detach(gpt2, "toy")
    with pytest.raises(TracerError, match="has no memory 'toy'; it has none"):
        detach(gpt2, "toy")
    path = memory.save(tmp_path / "m")
    whole = path.read_bytes()
    for count in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:count])
        with pytest.raises(TracerError, match="is not a saved Memory"):
            load_memory(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TracerError, match="its content is damaged"):
        load_memory(path)
    assert inventory(gpt2) == before


def test_what_cannot_hold_a_memory_says_so(gpt2: Model, tmp_path: Path) -> None:
    attach(gpt2, some_toys(gpt2)[0])
    with pytest.raises(TracerError, match=r"has the memories 'toy', which a Hugging Face folder cannot.*edit.save"):
        tracer.model.save(gpt2, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    with pytest.raises(TracerError, match="which a TransformerBridge cannot have; take them off first"):
        gpt2.bridge()


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
