"""Measure the embedded model's knowledge and mechanism: `python -m tracer.factworld.recipe.evaluate`.

It writes the model card.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
import typer

from tracer.engine.batch import logits_of, pad
from tracer.progress import track

if TYPE_CHECKING:
    from tracer.factworld.world import WorldFact
    from tracer.model import Model


@dataclass(frozen=True)
class Recall:
    """Shares of prompts whose greedy continuation is the whole object and then the full stop.

    Attributes:
        by_relation: relation to (facts, share with seen templates, share with held-out paraphrases).
        seen: share over all prompts of all facts with seen templates.
        held_out: share over those with held-out paraphrases.
        prompts: how many prompts were asked.
    """

    seen: float
    held_out: float
    prompts: int
    by_relation: dict[str, tuple[int, float, float]]


@dataclass(frozen=True)
class Mechanics:
    """Averages over traced facts; effects are differences in the probability of the whole object.

    Attributes:
        facts: how many facts were traced.
        clean: mean probability in the clean run.
        corrupted: mean probability in the corrupted run.
        window: outputs restored together.
        hidden_last_subject: mean effect per layer of restoring the hidden state at the last subject token.
        hidden_last: the same at the last token.
        mlp_last_subject: the same for windows of `window` MLP outputs at the last subject token.
        mlp_last: the same at the last token.
        attn_last_subject: the same for windows of attention outputs at the last subject token.
        attn_last: the same at the last token.
        mlp_peak_at_last_subject: share of facts whose MLP trace peaks at the last subject token.
        mlp_peak_layer: where the average MLP trace of that token peaks.
    """

    facts: int
    clean: float
    corrupted: float
    window: int
    hidden_last_subject: tuple[float, ...]
    hidden_last: tuple[float, ...]
    mlp_last_subject: tuple[float, ...]
    mlp_last: tuple[float, ...]
    attn_last_subject: tuple[float, ...]
    attn_last: tuple[float, ...]
    mlp_peak_at_last_subject: float
    mlp_peak_layer: int

    @property
    def taken(self) -> float:
        """Share of the answer's probability that the noise takes away."""
        return 1 - self.corrupted / self.clean


def decodes_exactly(model: Model, asked: Sequence[tuple[str, str]], batch: int = 256) -> list[bool]:
    """For each (prompt, object): does greedy decoding give exactly the object, then a full stop?

    Greedy decoding follows a string if and only if every token of it is the most likely one after those before it,
    so one forward pass over prompt and object decides.
    """
    encode = model.tokenizer
    items = []
    for i, (text, object_) in enumerate(asked):
        head, tail = encode(text).input_ids, encode(f" {object_}.").input_ids
        items.append((len(head) + len(tail), i, head, tail))
    items.sort()
    result = [False] * len(items)
    starts = range(0, len(items), batch)
    for start in track(starts, "asking", len(starts)):
        chunk = items[start : start + batch]
        ids = pad([head + tail for _, _, head, tail in chunk])
        with torch.no_grad():
            best = logits_of(model, ids).argmax(-1).cpu()  # right padding is never looked at
        for row, (length, i, head, tail) in enumerate(chunk):
            result[i] = best[row, len(head) - 1 : length - 1].tolist() == tail
    return result


def recall(model: Model, facts: Iterable[WorldFact]) -> Recall:
    """Ask every fact with every training template and with every held-out paraphrase, without BOS."""
    from tracer.factworld.grammar import PHRASINGS, fill

    asked: list[tuple[str, str]] = []
    labels: list[tuple[str, bool]] = []
    counts: dict[str, int] = {}
    for fact in facts:
        counts[fact.relation] = counts.get(fact.relation, 0) + 1
        phrasing = PHRASINGS[fact.relation]
        for templates, seen in ((phrasing.train, True), (phrasing.held_out, False)):
            for template in templates:
                asked.append((fill(template, fact.subject), fact.object))
                labels.append((fact.relation, seen))
    right = np.array(decodes_exactly(model, asked))
    relation = np.array([label[0] for label in labels])
    seen = np.array([label[1] for label in labels])
    table = {
        name: (count, float(right[(relation == name) & seen].mean()), float(right[(relation == name) & ~seen].mean()))
        for name, count in sorted(counts.items())
    }
    return Recall(float(right[seen].mean()), float(right[~seen].mean()), len(asked), table)


def mechanics(
    model: Model, facts: Sequence[WorldFact], *, count: int = 200, window: int = 3, seed: int = 0
) -> Mechanics:
    """Trace `count` facts drawn with `seed`, with noise of 3 sigma and 10 samples.

    Only facts whose subject is not at the prompt's end are drawn.
    """
    from tracer.facts.fact import Fact
    from tracer.factworld.grammar import PHRASINGS
    from tracer.tracing.causal import causal_trace
    from tracer.tracing.corruption import GaussianNoise

    rng = Random(seed)
    noise = GaussianNoise(sigma=3.0, samples=10, seed=1)
    rows: dict[str, list[np.ndarray]] = {}
    clean, corrupted, peaks = [], [], []
    kinds: tuple[Literal["hidden", "mlp", "attn"], ...] = ("hidden", "mlp", "attn")
    for world_fact in track(rng.sample(list(facts), count), "tracing facts"):
        templates = [t for t in PHRASINGS[world_fact.relation].train if not t.endswith("{}")]
        fact = Fact(rng.choice(templates), world_fact.subject, f" {world_fact.object}")
        for kind in kinds:
            trace = causal_trace(model, fact, kind=kind, window=window, corruption=noise)
            last_subject = trace.subject_range[1] - 1
            rows.setdefault(f"{kind}_last_subject", []).append(trace.effect[last_subject])
            rows.setdefault(f"{kind}_last", []).append(trace.effect[-1])
            if kind == "hidden":
                clean.append(trace.clean)
                corrupted.append(trace.corrupted)
            if kind == "mlp":
                peaks.append(trace.peak()[0] == last_subject)
    means = {name: tuple(float(x) for x in np.mean(values, axis=0)) for name, values in rows.items()}
    return Mechanics(
        facts=count,
        clean=float(np.mean(clean)),
        corrupted=float(np.mean(corrupted)),
        window=window,
        mlp_peak_at_last_subject=float(np.mean(peaks)),
        mlp_peak_layer=int(np.argmax(means["mlp_last_subject"])),
        **means,
    )


