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
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

import tracer
from tracer.engine.answer import knows
from tracer.progress import track

HERE = Path(__file__).parent
KINDS = ("hidden", "mlp", "attn")
ACTIONS: tuple[Literal["suppress", "amplify"], ...] = ("suppress", "amplify")
RUNS = Path("runs") / "real_model"  # what is taken up again after an interruption
WINDOW = 5  # of 18 layers; the paper restores 10 of 48
WORDINGS, SPARED = 3, 2  # per fact: other wordings, and facts of its relation with another answer


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
    """A table of changes: of facts and of facts that should be spared, by their neurons and by controls."""
    kept = RUNS / f"{model.name}-neurons"
    kept.mkdir(parents=True, exist_ok=True)
    effects: dict[str, list[tracer.NeuronEffects]] = {action: [] for action in ACTIONS}
    for number, pair in enumerate(track(list(_pairs(known_facts(model))), "pairs of facts")):
        if len(effects["amplify"]) >= count:
            break
        none = kept / f"{number}-none"
        if not none.exists() and not (kept / f"{number}-1-{ACTIONS[-1]}.npz").exists():
            found = [
                tracer.knowledge_neurons(model, asked.wordings, 0.2, 0.5, steps=6, rule="gauss", token="subject_last")
                for asked in pair
            ]
            if not all(found):  # one has no neuron that half of its wordings share
                none.touch()
                continue
            for one, asked in enumerate(pair):
                controls: dict[str, Any] = {"other": found[1 - one], "neighbours": asked.spared, "draws": 5}
                for action in ACTIONS:
                    effect = tracer.neuron_effects(
                        model, asked.fact, found[one], action=action, tokens="subject_last", **controls
                    )
                    effect.save(kept / f"{number}-{one}-{action}.npz")
        for action in ACTIONS if not none.exists() else ():
            effects[action] += [tracer.NeuronEffects.load(kept / f"{number}-{one}-{action}.npz") for one in (0, 1)]
    frames = []
    for action, measured in effects.items():
        sizes = [len(effect.neurons) for effect in measured]
        numbers = {"action": action, "facts": len(measured), "neurons": np.mean(sizes)}
        frames.append(tracer.summarise_effects(measured).assign(**numbers))
    table = pd.concat(frames)
    table.to_csv(out / f"{model.name}-neurons.csv", index=False)
    print(table.to_string())


@dataclass(frozen=True)
class Asked:
    """A fact as the model is asked about it.

    Attributes:
        fact: in the wording on which effects are measured.
        wordings: other wordings of it, from other facts of its relation, on which its neurons are found.
        spared: facts of the relation with another answer.
    """

    fact: tracer.Fact
    wordings: list[tracer.Fact]
    spared: list[tracer.Fact]


def _pairs(known: dict[tracer.Fact, str]) -> Iterator[tuple[Asked, Asked]]:
    """Two facts of one relation with different answers, each the other's control: a pair of every relation in turn."""
    relations: dict[str, list[tracer.Fact]] = defaultdict(list)
    for fact, relation in known.items():
        relations[relation].append(fact)
    queues = [_of_relation(facts) for _, facts in sorted(relations.items())]
    for row in zip_longest(*queues):
        yield from (pair for pair in row if pair is not None)


def _of_relation(facts: list[tracer.Fact]) -> Iterator[tuple[Asked, Asked]]:
    templates = list(dict.fromkeys(fact.prompt.replace(fact.subject, "{}") for fact in facts))
    left = list(facts)
    while len(templates) > WORDINGS and left:
        one = left.pop(0)
        other = next((fact for fact in left if fact.target != one.target), None)
        if other is None:
            return
        left.remove(other)
        pair = []
        for fact in (one, other):
            own = fact.prompt.replace(fact.subject, "{}")
            rest = [template for template in templates if template != own][:WORDINGS]
            spared = [each for each in facts if each not in (one, other) and each.target != fact.target][:SPARED]
            pair.append(Asked(fact, [tracer.Fact(each, fact.subject, fact.target) for each in rest], spared))
        yield pair[0], pair[1]


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
