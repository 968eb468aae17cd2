"""Scores of targets after prompts: equal to a plain loop on every architecture, whatever shares a forward."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from checkpoints import ARCHITECTURES

from editing.methods.value.prompts import rewriting_rows
from editing.questions.asking_records import ask_records
from editing.questions.measures import SCORED, edit_scores
from editing.questions.outcome import measure
from editing.questions.probes import Probes, texts
from editing.questions.question import Question
from editing.questions.record import EditRecord, Rewrite
from editing.questions.target_scores import prefers, target_log_probs
from editing.request import EditRequest
from tracer import Fact, Model, TracerError, factworld, load
from tracer.engine.answer import own_answer
from tracer.facts.readout import answer_text

PAIRS = (
    ("The Space Needle is in downtown", " Seattle"),
    ("The Space Needle is in downtown", " Paris"),  # shares its prompt
    ("The mother tongue of Miles Davis is", "Spanish"),
    ("The", " capital of France"),
    ("Yo-Yo Ma plays the", " cello in downtown Seattle"),
    ("Yo-Yo Ma plays the", " cello in downtown Seattl"),  # and the first tokens of its target
    ("The Eiffel Tower is in the heart of Paris, and Paris is the capital of", " Seattle"),
)
CAUSAL = [name for name in ARCHITECTURES if name != "bert"]


def one_by_one(model: Model, prompt: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    """The plain way: one forward over prompt and target, all logits."""
    found = Fact("{}", prompt, target).align(model)
    ids = torch.tensor([[*found.input_ids, *found.target_ids]])
    with torch.no_grad():
        logits = model.hf(input_ids=ids).logits[0]
    first = len(found.input_ids) - 1
    rows = logits.double().log_softmax(-1)[first : first + len(found.target_ids)]
    wanted = torch.tensor(found.target_ids)
    return rows.gather(-1, wanted[:, None])[:, 0].numpy(), (rows.argmax(-1) == wanted).numpy()


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("max_rows", [None, 2])
def test_equal_to_one_at_a_time(tiny: Callable[[str], Model], name: str, max_rows: int | None) -> None:
    model = tiny(name)
    before = model.fingerprint()
    found = target_log_probs(model, [p for p, _ in PAIRS], [t for _, t in PAIRS], max_rows=max_rows)
    for index, (prompt, target) in enumerate(PAIRS):
        log_probs, hits = one_by_one(model, prompt, target)
        np.testing.assert_allclose(found.log_probs[index], log_probs, atol=1e-5)
        assert found.hits[index].tolist() == hits.tolist()
        assert found.tokens[index] == len(log_probs)
        np.testing.assert_allclose(found.sums[index], log_probs.sum(), atol=1e-5 * len(log_probs))
        np.testing.assert_allclose(found.means[index], log_probs.mean(), atol=1e-5)
        np.testing.assert_allclose(found.accuracy[index], hits.mean())
        assert found.greedy[index] == hits.all()
    assert len(set(np.round(found.means, 5))) == len(PAIRS)  # the pairs can be told apart
    assert model.fingerprint() == before


def test_a_masked_model_reads_its_masks(tiny: Callable[[str], Model]) -> None:
    model = tiny("bert")
    prompts = ["the space needle is in [MASK].", "paris is the capital of the [MASK] of france", "[MASK] is in paris"]
    targets = ["downtown seattle", "capital", "downtown"]
    found = target_log_probs(model, prompts, targets)
    for index, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        aligned = Fact("{}", prompt, target).align(model)
        with torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([aligned.input_ids])).logits[0].double().log_softmax(-1)
        first = aligned.answer_position
        expected = [float(logits[first + j, token]) for j, token in enumerate(aligned.target_ids)]
        np.testing.assert_allclose(found.log_probs[index], expected, atol=1e-5)
    assert max(found.tokens) > 1


def test_logits_are_made_where_they_are_read(tiny: Callable[[str], Model]) -> None:
    model = tiny("llama")
    seen: list[tuple[int, ...]] = []
    handle = model.module("unembed").register_forward_hook(lambda _, args, output: seen.append(tuple(output.shape)))
    rows: list[int] = []
    counted = model.module("hidden", 0).register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        first = target_log_probs(model, "The Space Needle is in", [" Seattle", " Paris"])
        prefers(model, "The capital of", " q", " x")
    finally:
        handle.remove()
        counted.remove()
    vocabulary = model.hf.config.vocab_size
    assert first.tokens.tolist() == [2, 1]
    assert seen[0] == (1, 2, vocabulary)  # both begin after the prompt: one row, which reads the longer
    aligned = Fact("{}", "The capital of", " q").align(model)
    assert seen[1] == (1, len(aligned.target_ids), vocabulary)  # targets that differ in their last token: one row
    assert rows == [1, 1]
    assert not model.module("unembed")._forward_pre_hooks


def test_one_text_goes_with_several(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    prompts, targets = ["Miles Davis is in", "Yo-Yo Ma is in"], [" Paris", " Seattle"]
    one = target_log_probs(model, prompts, " Paris").sums
    both = target_log_probs(model, prompts, [" Paris"] * 2).sums
    np.testing.assert_array_equal(one, both)
    np.testing.assert_array_equal(
        target_log_probs(model, prompts[0], targets).sums, target_log_probs(model, [prompts[0]] * 2, targets).sums
    )
    assert target_log_probs(model, prompts[0], targets[0]).sums.shape == (1,)
    assert target_log_probs(model, [], []).sums.shape == (0,)


def test_prefers_compares_means_per_token(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    prompts = [p for p, _ in PAIRS]
    new, true = [t for _, t in PAIRS], [t for _, t in PAIRS[::-1]]
    expected = [
        one_by_one(model, p, a)[0].mean() > one_by_one(model, p, b)[0].mean()
        for p, a, b in zip(prompts, new, true, strict=True)
    ]
    assert prefers(model, prompts, new, true).tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert not prefers(model, prompts, new, new).any()  # strictly


def test_braces_are_plain_text(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    found = target_log_probs(model, "{} [x] {} is", " Paris")
    ids = model.tokenizer("{} [x] {} is")["input_ids"]
    target = model.tokenizer(" Paris")["input_ids"]
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([ids + target])).logits[0].log_softmax(-1)
    expected = sum(float(logits[len(ids) - 1 + j, t]) for j, t in enumerate(target))
    np.testing.assert_allclose(found.sums[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "b"], ["c"]), "2 prompts and 1 targets"),
        ((["a", ""], ["b", "c"]), "pair 1: the subject is empty"),
        ((["a", "b"], ["c", " "]), "pair 1: the target is empty"),
        (("a " * 70, "b"), "pair 0: .*the context"),
    ],
)
def test_bad_pairs_are_named(tiny: Callable[[str], Model], arguments: tuple, message: str) -> None:
    with pytest.raises(TracerError, match=message):
        target_log_probs(tiny("gpt2"), *arguments)
    with pytest.raises(TracerError, match="max_rows"):
        target_log_probs(tiny("gpt2"), "a", "b", max_rows=0)
    with pytest.raises(TracerError, match="2 prompts and 2 and 1 targets"):
        prefers(tiny("gpt2"), ["a", "b"], ["c", "d"], ["e"])


def test_numbers_that_are_none_are_refused(tiny_folder: Callable[[str], object]) -> None:
    model = load(str(tiny_folder("gpt2")))
    with torch.no_grad():
        next(model.module("final_norm").parameters()).fill_(torch.nan)
    with pytest.raises(TracerError, match="not numbers"):
        target_log_probs(model, "Paris is", " in")


# edits


@pytest.fixture(scope="module")
def world() -> Model:
    return load()


def asked(request: EditRequest, paraphrases: tuple[str, ...] = (), neighbours: tuple[str, ...] = ()) -> Probes:
    new, true = request.target_new, request.target_true
    prompts = {"rewrite": (request.text,), "paraphrase": paraphrases, "neighbour": neighbours}
    return Probes(tuple(Question.of(group, text, new, true) for group, texts in prompts.items() for text in texts))


def test_what_the_embedded_model_knows_scores_as_it_should(world: Model) -> None:
    records = factworld.records("validation")[:5]
    found = edit_scores(world, [Probes.of(record) for record in records])
    for name, expected in (("reliability", 0), ("generalisation", 0), ("locality", 1)):  # unedited
        assert found[name].shape == (5,)
        assert abs(np.nanmean(found[name]) - expected) < 0.05, name
        assert (np.nanmean(found[f"{name} margin"]) > 0) == (expected == 1)
    # with the targets exchanged, what is true is what is wanted
    requests = [EditRequest.of(record) for record in records]
    turned = [asked(EditRequest(r.prompt, r.subject, r.target_true or "", r.target_new)) for r in requests]
    again = edit_scores(world, turned)
    assert again["reliability"].mean() == 1
    np.testing.assert_allclose(again["reliability margin"], -found["reliability margin"], atol=1e-6)
    for name in ("generalisation", "locality"):
        assert np.isnan(again[name]).all()  # no prompts: missing, not zero
    assert edit_scores(world, turned, by="greedy")["reliability"].mean() == 1
    assert edit_scores(world, [Probes.of(record) for record in records], by="greedy")["reliability"].mean() == 0


def test_shares_and_margins_by_hand(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    request = EditRequest("{} is in", "The Space Needle", " Paris", " Seattle")
    paraphrases = ("Where is The Space Needle? In", "The Space Needle stands in", "One sees The Space Needle in")
    neighbours = ("Pike Place is in", "Miles Davis was in", "Boeing was in", "Yo-Yo Ma is in the")
    other = asked(EditRequest("{} plays the", "Miles Davis", " cello", " trumpet"))
    own = Question.of("same_subject", "The Space Needle was built by", " Paris", " France")  # no part of the measures
    probes = asked(request, paraphrases, neighbours)
    found = edit_scores(model, [other, Probes((*probes.questions, own))])

    def p(prompt: str, target: str) -> float:
        return float(np.exp(one_by_one(model, prompt, target)[0].mean()))

    for name, prompts, wanted, unwanted in (
        ("reliability", (request.text,), " Paris", " Seattle"),
        ("generalisation", paraphrases, " Paris", " Seattle"),
        ("locality", neighbours, " Seattle", " Paris"),
    ):
        pairs = [(p(prompt, wanted), p(prompt, unwanted)) for prompt in prompts]
        np.testing.assert_allclose(found[name][1], np.mean([a > b for a, b in pairs]))
        np.testing.assert_allclose(found[f"{name} margin"][1], np.mean([a - b for a, b in pairs]), atol=1e-6)
    assert np.isnan(found["locality"][0])
    assert set(found) == {*SCORED.values(), *(f"{name} margin" for name in SCORED.values())}
    assert all(array.shape == (0,) for array in edit_scores(model, []).values())


def test_without_a_true_target_greedy_alone_can_tell(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    prompt = "The Space Needle is in"
    own = answer_text(model, own_answer(model, prompt))
    request = EditRequest("{} is in", "The Space Needle", own)
    with pytest.raises(TracerError, match="is not known, and there is nothing to compare"):
        edit_scores(model, [asked(request)])
    probe = asked(request, (), ("Pike Place is in",))
    found = edit_scores(model, [probe], by="greedy")
    log_probs, hits = one_by_one(model, prompt, own)
    assert found["reliability"][0] == hits.all()
    np.testing.assert_allclose(found["reliability margin"][0], np.exp(log_probs.mean()), rtol=1e-5)
    assert np.isnan(found["generalisation"][0])
    assert np.isnan(found["locality"][0])
    with pytest.raises(TracerError, match="by is 'best'"):
        edit_scores(model, [probe], by="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["one", 3, ["one", 2]])
def test_prompts_are_texts(given: object) -> None:
    with pytest.raises(TracerError, match="prompts is"):
        texts("prompts", given)
    assert texts("prompts", ["one", "two"]) == ("one", "two")


# --- with or without a space -----------------------------------------------------------------------------------------
def test_targets_are_scored_as_they_are_written(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")

    def by_hand(prompt: str, target: str) -> float:
        ids, whole = (model.tokenizer(text)["input_ids"] for text in (prompt, prompt + target))
        assert whole[: len(ids)] == ids
        with torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
        return float(sum(logits[i - 1, whole[i]] for i in range(len(ids), len(whole))))

    pairs = [
        ("1+1=", "2", "2"),
        ("It ended in 19", "45", "45"),
        ("It is (", "x", "x"),
        ("日本の首都は", "東京", "東京"),
    ]
    pairs += [("It is in", "東京", " 東京"), ("1 + 1 =", "2", " 2"), ("It ended in", "1945", " 1945")]
    found = target_log_probs(model, [p for p, _, _ in pairs], [t for _, t, _ in pairs]).sums
    np.testing.assert_allclose(found, [by_hand(prompt, written) for prompt, _, written in pairs], atol=1e-4)
    said = target_log_probs(model, ["1+1=", "It is in"], ["2", "x"], space=[True, False]).sums
    np.testing.assert_allclose(said, [by_hand("1+1=", " 2"), by_hand("It is in", "x")], atol=1e-4)
    with pytest.raises(TracerError, match="2 pairs and 1 values of space"):
        target_log_probs(model, ["a", "b"], "c", space=[True])


def test_a_request_says_its_space_to_all_that_is_asked_of_it(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    record = {
        "prompt": "{} is in down",
        "subject": "Rome",
        "target_new": "town",
        "target_true": "hill",
        "space": False,
        "paraphrase_prompts": ["Rome lies in"],
    }
    probes = Probes.of(record)
    assert [(q.new, q.true, q.space) for q in probes.questions] == [("town", "hill", False), (" town", " hill", None)]
    found = measure(model, probes)
    expected = target_log_probs(model, ["Rome is in down", "Rome lies in"], ["town", " town"], space=[False, None])
    np.testing.assert_allclose(found.new_mean, expected.means, atol=1e-5)
    rewrite = Rewrite(prompt="{} is in down", subject="Rome", target_new="town", space=False)
    (case,) = ask_records(
        model, [EditRecord(case_id="a", source="made", rewrites=(rewrite,))], generate=False, texts=False
    )
    np.testing.assert_allclose(-case.answers[0].nll, expected.means[0], atol=1e-5)
    row = rewriting_rows(model, EditRequest.of(record), (("{}",), ("So. {}",)), "subject_last")[1]
    whole = model.tokenizer("So. Rome is in downtown")["input_ids"]
    apart = model.tokenizer("So. Rome is in down")["input_ids"] + model.tokenizer("town")["input_ids"]
    assert [*row.ids, row.target[-1]] in (whole, apart)