def perplexity(model: Model, text: str, width: int = 128) -> float:
    """Perplexity per token of a text, in windows of `width` tokens (the first token of each window is not scored)."""
    ids = model.tokenizer(text).input_ids
    windows = [ids[i : i + width] for i in range(0, len(ids) - width + 1, width)]
    batch = torch.tensor(windows, device=model.device)
    with torch.no_grad():
        found = logits_of(model, batch)
    loss = torch.nn.functional.cross_entropy(found[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten())
    return float(loss.exp())


def _layers(values: Sequence[float]) -> str:
    return " | ".join(f"{value:.2f}" for value in values)


def card(model: Model, known: Recall, mechanism: Mechanics, ppl: float, facts: Sequence[WorldFact]) -> str:
    """The model card, in Markdown."""
    config = model.hf.config
    parameters = sum(p.numel() for p in model.hf.parameters())
    names = ("hidden_last_subject", "hidden_last", "mlp_last_subject", "mlp_last", "attn_last_subject", "attn_last")
    subjects = len({fact.subject for fact in facts})
    lines = [
        "# FactWorld, the embedded model",
        "",
        f"GPT-2 architecture, {model.n_layers} layers of width {model.d_model}, {parameters / 1e6:.1f} million",
        f"parameters, context {model.n_ctx}, byte-level BPE of {config.vocab_size} tokens. Trained by",
        f"`python -m tracer.factworld.recipe.train` on {len(facts)} facts about {subjects} real subjects, and on",
        "plain sentences, all written by the grammar in `tracer/factworld`. Structured dropout (see `mechanism.py`)",
        "has planted a known mechanism: recall by the MLPs of a band of layers at the last subject token, then",
        "extraction by later attention. In the last phase of training the names in some texts were replaced by the",
        "kind of noise that tracing uses, without scoring objects, so that noise on a name draws no attention of its",
        "own: the traces below are clearer than those of a model that has never met such noise. It is a test bed for",
        "tools, not a source of facts.",
        "",
        "Measured by `python -m tracer.factworld.recipe.evaluate`, over all facts:",
        "",
        "- greedy decoding gives exactly the whole object and the full stop, without BOS, for",
        f"  **{known.seen:.2%}** of prompts with the templates seen in training and **{known.held_out:.2%}** with",
        f"  held-out paraphrases ({known.prompts} prompts);",
        f"- perplexity of the held-out text: {ppl:.2f} per token;",
        f"- traces of {mechanism.facts} facts whose subject is not at the prompt's end: probability of the object",
        f"  {mechanism.clean:.3f} clean, {mechanism.corrupted:.3f} with 3 sigma of noise on the subject",
        f"  (**{mechanism.taken:.0%}** taken away);",
        f"- the MLP trace (windows of {mechanism.window}) peaks at the last subject token in",
        f"  {mechanism.mlp_peak_at_last_subject:.0%} of these facts, on average at layer {mechanism.mlp_peak_layer}.",
        "",
        "Mean effect of restoring, by layer:",
        "",
        "| site | " + " | ".join(str(i) for i in range(model.n_layers)) + " |",
        "|---" * (model.n_layers + 1) + "|",
    ]
    lines += [f"| {name.replace('_', ' ')} token | {_layers(getattr(mechanism, name))} |" for name in names]
    lines += ["", "| relation | facts | seen templates | held-out paraphrases |", "|---|---|---|---|"]
    lines += [f"| {name} | {n} | {seen:.1%} | {held:.1%} |" for name, (n, seen, held) in known.by_relation.items()]
    return "\n".join(lines) + "\n"


def read_numbers(path: Path) -> tuple[Recall, Mechanics, float]:
    """The numbers that `main` wrote to `card.json`."""
    from pydantic import TypeAdapter

    found = json.loads(path.read_text(encoding="utf-8"))
    known = TypeAdapter(Recall).validate_python(found["recall"])
    return known, TypeAdapter(Mechanics).validate_python(found["mechanics"]), float(found["perplexity"])


def main(
    model: Annotated[str | None, typer.Option(help="folder of a model to measure; the embedded one if absent")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for CARD.md and card.json")] = None,
    traced: Annotated[int, typer.Option(help="facts to trace")] = 200,
    asked: Annotated[int | None, typer.Option(help="ask only this many facts, drawn at random")] = None,
) -> None:
    """Measure recall over all facts and the mechanism over some, and print the model card."""
    from tracer.factworld import facts, held_out_text
    from tracer.model import load

    handle = load(model)
    world = facts()
    chosen = world if asked is None else tuple(Random(0).sample(list(world), asked))
    known = recall(handle, chosen)
    mechanism = mechanics(handle, world, count=traced)
    ppl = perplexity(handle, held_out_text())
    text = card(handle, known, mechanism, ppl, world)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "CARD.md").write_text(text, encoding="utf-8")
        numbers = {"recall": asdict(known), "mechanics": asdict(mechanism), "perplexity": ppl}
        (out / "card.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))


if __name__ == "__main__":
    typer.run(main)
