"""How much faster is an evaluation whose prompts share forwards? Against plain loops, in one process on one thread.

    python benchmarks/evaluate.py                       GPT-2 small with random weights, and the embedded model
    python benchmarks/evaluate.py --records 1 --texts   of one record, its continued texts as well

The plain loops run each prompt on its own, as published evaluations do: a forward over prompt and answer for every pair
of them, with logits everywhere, and Hugging Face's ``generate`` for every prompt. Scores and generated texts of both
are compared. Prints seconds of the processor (wall-clock seconds beside them) and their ratio.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import typer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import tracer
from editing.questions.answer import CaseAnswers
from editing.questions.asking_records import TEXT_TOKENS, ask_records
from editing.questions.metrics import case_metrics
from editing.questions.question import Question
from editing.questions.record import EditRecord, Rewrite
from tracer import Fact, Model, factworld
from tracer.engine.generation import written_text


def world_record(record: dict[str, Any]) -> EditRecord:
    """A record of FactWorld with CounterFact's questions."""
    wish = record["requested_rewrite"]
    new, true = wish["target_new"]["str"], wish["target_true"]["str"]
    asks = []
    for kind, key, answer, against in (
        ("paraphrase", "paraphrase_prompts", new, true),
        ("neighbour", "neighborhood_prompts", true, new),
        ("attribute", "attribute_prompts", new, true),
    ):
        asks += [Question(kind=kind, prompt=text, answers=((answer,),), against=against) for text in record[key]]  # type: ignore[arg-type]
    return EditRecord(
        case_id=str(record["case_id"]),
        source="factworld",
        rewrites=(Rewrite(prompt=wish["prompt"], subject=wish["subject"], target_new=new, target_true=true),),
        asks=tuple(asks),
        generate=tuple(record["generation_prompts"]),
    )


