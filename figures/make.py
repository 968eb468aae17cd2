"""The gallery that README shows: ``make figures`` writes it again, from the embedded model and from a pretrained one.

Figures of Gemma 3 270M are made where its packages are installed; averages over facts and effects of neurons from what
``benchmarks/real_model.py`` keeps, since they take an hour.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from edit_rules import edit_rules
from edit_table import edit_table
from edits_at_once import SHOWN_METHODS, edits_at_once

import editing
import tracer
from editing.attack import AttackResult
from editing.questions.probes import from_factworld
from editing.tasks import ScaledLosses
from tracer import factworld
from tracer.progress import track

HERE = Path(__file__).parent
WINDOW = 3  # of eight layers; the paper restores ten of 48
KINDS = ("hidden", "mlp", "attn")

SPACE_NEEDLE = tracer.Fact("{} is in downtown", "The Space Needle")
GEMMA, GEMMA_WINDOW = "gemma-3-270m", 5  # of eighteen layers
SEVERED = ("severed-mlp", "severed-attn")
IN_GEMMA = tracer.Fact("{} is located in the city of", "The Space Needle")
OTHERS = (
    tracer.Fact("The capital city of {} is", "France"),
    tracer.Fact("By profession, {} is a", "Albert Einstein"),
    tracer.Fact("The company that makes {} is", "Corolla"),
)


def main() -> None:
    model = tracer.load().pinned()
    panels = [tracer.causal_trace(model, SPACE_NEEDLE, kind=kind, window=WINDOW) for kind in KINDS]
    figures = {
        "space_needle.png": tracer.plot_trace(panels),
        "space_needle.svg": tracer.plot_trace(panels),
        "other_facts.png": tracer.plot_trace([tracer.causal_trace(model, fact) for fact in OTHERS]),
        **averages(model),
        **neurons(model),
        **edits(model),
        **evaluation(),
        **encoder_decoder(),
        **pretrained(),
    }
    for name in track(figures, "drawing"):
        print(tracer.export(figures[name], HERE / name))


def averages(model: tracer.Model) -> dict[str, object]:
    """Traces of 100 facts, and of their severed paths."""
    known = factworld.facts()
    facts = [known[i] for i in np.random.default_rng(0).choice(len(known), 100, replace=False)]
    noise = tracer.GaussianNoise(samples=3).measured(model)
    kinds = [tracer.average_traces(model, facts, kind=kind, window=WINDOW, corruption=noise) for kind in KINDS]
    severed = [
        tracer.average_traces(model, facts, corruption=noise, sever=sever, tokens="subject_last")
        for sever in (None, "mlp", "attn")
    ]
    return {"average.png": tracer.plot_average(kinds), "severed.png": tracer.plot_severed(severed)}


def neurons(model: tracer.Model) -> dict[str, object]:
    """One fact's neurons at the subject's last token, and what acting on them does."""
    fact = factworld.find("The Space Needle", "landmark_city")
    found = {
        one: tracer.knowledge_neurons(
            model, [each for each in factworld.paraphrases(one) if not each.prompt.endswith("{}")], token="subject_last"
        )
        for one in (fact, factworld.neighbours(fact, 1, same_object=False)[0])
    }
    own, other = found.values()
    spared = [*factworld.neighbours(fact, 4, same_object=False), *factworld.others_of(fact)]
    effects = [
        tracer.neuron_effects(
            model, fact, own, other=other, neighbours=spared, action=action, tokens="subject_last", draws=20
        )
        for action in ("suppress", "amplify")
    ]
    attribution = tracer.attribute_neurons(model, fact, token="subject_last")
    return {"neurons.png": tracer.plot_neurons(attribution), "effects.png": tracer.plot_effects(effects)}


def edits(model: tracer.Model) -> dict[str, object]:
    """An edit of the Space Needle, before and after; and where tracing and editing find it."""
    request = editing.EditRequest("{} is in downtown", "The Space Needle", "Paris", target_true="Seattle")
    probes = from_factworld([request], neighbours=8, paraphrases=6)[0]
    assert probes is not None
    before = editing.measure(model, probes)
    editor = editing.Editor(model)
    with editor.preview(request) as edit:
        outcome = editing.Outcome(before, editing.measure(editor.model, probes))
    records = factworld.records("validation")[::28][:10]
    found = [editing.locate(model, records), editing.locate(model, records, using="sweep", known="edit")]
    layers = ", ".join(map(str, edit.settings["layers"]))
    return {
        "edit.png": editing.plot_outcome(outcome),
        "edit_table.png": edit_table(outcome, note=f"ROME at layer {layers}"),
        "locate.png": editing.plot_locate(found),
    }


def evaluation() -> dict[str, object]:
    """Ten methods on 300 records, attacks, and a relation taken away, from what benchmarks keep."""
    measured = pd.read_parquet(HERE.parent / "benchmarks" / "factworld_sweep.parquet").astype({"value": float})
    measured = measured.query("control == ''")
    alone, after = (
        editing.Evaluation.of(metrics=measured.query("mode in ('', @mode)")) for mode in ("single", "sequential")
    )
    tasks = pd.read_parquet(HERE.parent / "benchmarks" / "task_arithmetic.parquet")
    at_once = pd.read_parquet(HERE.parent / "benchmarks" / "meta_editors.parquet").astype({"value": float})
    rules = pd.read_csv(HERE.parent / "benchmarks" / "real" / "edit_rules.csv")
    return {
        "attack.png": attacked(),
        "edit_rules.png": edit_rules(rules),
        "edits_at_once.png": edits_at_once(at_once, SHOWN_METHODS),
        "evaluation.png": editing.plot_evaluation(alone),
        "forgetting.png": editing.plot_scaled_losses(
            ScaledLosses.of(tasks.query("model == 'factworld' and method == 'forget'"))
        ),
        "retention.png": editing.plot_retention(after, "reliability (said)", maps=False),
    }


def attacked() -> object:
    """Old answers that guesses bring back after edits and unlearning, from what a benchmark keeps."""
    kept = pd.read_parquet(HERE.parent / "benchmarks" / "attack.parquet").query("model == 'factworld'")
    shown = ("unedited", "rome", "memit", "lora", "grace", "rome, refusal", "npo", "simnpo")
    own = {name: kept.query("method == @name and looked_for == 'own'") for name in shown}
    own["rome, another fact's answer"] = kept.query("method == 'rome' and looked_for == 'swapped'")
    return editing.plot_attack({name: AttackResult.of(rows, 20) for name, rows in own.items()})


def encoder_decoder() -> dict[str, object]:
    """Two maps of a fact in the embedded T5, and which of the decoder's layers read it from the encoder."""
    model = tracer.load("factworld-t5").pinned()
    fact = tracer.Fact.span(model, "{} was born in", "Marie Curie", " Warsaw")
    panels = [tracer.causal_trace(model, fact)]
    panels += [tracer.causal_trace(model, fact, stack="decoder", kind=kind, window=1) for kind in ("hidden", "cross")]
    return {"encoder_decoder.png": tracer.plot_trace(panels)}


def pretrained() -> dict[str, object]:
    """The Space Needle in Gemma, and averages over facts that it knows; nothing where it is not installed."""
    if not any(each.name == GEMMA and each.ready for each in tracer.models()):
        return {}
    model = tracer.load(GEMMA).pinned()
    panels = [tracer.causal_trace(model, IN_GEMMA, kind=kind, window=GEMMA_WINDOW) for kind in KINDS]
    kept = HERE.parent / "benchmarks" / "real"
    average = {name: tracer.AverageTrace.load(kept / f"{GEMMA}-{name}.npz") for name in (*KINDS, *SEVERED)}
    return {
        "space_needle_gemma.png": tracer.plot_trace(panels),
        "average_gemma.png": tracer.plot_average([average[kind] for kind in KINDS]),
        "severed_gemma.png": tracer.plot_severed([average[name] for name in ("hidden", *SEVERED)]),
    }


if __name__ == "__main__":
    main()
