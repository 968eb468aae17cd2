"""What is said of models that nobody here trained, on their own weights: ``make test-real``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import editing
import tracer
from editing.questions.asking_records import ask_records
from editing.questions.question import Question
from editing.questions.record import EditRecord, Rewrite
from editing.questions.target_scores import target_log_probs
from tracer.cli import app
from tracer.model import Model, load, packages
from tracer.model.soundness import perplexity

pytestmark = pytest.mark.real
Real = Callable[[str], Model]
GEMMA, SMOL = "gemma-3-270m", "smollm2-135m"
FACT = tracer.Fact("{} is located in the city of", "The Space Needle", " Seattle")
LAST = 3  # the subject's last token, behind <bos>

# layers, widths of state and key, vocabulary, what the tokenizer puts in front, perplexity of the built-in passage
ABOUT = {GEMMA: (18, 640, 2048, 262144, [2], 12.17), SMOL: (30, 576, 1536, 49152, [], 17.07)}


@pytest.mark.parametrize("name", ABOUT)
def test_the_model_is_the_one_it_says(name: str, real: Real) -> None:
    model, (layers, width, keys, vocabulary, front, surprise) = real(name), ABOUT[name]
    assert (model.n_layers, model.d_model, model.d_mlp, len(model.tokenizer)) == (layers, width, keys, vocabulary)
    assert model.tokenizer("")["input_ids"] == front
    assert perplexity(model) == pytest.approx(surprise, abs=0.1)
    assert model.module("embed").weight is model.module("unembed").weight
    assert model.name == model.hf.config._name_or_path == name


TEXTS = (
    "In 1889, 3.5 million people came.",
    "Ångström & Dvořák",
    "東京は日本の首都です",
    "  two  spaces\n\ttab",
    "🙂 def f(x):",
)


@pytest.mark.parametrize("name", ABOUT)
@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(name: str, text: str, real: Real) -> None:
    tokenizer = real(name).tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert max(end for _, end in offsets) == len(text)


def test_the_package_and_its_file_are_one_model(real: Real, tmp_path: Path) -> None:
    """By name it comes from the cache, as a folder; read straight from the package's GGUF it is the same to the bit."""
    file = packages._find(*packages.PACKAGED[SMOL].parts[0])
    if file is None:
        pytest.skip("the package was removed after its model was put together")
    straight = load(file)
    assert straight.fingerprint() == real(SMOL).fingerprint()
    for text in TEXTS:
        assert straight.tokenizer(text)["input_ids"] == real(SMOL).tokenizer(text)["input_ids"]


# --- the Space Needle ----------------------------------------------------------------------------------------------
def test_the_space_needle_trace_is_the_papers_picture(real: Real) -> None:
    noise = tracer.GaussianNoise(samples=10, seed=1)
    hidden = tracer.causal_trace(real(GEMMA), FACT, corruption=noise)
    assert hidden.tokens[LAST] == " Needle" and hidden.subject_range == (1, 4)
    assert hidden.clean == pytest.approx(0.472, abs=0.002) and hidden.corrupted == pytest.approx(0.0012, abs=0.0005)
    early, late = hidden.effect[LAST], hidden.effect[-1]
    assert early.argmax() == 4 and early[4] == pytest.approx(0.342, abs=0.01) and early[12:].max() < 0.01
    assert late[:11].max() < 0.01 and late[12:].min() > 0.4  # it moves to the last token between layers 10 and 12
    elsewhere = np.delete(hidden.effect, [LAST, len(hidden.tokens) - 1], axis=0)
    assert elsewhere.max() < 0.02


def _with_hooks(model: Model, ids: torch.Tensor, changes: dict[torch.nn.Module, Callable]) -> torch.Tensor:
    """Logits at the last token of a run in which the outputs of modules are changed, by PyTorch's hooks alone."""

    def hook(change: Callable) -> Callable:
        return lambda module, args, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handles = [module.register_forward_hook(hook(change)) for module, change in changes.items()]
    try:
        with torch.no_grad():
            return model.hf(input_ids=ids).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


