"""Where a model that nobody here trained keeps its facts: the tables and figures of README and documentation.

    python benchmarks/real_model.py traces    # averages over facts the model knows, interventions and severed paths
    python benchmarks/real_model.py neurons   # knowledge neurons of such facts, suppressed and amplified, with controls

The facts are those of the ROME paper (``known_1000.json`` below the folder that TRACER_DATA names) that the model
answers itself, first token to last. Interrupted, both go on where they were; what is kept lies in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import tracer
from tracer.answers import knows
from tracer.progress import track

HERE = Path(__file__).parent
KINDS = ("hidden", "mlp", "attn")
ACTIONS = ("suppress", "amplify")
RUNS = Path("runs") / "real_model"  # what is taken up again after an interruption
WINDOW = 5  # of 18 layers; the paper restores 10 of 48
SPARED = 3  # facts of the same relation with another answer, per fact


def known_facts(model: tracer.Model, most: int | None = None) -> dict[tracer.Fact, str]:
    """Facts of the paper's list that the model answers rightly by itself, in a seeded order, each with its relation.

    Asking all takes minutes, so that the list is kept.
    """
    kept = RUNS / f"{model.name}-known.json"
    if kept.exists():
        stored = [(tracer.Fact(*fact), relation) for fact, relation in json.loads(kept.read_text(encoding="utf-8"))]
        return dict(stored[:most])
    folder = os.environ.get("TRACER_DATA")
    if not folder:
        raise SystemExit("TRACER_DATA should name the folder that holds known_1000/known_1000.json")
    file = Path(folder) / "known_1000" / "known_1000.json"
    records = json.loads(file.read_text(encoding="utf-8"))
    order = np.random.default_rng(0).permutation(len(records))
    found, subjects = {}, set()
    for record in track([records[i] for i in order], "asking"):
        if most is not None and len(found) == most:
            return found
        if record["prompt"].count(record["subject"]) != 1 or record["subject"] in subjects:
            continue
        fact = tracer.Fact(record["prompt"], record["subject"], " " + record["attribute"])
        if knows(model, fact):
            found[fact] = record["relation_id"]
            subjects.add(record["subject"])
    kept.parent.mkdir(parents=True, exist_ok=True)
    listed = [([fact.prompt, fact.subject, fact.target], relation) for fact, relation in found.items()]
    kept.write_text(json.dumps(listed), encoding="utf-8")
    return found


def traces(model: tracer.Model, out: Path, count: int, samples: int) -> None:
    """Average traces of every kind, and of the subject's last token with each module severed."""
    facts = list(known_facts(model, count))
    noise = tracer.GaussianNoise(samples=samples).measured(model)
    jobs: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in KINDS}
    jobs |= {f"severed-{sever}": {"sever": sever, "tokens": "subject_last"} for sever in ("mlp", "attn")}
    for name, settings in jobs.items():
        kept = RUNS / f"{model.name}-{name}-{samples}"
        average = tracer.average_traces(model, facts, window=WINDOW, corruption=noise, folder=kept, **settings)
        average.save(out / f"{model.name}-{name}.npz")
        print(name, average)


def neurons(model: tracer.Model, out: Path, count: int) -> None:
    """A table of changes: of the fact and of facts that should be spared, by its neurons and by controls."""
    known = known_facts(model)
    by_relation: dict[str, list[tracer.Fact]] = defaultdict(list)
    for fact, relation in known.items():
        by_relation[relation].append(fact)
    kept = RUNS / f"{model.name}-neurons"
    kept.mkdir(parents=True, exist_ok=True)
    effects: dict[str, list[tracer.NeuronEffects]] = {action: [] for action in ACTIONS}
    pairs = list(_pairs(by_relation))
    for number, (partner, wordings, spared) in enumerate(track(pairs, "facts")):
        if len(effects["amplify"]) == count:
            break
        files = {action: kept / f"{number}-{action}.npz" for action in ACTIONS}
        if not all(file.exists() for file in files.values()):
            others = [tracer.Fact(each.prompt, partner.subject, partner.target) for each in wordings[1:]]
            own, other = (
                tracer.knowledge_neurons(model, asked, 0.2, 0.5, steps=8, rule="gauss", token="subject_last")
                for asked in (wordings[1:], others)
            )
            if not (own and other):  # no neuron that half of the wordings share
                continue
            asked: dict[str, Any] = {"other": other, "neighbours": spared, "tokens": "subject_last", "draws": 5}
            for action, file in files.items():
                effect = tracer.neuron_effects(model, wordings[0], own, action=action, **asked)  # type: ignore[arg-type]
                effect.save(file)
        for action, file in files.items():
            effects[action].append(tracer.NeuronEffects.load(file))
    frames = []
    for action, found in effects.items():
        sizes = [len(effect.neurons) for effect in found]
        numbers = {"action": action, "facts": len(found), "neurons": np.mean(sizes)}
        frames.append(tracer.summarise_effects(found).assign(**numbers))
    table = pd.concat(frames)
    table.to_csv(out / f"{model.name}-neurons.csv", index=False)
    print(table.to_string())


def _pairs(by_relation: dict[str, list[tracer.Fact]]) -> Iterator[tuple]:
    """Partner of a fact's relation with another answer, the fact's wordings, and facts of the relation to be spared.

    The first wording is the fact's own, on which effects are measured; neurons are found on the others.
    """
    queues = {}
    for relation, facts in sorted(by_relation.items()):
        templates = list(dict.fromkeys(fact.prompt.replace(fact.subject, "{}") for fact in facts))
        if len(templates) >= 4:
            queues[relation] = (templates, facts)
    for place in range(max(len(facts) for _, facts in queues.values())):
        for templates, facts in queues.values():  # a fact of every relation, then another of each
            if place >= len(facts):
                continue
            fact = facts[place]
            others = [each for each in facts if each.target != fact.target]
            if len(others) > SPARED:
                own = fact.prompt.replace(fact.subject, "{}")
                rest = [template for template in templates if template != own][:4]
                wordings = [tracer.Fact(template, fact.subject, fact.target) for template in (own, *rest)]
                yield others[0], wordings, others[1 : 1 + SPARED]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("traces", "neurons"))
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--count", type=int, default=150, help="facts")
    parser.add_argument("--samples", type=int, default=2, help="of the noise, per fact")
    parser.add_argument("--out", type=Path, default=HERE / "real")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    model = tracer.load(given.model).pinned()
    if given.what == "traces":
        traces(model, given.out, given.count, given.samples)
    else:
        neurons(model, given.out, given.count)


if __name__ == "__main__":
    main()
