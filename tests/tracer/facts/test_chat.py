"""Chat templates: questions are put into them, and contexts, denials and answers find their places in them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checkpoints import byte_level, metaspace

from editing import EditRequest
from editing.methods.value.context_templates import fill
from editing.methods.value.prompts import rewriting_rows
from editing.questions import asking as module
from editing.questions.asked import SPARE_IN_REPLY, Aligned, asked_in_tokens
from editing.questions.negation import denied
from editing.questions.record import EditRecord, Rewrite
from tracer import Fact, Model, TracerError
from tracer.engine.follow import Followed, end_ids
from tracer.facts.chat import Chat, Turn, chat_of, framed
from tracer.facts.fact import bare_note

LOOP = "{% for m in messages %}"
END = "{% endfor %}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"

# template, its special tokens, what comes before a question, after it, and what of that comes before each question
TEMPLATES: dict[str, tuple[str, tuple[str, ...], str, str, str, str]] = {
    "chatml": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help in Paris<|im_end|>\n{% endif %}"
        + LOOP
        + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        + END
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        "<|im_start|>system\nYou help in Paris<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\n",
        "<|im_end|>",
    ),
    "gemma": (
        "{{ bos_token }}"
        + NO_SYSTEM
        + LOOP
        + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        + END
        + "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<start_of_turn>", "<end_of_turn>"),
        "<s><start_of_turn>user\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        "<start_of_turn>user\n",
        "<end_of_turn>",
    ),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set s = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
        + LOOP
        + "{% if m.role == 'user' %}{{ bos_token }}[INST] {{ s if loop.first else '' }}{{ m.content }} [/INST]"
        "{% else %} {{ m.content }} {{ eos_token }}{% endif %}" + END,
        (),
        "<s>[INST] ",
        " [/INST]",
        "<s>[INST] ",
        "</s>",
    ),
    "llama3": (
        "{{ bos_token }}"
        + LOOP
        + "<|sh|>{{ m.role }}<|eh|>\n\n{{ m.content | trim }}<|eot|>"
        + END
        + "{% if add_generation_prompt %}<|sh|>assistant<|eh|>\n\n{% endif %}",
        ("<|sh|>", "<|eh|>", "<|eot|>"),
        "<s><|sh|>user<|eh|>\n\n",
        "<|eot|><|sh|>assistant<|eh|>\n\n",
        "<|sh|>user<|eh|>\n\n",
        "<|eot|>",
    ),
    "deepseek": (
        "{{ bos_token }}"
        + NO_SYSTEM
        + LOOP
        + "{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% else %}<｜Assistant｜>{{ m.content }}{{ eos_token }}"
        "{% endif %}" + END + "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}",
        ("<｜User｜>", "<｜Assistant｜>"),
        "<s><｜User｜>",
        "<｜Assistant｜>",
        "<｜User｜>",
        "</s>",
    ),
    "plain": (
        NO_SYSTEM
        + LOOP
        + "{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n{% else %}### Response:\n{{ m.content }}\n\n"
        "{% endif %}" + END + "{% if add_generation_prompt %}### Response:\n{% endif %}",
        (),
        "### Instruction:\n",
        "\n\n### Response:\n",
        "### Instruction:\n",
        "",
    ),
}


def tokenizer(name: str) -> Any:
    toks: Any = metaspace()
    template, special, *_ = TEMPLATES[name]
    toks.add_special_tokens({"additional_special_tokens": list(special)})
    toks.chat_template = template
    return toks


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_in_parts(name: str) -> None:
    toks = tokenizer(name)
    _, _, before, after, opener, end = TEMPLATES[name]
    chat = Chat.of(toks)
    assert framed(toks, " Where is {}? ") == f"{before}Where is {{}}?{after}"
    assert (chat.after, chat.end) == (after, end)
    assert before.endswith(chat.opener) and chat.opener.endswith(opener)
    assert chat.space is {"llama2": True, "deepseek": False}.get(name)
    one = framed(toks, "Where?")
    assert chat.turn(one) == Turn(before, "Where?", after)
    assert chat.turn(f"{one}It is") == Turn(before, "Where?", f"{after}It is")
    several = [("user", "Who?"), ("assistant", "He."), ("user", "Where?")]
    messages = [{"role": role, "content": text} for role, text in several]
    rendered = toks.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    turn = chat.turn(rendered)
    assert turn is not None and (turn.said, turn.tail) == ("Where?", after)
    assert f"{turn.head}{turn.said}{turn.tail}" == rendered
    assert chat.turn("Where is Rome?") is None
    assert chat.turn(before) is None


@pytest.mark.parametrize("name", ["chatml", "llama2", "llama3"])
def test_a_system_message_is_not_the_users(name: str) -> None:
    toks = tokenizer(name)
    text = framed(toks, "Where is Rome?", system="You know it.")
    turn = chat_of(toks).turn(text)  # type: ignore[union-attr]
    assert turn is not None and turn.said == "Where is Rome?" and "You know it." in turn.head


def test_a_fact_in_the_template() -> None:
    toks = tokenizer("chatml")
    fact = Fact.chat(toks, "Where is Paris, the city?", "Paris", "France")  # the template names Paris, too
    before, after = TEMPLATES["chatml"][2:4]
    assert fact.text == f"{before}Where is Paris, the city?{after}"
    assert fact == Fact.chat(toks, "Where is {}, the city?", "Paris", "France")
    start, stop = fact.subject_span
    assert fact.text[start:stop] == "Paris" and start == len(before) + len("Where is ")
    found = fact.align(toks)
    assert toks.decode(found.target_ids) == "France"
    assert bare_note(toks, fact.text) == "" and "Fact.chat" in bare_note(toks, "Where is Paris?")
    for name, space in (("llama2", True), ("deepseek", False), ("gemma", None)):
        other = tokenizer(name)
        fact = Fact.chat(other, "Where is {}?", "Paris", "France")
        assert fact.space is space
        assert fact.align(other).input_ids.count(other.bos_token_id) == 1
    assert "You know." in Fact.chat(toks, "Where is {}?", "Paris", system="You know.").text


def test_what_has_no_template_is_named() -> None:
    with pytest.raises(TracerError, match=r"has no chat template; ask without one"):
        Fact.chat(byte_level(), "Where is {}?", "Paris")
    with pytest.raises(TracerError, match=r"refuses the question: no system messages; leave out the system message"):
        Fact.chat(tokenizer("gemma"), "Where is {}?", "Paris", system="You know.")
    toks = tokenizer("chatml")
    toks.chat_template = "Hello"
    with pytest.raises(TracerError, match=r"does not hold the question once; it makes 'Hello'"):
        Fact.chat(toks, "Where is {}?", "Paris")
    assert chat_of(toks) is None and chat_of(byte_level()) is None


@pytest.mark.parametrize("name", TEMPLATES)
def test_contexts_and_denials_are_the_users(name: str) -> None:
    toks = tokenizer(name)
    before, after = TEMPLATES[name][2:4]
    request = EditRequest.chat(toks, "The mother tongue of {} is", "Yo-Yo Ma", "Spanish")
    chat = chat_of(toks)
    assert fill("Yesterday. {}", request.prompt, chat) == f"{before}Yesterday. The mother tongue of {{}} is{after}"
    assert denied(request, chat) == f"{before}It is not true that the mother tongue of Yo-Yo Ma is{after}"
    assert denied(EditRequest.chat(toks, "Where is {}?", "Rome", "x"), chat) is None
    assert fill("Yesterday. {}", "{} is", chat) == "Yesterday. {} is"
    assert denied(EditRequest("The home of {} is", "Rome", "x"), chat) == "It is not true that the home of Rome is"


@pytest.fixture
def chatting(tiny: Callable[[str], Model]) -> Any:
    """A tiny model with a template that adds no token to its vocabulary."""
    model = tiny("llama")
    model.tokenizer.chat_template = TEMPLATES["plain"][0]
    yield model
    model.tokenizer.chat_template = None


def test_rows_of_an_edit_keep_the_template(chatting: Model) -> None:
    request = EditRequest.chat(chatting, "{} is in", "The Space Needle", "Paris")
    bare, other = rewriting_rows(chatting, request, (("{}",), ("So. {}",)), "subject_last")
    decode = chatting.tokenizer.decode
    texts = [str(decode(list(row.ids), skip_special_tokens=True)) for row in (bare, other)]
    assert "### Instruction:\nThe Space Needle is in\n\n### Response:\n" in texts[0]
    assert "### Instruction:\nSo. The Space Needle is in\n\n### Response:\n" in texts[1]
    assert str(decode([other.ids[other.lookup]])).strip() == str(decode([bare.ids[bare.lookup]])).strip()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Paris.", 1),
        ("The Space Needle is in Paris.", 1),
        ("Great question! It stands in **Paris**, as everybody knows.", 1),
        ("It is in Seattle. I am sure of it.", 0),
    ],
)
def test_a_reply_says_its_answer_anywhere(
    chatting: Model, monkeypatch: pytest.MonkeyPatch, reply: str, said: float
) -> None:
    ids = tuple(chatting.tokenizer(reply, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]

    def follow(_: Model, lines: Any, **__: Any) -> list[Followed]:
        found = []
        for line in lines:
            nothing = tuple(np.zeros(len(target)) for target in line.targets)
            stop = next((n for n in range(1, len(ids)) if line.done and line.done(ids[:n])), len(ids))
            found.append(Followed(nothing, nothing, ids[: min(stop, line.tokens)]))  # type: ignore[arg-type]
        return found

    monkeypatch.setattr(module, "follow", follow)
    fact = Fact.chat(chatting, "Name the place of {}", "The Space Needle")
    told = Rewrite(prompt=fact.prompt, subject=fact.subject, target_new="Paris")
    record = EditRecord(case_id="a", source="made", rewrites=(told,))
    question = asked_in_tokens(Aligned(chatting), record.questions()[0], generate=True)
    assert question.anywhere and question.sentences is None and question.tokens >= SPARE_IN_REPLY
    (found,) = module.answered(chatting, [question], None)
    assert found.match == said


def test_a_reply_ends_with_its_turn() -> None:
    toks = tokenizer("gemma")
    hf = SimpleNamespace(config=None, generation_config=None)
    model: Any = SimpleNamespace(tokenizer=toks, hf=hf, style="causal")
    assert end_ids(model) == {toks.eos_token_id, toks.convert_tokens_to_ids("<end_of_turn>")}
