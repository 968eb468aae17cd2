"""Effects of acting on a fact's neurons, always together with their controls.

Follows Dai et al., "Knowledge Neurons in Pretrained Transformers" (2022), who set a fact's neurons to zero or double
them and look at the probability of the correct answer. A change alone tells little, so it is measured beside its
controls: as many random neurons of the same layers, the neurons of another fact, and other prompts. The managers that
act on neurons are those of `tracer.neurons.interventions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from tracer.checks import finite
from tracer.engine.row_budget import check_max_rows
from tracer.engine.sweep import record, sweep
from tracer.errors import InterventionError, OutOfRange
from tracer.facts.fact import Fact, bare_note
from tracer.facts.readout import Readout, answer_text, as_fact
from tracer.progress import track
from tracer.statistics import clustered_mean
from tracer.tracing import metrics

from .effects_result import NeuronEffects, relative, role
from .interventions import Neurons, amplify, check_neurons, indices, random_neurons, set_to, suppress, units

if TYPE_CHECKING:
    import pandas as pd

    from tracer.facts.fact import Alignment
    from tracer.model import Model

__all__ = ["NeuronEffects", "amplify", "neuron_effects", "random_neurons", "set_to", "summarise_effects", "suppress"]

ACTIONS = ("suppress", "amplify", "set_to")
PLACES = ("answer", "subject_last", "all")


def neuron_effects(
    model: Model,
    fact: Fact | str,
    neurons: Neurons,
    *,
    other: Neurons | None = None,
    neighbours: Sequence[Fact] = (),
    action: Literal["suppress", "amplify", "set_to"] = "suppress",
    factor: float = 2.0,
    value: float = 0.0,
    tokens: Literal["answer", "subject_last", "all"] | int | Sequence[int] = "answer",
    draws: int = 20,
    seed: int = 0,
    site: Literal["post", "pre"] = "post",
    max_rows: int | None = None,
) -> NeuronEffects:
    """The probability of the answer before and after acting on a fact's neurons, with every control beside it.

    Each prompt, `fact` and its `neighbours`, is run as it is, with `neurons` acted on, with `draws` sets of as many
    random neurons of the same layers ([`tracer.random_neurons`][] with `seed`), and with the neurons `other` of another
    fact. The prompt is recorded once; each set of neurons is a branch of it.

    The answer is the prompt's target, all tokens of it, or without one what the model itself finds most probable. The
    model is left as it was found.

    Args:
        model: the model.
        fact: the fact, or a bare prompt.
        neurons: pairs (layer, unit) to act on.
        other: neurons of another fact, preferably of the same relation.
        neighbours: other facts that are measured beside it.
        action: "suppress" sets to zero, "amplify" multiplies by `factor`, "set_to" puts `value`.
        factor: for "amplify".
        value: for "set_to".
        tokens: "answer", the positions where the answer's tokens are predicted (masked models: the masks);
            "subject_last", the last token of each prompt's own subject; "all"; or positions in the prompt, negative
            from its end.
        draws: sets of random neurons.
        seed: seed of the draws.
        site: act after the non-linearity ("post"), or before it ("pre").
        max_rows: most rows in any forward; no effect on numbers.

    Raises:
        TracerError: neurons, settings or positions out of range.
    """
    check_max_rows(max_rows)
    if action not in ACTIONS:
        raise InterventionError(f"action {action!r} is unknown; expected one of {', '.join(ACTIONS)}")
    factor = finite("factor", factor, kind=InterventionError)
    value = finite("value", value, kind=InterventionError)
    own = check_neurons(model, neurons)
    foreign = None if other is None else check_neurons(model, other, "other")
    sets = [own, *random_neurons(model, own, draws, seed), *([] if foreign is None else [foreign])]
    scale, put = {"suppress": (0.0, 0.0), "amplify": (factor, 0.0), "set_to": (0.0, value)}[action]
    facts = [as_fact(fact), *_facts(neighbours)]
    aligned = [some.align(model) for some in facts]
    branches = [
        [units(model, each, scale, put, site, positions) for each in sets]
        for positions in (_positions(model, found, tokens) for found in aligned)
    ]
    before, after, answers, notes = [], [], [], []
    todo = list(zip(facts, aligned, branches, strict=True))
    for some, found, items in track(todo, "acting on neurons"):
        readout = Readout.of(model, found)
        with torch.no_grad():
            base = record(model, list(readout.ids), read=readout.read, max_rows=max_rows)
            answer = readout.answer(base.logits[0])
            measure = metrics.Metric("prob", tuple(answer))
            before.append(float(measure(base.logits)[0]))
            after.append(sweep(model, base, items, measure, max_rows=max_rows)[:, 0].double().numpy())
        answers.append(answer_text(model, answer))
        said = base.logits[0].argmax(-1).tolist()
        if said != answer:
            notes.append(f"the target of {some.text!r} is not what the model says, {answer_text(model, said)!r}")
    shared = 0 if foreign is None else len({*own} & {*foreign})
    if shared:
        notes.append(f"{shared} of the other fact's {len(sets[-1])} neurons are the fact's own too")
    table = np.array(after)  # [prompts, sets]
    return NeuronEffects(
        action=action,
        factor=factor,
        value=value,
        neurons=tuple(own),
        other_neurons=tuple(foreign or ()),
        facts=tuple(some.text for some in facts),
        answers=tuple(answers),
        before=np.array(before),
        after=table[:, 0],
        random=table[:, 1 : 1 + draws],
        other=None if foreign is None else table[:, -1],
        subject=facts[0].subject,
        tokens=tokens if isinstance(tokens, str) else tuple(indices(tokens)),
        site=site,
        seed=int(seed),
        model=model.name,
        fingerprint=model.fingerprint(),
        note="; ".join(filter(None, [*notes, bare_note(model, facts[0].text)])),
    )


def summarise_effects(
    effects: Sequence[NeuronEffects], resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Mean changes over many facts, one row per role ("fact", "neighbour") and condition ("neurons", ...) measured.

    Columns: role, condition, prompts, subjects; `change`, the mean relative change of the probability; `difference`,
    the mean of `after - before`; and the ends of each one's bootstrap interval, `change_low` and so on. Random sets
    count as their mean over draws. Prompts whose probability was zero before have no relative change and are left out
    of its mean. Facts about one subject are drawn together; with fewer than two the interval is nan.

    Raises:
        TracerError: an empty list, effects of different interventions, or settings out of range.
    """
    import pandas as pd

    effects = list(effects)
    kinds = {(e.action, e.factor, e.value, e.tokens, e.site, e.fingerprint) for e in effects}
    if len(kinds) != 1:
        raise InterventionError(
            f"{len(effects)} effects of {len(kinds)} interventions; expected effects of one: the same action, factor, "
            "value, tokens, site and model"
        )
    groups: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    for effect in effects:
        for condition, after in effect.conditions():
            change = relative(after, effect.before[:, None]).mean(1).tolist()
            difference = (after - effect.before[:, None]).mean(1).tolist()
            for i, numbers in enumerate(zip(change, difference, strict=True)):
                groups.setdefault((role(i), condition), []).append((effect.subject, *numbers))
    rows = []
    for (part, condition), members in sorted(groups.items(), key=lambda item: item[0][0] != "fact"):
        subjects = [subject for subject, _, _ in members]
        mean, low, high = clustered_mean(
            [numbers for _, *numbers in members], subjects, resamples=resamples, confidence=confidence, seed=seed
        )
        if len(set(subjects)) < 2:  # one subject tells nothing of others
            low = high = np.full(2, np.nan)
        row: dict[str, Any] = {"role": part, "condition": condition}
        row |= {"prompts": len(members), "subjects": len(set(subjects))}
        for i, name in enumerate(("change", "difference")):
            row |= {name: mean[i], f"{name}_low": low[i], f"{name}_high": high[i]}
        rows.append(row)
    return pd.DataFrame(rows)


