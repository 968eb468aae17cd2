"""The gallery that README shows: ``make figures`` writes it again, from the embedded model and from a pretrained one.

Figures of Gemma 3 270M are made where its packages are installed; averages over facts and effects of neurons from what
``benchmarks/real_model.py`` keeps, since they take an hour.
"""

from __future__ import annotations

from pathlib import Path

import live
import numpy as np
import pandas as pd
from edit_rules import edit_rules
from edit_table import edit_table
from edits_at_once import SHOWN_METHODS, edits_at_once
from live import GEMMA, KINDS, WINDOW

import editing
import tracer
from editing.questions.probes import from_factworld
from tracer import factworld
from tracer.progress import track

HERE = Path(__file__).parent
GEMMA_WINDOW = 5  # of eighteen layers
IN_GEMMA = tracer.Fact("{} is located in the city of", "The Space Needle")
OTHERS = (
    tracer.Fact("The capital city of {} is", "France"),
    tracer.Fact("By profession, {} is a", "Albert Einstein"),
    tracer.Fact("The company that makes {} is", "Corolla"),
)


def main() -> None:
    model = tracer.load().pinned()
    needle = live.space_needle()
    figures = {
        "space_needle.png": needle,
        "space_needle.svg": needle,
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
    at_once = pd.read_parquet(HERE.parent / "benchmarks" / "meta_editors.parquet").astype({"value": float})
    rules = pd.read_csv(HERE.parent / "benchmarks" / "real" / "edit_rules.csv")
    return {
        "attack.png": live.attack(),
        "edit_rules.png": edit_rules(rules),
        "edits_at_once.png": edits_at_once(at_once, SHOWN_METHODS),
        "evaluation.png": live.evaluation(),
        "forgetting.png": live.forgetting(),
        "retention.png": live.retention(),
    }


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
    return {
        "space_needle_gemma.png": tracer.plot_trace(panels),
        "average_gemma.png": live.average_gemma(),
        "severed_gemma.png": live.severed_gemma(),
    }


if __name__ == "__main__":
    main()