def test_a_cell_is_what_restoring_by_hand_gives(real: Real) -> None:
    """The batched sweep against one run per sample, on a model with scaled, tied embeddings and two kinds of layers."""
    model, cells = real(GEMMA), [(LAST, 4), (9, 12), (9, 17)]
    trace = tracer.causal_trace(model, FACT, corruption=tracer.GaussianNoise(samples=2, seed=1), layers=[4, 12, 17])
    found = FACT.align(model)
    ids = torch.tensor([found.input_ids])
    clean: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable:
        return lambda state: clean.setdefault(layer, state.clone())

    _with_hooks(model, ids, {model.module("hidden", layer): keep(layer) for layer in (4, 12, 17)})
    drawn = np.random.RandomState(1).randn(2, 3, model.d_model) * trace.corruption["level"]
    for token, layer in cells:
        scores = []
        for sample in torch.tensor(drawn, dtype=torch.float32):

            def corrupt(state: torch.Tensor, sample: torch.Tensor = sample) -> torch.Tensor:
                return torch.cat([state[:, :1], state[:, 1:4] + sample, state[:, 4:]], dim=1)

            def restore(state: torch.Tensor, token: int = token, layer: int = layer) -> torch.Tensor:
                return torch.cat([state[:, :token], clean[layer][:, token : token + 1], state[:, token + 1 :]], dim=1)

            changes = {model.module("embed"): corrupt, model.module("hidden", layer): restore}
            scores.append(_with_hooks(model, ids, changes).softmax(-1)[found.target_ids[0]].item())
        assert trace.scores[token, trace.layers.index(layer)] == pytest.approx(np.mean(scores), abs=2e-4)


# --- edited, saved, taken back -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ABOUT)
def test_an_edit_is_saved_reloads_and_is_taken_back_to_the_bit(name: str, real: Real, tmp_path: Path) -> None:
    model = real(name)
    before, editor = model.fingerprint(), editing.Editor(model)
    request = editing.EditRequest("{} is located in the city of", "The Space Needle", "Paris")
    try:
        edit = editor.edit(request, method="ft_l", layers=[5], steps=2)
        changed = model.fingerprint()
        assert changed != before
        again = load(editor.save_pretrained(tmp_path / "edited"))
        assert again.fingerprint() == changed
        edit.save(tmp_path / "edit.safetensors")
        assert editing.load_edit(tmp_path / "edit.safetensors").requests == (request,)
    finally:
        editor.checkout(0)
    assert model.fingerprint() == before


# --- a chat model --------------------------------------------------------------------------------------------------
def test_a_bare_prompt_to_a_chat_model_is_noted(real: Real) -> None:
    model, noise = real(SMOL), tracer.GaussianNoise(samples=1)
    asked = {"corruption": noise, "layers": [5]}
    bare = tracer.causal_trace(model, tracer.Fact("The capital of {} is the city of", "France"), **asked)
    assert bare.answer == " Paris" and "without its chat template" in bare.note
    turns = [{"role": "user", "content": "Name the capital of France."}]
    written = model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    templated = tracer.causal_trace(model, tracer.Fact(str(written), "France"), **asked)
    assert "template" not in templated.note
    base = tracer.causal_trace(real(GEMMA), FACT, **asked)
    assert "template" not in base.note
    neurons = tracer.attribute_neurons(model, tracer.Fact("The capital of {} is the city of", "France"), 2)
    assert "without its chat template" in neurons.note


def test_the_command_says_so_too(real: Real) -> None:
    real(SMOL)  # put together, so that the command has no more to say
    asked = ["trace", "The capital of {} is the city of", "-s", "France", "--model", SMOL, "--kind", "hidden"]
    result = CliRunner().invoke(app, [*asked, "--samples", "1"], env={"COLUMNS": "120"})
    assert (result.exit_code, result.stderr) == (0, "")
    assert "a chat model, asked without its chat template" in result.stdout


def test_a_chat_model_is_evaluated_in_its_template(real: Real) -> None:
    model = real(SMOL)
    fact = tracer.Fact.chat(model, "What is the capital of {}?", "France", "Paris")
    told = Rewrite(prompt=fact.prompt, subject="France", target_new="Rome", target_true="Paris")
    same = Question(kind="neighbour", prompt=fact.text, answers=(("Paris",),))
    (case,) = ask_records(model, [EditRecord(case_id="a", source="made", rewrites=(told,), asks=(same,))], texts=False)
    rewrite, neighbour = case.answers  # a question is not denied
    assert neighbour.generated == rewrite.generated and "Paris" in str(rewrite.generated)
    assert (rewrite.match, neighbour.match) == (0, 1)
    assert "<|im" not in str(rewrite.generated)


@pytest.mark.parametrize(
    ("prompt", "target", "expected", "with_a_space"),
    [
        ("1+1=", "2", -0.39, -3.65),
        ("World War II ended in 19", "45", -0.03, -15.70),
        ('She said "', "Hello", -6.88, -13.44),
        ("It costs $", "5", -2.44, -7.92),
        ("法国的首都是", "巴黎", -3.37, -9.29),
        ("苹果公司成立于", "1976", -1.01, -3.31),
        ("The capital of France (", "Paris", -1.05, -7.02),
    ],
)
def test_a_target_is_scored_as_it_is_written(
    real: Real, prompt: str, target: str, expected: float, with_a_space: float
) -> None:
    scores = target_log_probs(real(GEMMA), prompt, [target, target], space=[None, True])
    np.testing.assert_allclose(scores.sums, [expected, with_a_space], atol=0.05)