def _positions(model: Model, found: Alignment, tokens: Any) -> list[int]:
    """Positions at which neurons are acted on in the run of an aligned fact."""
    readout, prompt, length = Readout.of(model, found), "".join(found.tokens), len(found.input_ids)
    if isinstance(tokens, str):
        where = {"answer": readout.read, "subject_last": [found.subject_range[1] - 1], "all": range(len(readout.ids))}
        if tokens not in where:
            raise OutOfRange(f"tokens={tokens!r} is unknown; expected one of {', '.join(PLACES)}, or positions")
        return list(where[tokens])
    chosen = indices(tokens)
    for token in chosen:
        if not -length <= token < length:
            raise OutOfRange(f"token {token} is out of range: the prompt {prompt!r} has {length} tokens")
    if len({token % length for token in chosen}) < len(chosen):
        raise OutOfRange(f"tokens={chosen} name a token of {prompt!r} twice; name each once")
    return [token % length for token in chosen]


def _facts(neighbours: Any) -> list[Fact]:
    if isinstance(neighbours, str | Fact) or any(not isinstance(some, Fact) for some in neighbours):
        raise InterventionError(
            f"neighbours={neighbours!r}: expected a sequence of facts, such as neighbours=[Fact(...)]"
        )
    return list(neighbours)
