"""How a model goes on after a prompt: greedily, or drawn from an explicit seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from tracer import Fact, TracerError
from tracer.answers import answer_text
from tracer.hooks import as_ids, evaluating, keep_logits
from tracer.progress import bar
from tracer.sweep import check_numbers, default_rows
from tracer.tokens import SLOT

if TYPE_CHECKING:
    from tracer import Model

TOKENS = 24
TOP_K = 5
# A mark that ends a sentence, with what closes after it. Behind a single capital ("U. S.") or before more letters
# ("3.5") it ends none; scripts written without spaces need no space behind theirs.
END = re.compile(r"(?<![A-Z])[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[」』”]*|\n")


def continuations(
    model: Model,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = TOKENS,
    seed: int | None = None,
    top_k: int = TOP_K,
    sentences: int | None = 1,
    max_rows: int | None = None,
) -> list[str]:
    """What the model writes after each prompt, without the prompt.

    The most probable token is taken each time or, with a ``seed``, one drawn among the ``top_k`` most probable (as the
    published evaluation draws; each prompt has a stream of its own, by its place in the list). A text ends with the
    tokenizer's or the model's end token, which is left out, after so many ``sentences`` (None: however many),
    at ``max_new_tokens``, or where the context is full.

    Prompts of equal length share forwards, so that nothing is padded. max_rows: most prompts in a forward; None: by
    memory. The model, its generation config and its tokenizer are left as they were found.

    Raises:
        TracerError: a masked model, a prompt that is empty or longer than the context, a number of tokens below 1,
            logits that are not numbers.
    """
    if not model.causal:
        raise TracerError(f"{model.name} is a masked model, which writes no text after a prompt; use one that does")
    for name, value in (("max_new_tokens", max_new_tokens), ("top_k", top_k), ("sentences", sentences)):
        if value is not None and value < 1:
            raise TracerError(f"{name} is {value}; expected at least 1")
    lengths: dict[int, list[int]] = {}
    ids = []
    for place, prompt in enumerate(prompts):
        if not prompt.strip():
            raise TracerError(f"prompt {place} is empty; write it out, or leave it out")
        ids.append(Fact(SLOT, prompt).align(model).input_ids)  # in the slot, so that braces stay as they are
        lengths.setdefault(len(ids[place]), []).append(place)
    found: list[str] = [""] * len(ids)
    with ExitStack() as stack:
        progress = stack.enter_context(bar("writing", len(ids)))
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(model))
        stack.callback(keep_logits(model, [-1]).remove)
        for length, places in sorted(lengths.items()):
            step = max_rows or default_rows(model, length + max_new_tokens, 1)
            for start in range(0, len(places), step):
                some = places[start : start + step]
                draws = None if seed is None else [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in some]
                rows = _write(model, [ids[i] for i in some], max_new_tokens, draws, top_k, sentences)
                for place, row in zip(some, rows, strict=True):
                    text = answer_text(model, row) if row else ""
                    found[place] = first_sentences(text, sentences) if sentences else text
                progress.advance(progress.task_ids[0], len(some))
    return found


def first_sentences(text: str, count: int = 1) -> str:
    """``text`` up to the end of so many sentences; all of it where fewer end."""
    end = _end(text, count)
    return text if end is None else text[:end].rstrip("\n")


def _end(text: str, count: int) -> int | None:
    """Where sentence ``count`` ends, if it does; line breaks in front of the text end none."""
    ends = list(END.finditer(text, len(text) - len(text.lstrip())))
    return ends[count - 1].end() if len(ends) >= count else None


def _write(
    model: Model,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    draws: Sequence[torch.Generator] | None,
    top_k: int,
    sentences: int | None,
) -> list[list[int]]:
    """The new ids of prompts of one length."""
    ends = _end_ids(model)
    written: list[list[int]] = [[] for _ in prompts]
    going = [True] * len(prompts)
    ids: Any = as_ids(model, torch.tensor(prompts))
    cache: Any = None
    for _ in range(min(tokens, model.n_ctx - ids.shape[1])):
        output = model.hf(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits = check_numbers(model, output.logits[:, -1]).float().cpu()
        chosen = logits.argmax(-1) if draws is None else _drawn(logits, draws, top_k)
        for row, token in enumerate(chosen.tolist()):
            if going[row] and token in ends:
                going[row] = False
            elif going[row]:
                written[row].append(token)
                going[row] = not (sentences and _end(answer_text(model, written[row]), sentences))
        if not any(going):
            break
        ids = chosen.to(model.device).unsqueeze(1)
    return written


def _drawn(logits: torch.Tensor, draws: Sequence[torch.Generator], top_k: int) -> torch.Tensor:
    """One token per row among its ``top_k`` most probable; drawn on the CPU, so that every device draws alike."""
    top = logits.topk(min(top_k, logits.shape[-1]))
    places = [torch.multinomial(p, 1, generator=g) for p, g in zip(top.values.softmax(-1), draws, strict=True)]
    return top.indices.gather(-1, torch.stack(places)).squeeze(-1)


def _end_ids(model: Model) -> set[int]:
    """Tokens that end a text, by the tokenizer and the model's generation config."""
    named = [model.tokenizer.eos_token_id, getattr(getattr(model.hf, "generation_config", None), "eos_token_id", None)]
    flat = [i for each in named for i in (each if isinstance(each, list | tuple) else [each])]
    return {i for i in flat if isinstance(i, int)}