def gpt2_small(records: Sequence[EditRecord]) -> Model:
    """GPT-2 small as to shape, with random weights and one token per word of the records."""
    texts = [text for record in records for one in record.questions() for text in (one.prompt, one.answer, one.against)]
    texts += [text for record in records for text in record.generate] + ["It is not true that the"]
    words = dict.fromkeys(word for text in texts if text for word in text.split())
    config = GPT2Config()
    filling = [f"word{i}" for i in range(config.vocab_size - len(words) - 1)]
    vocabulary = {word: i for i, word in enumerate([*words, *filling, "<unk>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(config).eval()
    return Model.of(hf, PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"), "gpt2 (random)")


def generated(model: Model, ids: Sequence[int], tokens: int, draws: bool = False) -> list[int]:
    """What ``generate`` writes after one prompt."""
    end = model.tokenizer.eos_token_id
    settings: dict[str, Any] = {"do_sample": True, "top_k": 5} if draws else {"do_sample": False}
    config = GenerationConfig(max_new_tokens=tokens, pad_token_id=0, eos_token_id=end, **settings)
    rows = torch.tensor([list(ids)])
    hf: Any = model.hf
    new = hf.generate(rows, attention_mask=torch.ones_like(rows), generation_config=config)[0, len(ids) :].tolist()
    return new[: new.index(end)] if end in new else new


def plain_scores(model: Model, cases: Sequence[CaseAnswers]) -> np.ndarray:
    """[questions, 2]: nll of both answers, a forward for each."""
    found = []
    for one in (answer for case in cases for answer in case.answers):
        row = []
        for target in (one.answer, one.against):
            fact = Fact("{}", one.prompt, target).align(model)
            ids = torch.tensor([[*fact.input_ids, *fact.target_ids]])
            logits = model.hf(input_ids=ids).logits[0].log_softmax(-1)
            first = len(fact.input_ids) - 1
            places = range(first, first + len(fact.target_ids))
            row.append(-float(logits[list(places), list(fact.target_ids)].mean()))
        found.append(row)
    return np.array(found)


def plain_texts(model: Model, cases: Sequence[CaseAnswers], lengths: Sequence[int]) -> list[str]:
    """What is generated after every prompt, as many tokens as were allowed there."""
    asked = [one.prompt for case in cases for one in case.answers if one.generated is not None]
    found = []
    for prompt, tokens in zip(asked, lengths, strict=True):
        new = generated(model, Fact("{}", prompt).align(model).input_ids, tokens)
        found.append(written_text(model, new, 1).strip())
    return found


def allowed(model: Model, cases: Sequence[CaseAnswers]) -> list[int]:
    """How many tokens a question lets the model write."""
    from editing.questions.asked import SPARE

    answers = [one for case in cases for one in case.answers if one.generated is not None]
    return [len(Fact("{}", one.prompt, one.answer).align(model).target_ids) + SPARE for one in answers]


def timed(work: Callable[[], Any]) -> tuple[Any, np.ndarray]:
    """Result, and seconds of the processor and of the clock."""
    begun = np.array([time.process_time(), time.perf_counter()])
    result = work()
    return result, np.array([time.process_time(), time.perf_counter()]) - begun


def show(what: str, slow: np.ndarray, fast: np.ndarray, note: str) -> None:
    columns = "".join(f"{cpu:8.2f} ({wall:6.2f})" for cpu, wall in (slow, fast))
    typer.echo(f"  {what:28}{columns}{slow[0] / fast[0]:7.1f}x  {note}")


def compare(model: Model, records: Sequence[EditRecord], texts: bool) -> None:
    """Print how long both ways take for ``records``: one after the other, and all at once."""

    def together(parts: list[list[EditRecord]], generate: bool = True, texts: bool = False) -> list[CaseAnswers]:
        return [case for part in parts for case in ask_records(model, part, generate=generate, texts=texts)]

    cases = together([list(records)])  # warms up
    plain, slow_scores = timed(lambda: plain_scores(model, cases))
    written, slow_texts = timed(lambda: plain_texts(model, cases, allowed(model, cases)))
    typer.echo(f"\n{model.name}: {len(records)} records, {len(plain)} questions")
    ways = {"one record after the other": [[record] for record in records], "all records at once": [list(records)]}
    if len(records) == 1:
        ways.pop("all records at once")
    for way, parts in ways.items():
        typer.echo(f" {way}")
        scored, scores = timed(lambda parts=parts: together(parts, generate=False))
        asked, both = timed(lambda parts=parts: together(parts))
        ours = np.array([[one.nll, one.nll_against] for case in scored for one in case.answers])
        show("scores", slow_scores, scores, f"largest difference {np.abs(plain - ours).max():.0e}")
        said = [one.generated for case in asked for one in case.answers if one.generated is not None]
        same = f"{sum(a == b for a, b in zip(said, written, strict=True))} of {len(said)} texts are the same"
        show("scores and answers written", slow_scores + slow_texts, both, same)
    if texts:
        prompts = [Fact("{}", text).align(model).input_ids for record in records for text in record.generate]
        _, slow_every = timed(lambda: [generated(model, ids, TEXT_TOKENS - len(ids), True) for ids in prompts])
        whole, every = timed(lambda: together([[record] for record in records], texts=True))
        note = f"{len(prompts)} texts of {TEXT_TOKENS} tokens at most, one record after the other"
        show("and texts continued", slow_scores + slow_texts + slow_every, every, note)
        rows, metrics = timed(lambda: [case_metrics(r, c, c) for r, c in zip(records, whole, strict=True)])
        typer.echo(f"  {sum(map(len, rows))} metrics of these in {metrics[0]:.2f} s")


def main(
    records: Annotated[int, typer.Option(help="records of FactWorld's validation split")] = 3,
    texts: Annotated[bool, typer.Option(help="continue texts as well")] = False,
    model: Annotated[str | None, typer.Option(help="this checkpoint alone")] = None,
) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    some = [world_record(record) for record in factworld.records("validation") if record["neighborhood_prompts"]]
    some = some[:records]
    typer.echo("processor seconds (wall-clock seconds) of plain loops and of shared forwards, one thread")
    for one in [gpt2_small(some), tracer.load()] if model is None else [tracer.load(model)]:
        compare(one, some, texts)


if __name__ == "__main__":
    typer.run(main)
