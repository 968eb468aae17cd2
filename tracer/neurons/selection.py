"""Knowledge neurons: the units inside the MLPs to which a fact's answer goes back.

Integrated gradients follow Dai et al., "Knowledge Neurons in Pretrained Transformers" (2022), equation 4: with w the
inner activations of one layer at a token, and P(v) the probability of the answer when they are v instead,

    score_i = w_i ∫ ∂P(α w)/∂w_i dα  from α = 0 to 1,        so that  Σ_i score_i = P(w) - P(0)

(Sundararajan et al., "Axiomatic Attribution for Deep Networks", 2017: completeness). One layer is changed at a time and
the others respond. All layers and all α are branches of one [`tracer.sweep`][]: of each only the layers from its own on
are run, and the tokens from the changed one on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from tracer import checks
from tracer.errors import AttributionError
from tracer.facts.fact import Fact
from tracer.facts.readout import as_fact
from tracer.progress import track

from .attribution import NeuronAttribution, check_threshold
from .integrated_gradients import Attributor

if TYPE_CHECKING:
    from tracer.model import Model

__all__ = ["NeuronAttribution", "attribute_neurons", "knowledge_neurons", "refine"]

About = Fact | str
Method = Literal["integrated_gradients", "activation_contrast"]
Place = Literal["post", "pre"]
Rule = Literal["published", "gauss"]
Token = Literal["answer", "subject_last"] | int
BAR = "attributing neurons"


def attribute_neurons(
    model: Model,
    fact: About | Sequence[About],
    steps: int = 20,
    method: Method = "integrated_gradients",
    *,
    site: Place = "post",
    token: Token = "answer",
    rule: Rule = "published",
    contrast: Sequence[About] | None = None,
    max_rows: int | None = None,
) -> NeuronAttribution:
    """Score every neuron of every layer for a fact: [layers, d_mlp].

    The model is left as it was found.

    Args:
        model: the model.
        fact: a fact, or a bare prompt. The answer is its target, or without one what the model finds most probable.
        steps: points α of the integral.
        method: "integrated_gradients" (Dai et al. 2022, equation 4); scores are parts of the answer's probability. Or
            "activation_contrast": how far the neuron's value on the fact (on several: `fact` may be a sequence, of
            paraphrases say; the mean counts) lies above its mean on the `contrast` prompts, in standard deviations over
            these (unbiased). Deviations within rounding count as zero: there the score is 0 if the means are equal
            within rounding too, else very large, the difference over the rounding.
        site: "post", the input of the down-projection, as in the paper; or "pre", the input of the non-linearity, as in
            the published package for GPT.
        token: where the neurons act. "answer": where the answer is read; the k positions of an answer of k tokens,
            whose whole probability is measured, are scaled together, and a neuron's score is the sum over them.
            "subject_last": the subject's last token (of a bare prompt: its last token). Or the index of a token of the
            prompt.
        rule: "published": `steps` points from 0 to 1, both included, with equal weights, as the published code has them
            (`steps=1`: only α = 0); the error falls as 1 / steps. "gauss": Gauss-Legendre. Where the probability
            changes fast on the way either takes more steps: `completeness` and `note` of the result tell. Behind an MLP
            whose output is normalised (Gemma 2, OLMo 2) all of it changes next to α = 0.
        contrast: at least two prompts that do not hold the fact.
        max_rows: most rows in any forward; by default as many as free memory takes. No effect on
            numbers.

    Raises:
        TracerError: settings out of range, prompts that cannot be aligned, a model whose MLP has no such neurons, and
            numbers that are not finite.
    """
    one = Attributor(model, steps, method, site, token, rule, max_rows)
    other = _contrast(method, contrast)
    if other is None and not isinstance(fact, About):
        raise AttributionError(
            f"fact is {_named(fact)}; integrated gradients take one Fact or prompt (knowledge_neurons: several)"
        )
    facts = _facts("fact", fact)
    if other is None:
        return one.integrated(facts[0], model.fingerprint(), BAR)
    reference = one.values(track(other, BAR))
    return one.contrasted(facts, reference, model.fingerprint())


def knowledge_neurons(
    model: Model,
    facts: About | Sequence[About],
    threshold: float = 0.2,
    share: float = 0.7,
    *,
    steps: int = 20,
    site: Place = "post",
    token: Token = "answer",
    method: Method = "integrated_gradients",
    negatives: About | Sequence[About] = (),
    rule: Rule = "published",
    contrast: Sequence[About] | None = None,
    max_rows: int | None = None,
) -> list[tuple[int, int]]:
    """The neurons, as (layer, neuron), that many prompts of one fact share (Dai et al., section 3.2).

    Every one of `facts` (paraphrases: one fact or prompt, or several) is attributed as by
    [`tracer.attribute_neurons`][], and so are `negatives`, prompts that do not hold the fact; [`tracer.refine`][] tells
    which neurons are kept.

    Raises:
        TracerError: as these two.
    """
    one = Attributor(model, steps, method, site, token, rule, max_rows)
    check_threshold(threshold, method)
    _check_share(share)
    found, unrelated = _facts("facts", facts), _facts("negatives", negatives, least=0)
    results = one.each([*found, *unrelated], _contrast(method, contrast), BAR)
    return refine(results[: len(found)], threshold, share, results[len(found) :])


def refine(
    attributions: NeuronAttribution | Sequence[NeuronAttribution],
    threshold: float = 0.2,
    share: float = 0.7,
    negatives: NeuronAttribution | Sequence[NeuronAttribution] = (),
) -> list[tuple[int, int]]:
    """Neurons above `threshold` for more than `share` of `attributions`.

    The threshold is that of [`tracer.NeuronAttribution.above`][]. More than: strictly, as published; `share=1.0` asks
    for all of them. A neuron above the threshold for any of `negatives` is removed. Highest mean score first, ties by
    layer, then neuron.

    Raises:
        TracerError: numbers outside 0 to 1, an empty list, and attributions that do not go together.
    """
    positives = [attributions] if isinstance(attributions, NeuronAttribution) else list(attributions)
    unrelated = [negatives] if isinstance(negatives, NeuronAttribution) else list(negatives)
    if not positives:
        raise AttributionError("there are no attributions to refine; give at least one")
    _check_share(share)
    for one in [*positives, *unrelated]:
        if not isinstance(one, NeuronAttribution):
            raise AttributionError(f"{_named(one)} is no NeuronAttribution; make one with attribute_neurons")
        for name in ("model", "fingerprint", "method", "site"):
            if getattr(one, name) != getattr(positives[0], name):
                raise AttributionError(
                    f"attributions of different {name} do not go together: {getattr(positives[0], name)!r} and "
                    f"{getattr(one, name)!r}; make them alike"
                )
    counts: dict[tuple[int, int], int] = {}
    for one in positives:
        for neuron in one.above(threshold):
            counts[neuron] = counts.get(neuron, 0) + 1
    removed = {neuron for one in unrelated for neuron in one.above(threshold)}
    n = len(positives)  # a hair more than the share: 0.29 * 100 is less than 29
    kept = [i for i, count in counts.items() if (count > share * n + 1e-9 or count == n) and i not in removed]
    mean = np.mean([one.scores for one in positives], axis=0)
    return sorted(kept, key=lambda neuron: (-mean[neuron], neuron))


def _contrast(method: str, contrast: Sequence[About] | None) -> list[Fact] | None:
    """The contrast prompts of an activation contrast; None for integrated gradients."""
    if method != "activation_contrast":
        if contrast is not None:
            raise AttributionError(
                "contrast prompts are for method='activation_contrast'; leave them out, or choose that"
            )
        return None
    if contrast is None:
        raise AttributionError("activation contrast needs contrast=[...], at least two prompts without the fact")
    return _facts("contrast", contrast, least=2)


def _facts(name: str, given: About | Sequence[About], least: int = 1) -> list[Fact]:
    """One or several facts or prompts as facts.

    Raises:
        TracerError: anything else, or fewer than `least`.
    """
    several = [given] if isinstance(given, About) else given
    if not isinstance(several, Sequence) or not all(isinstance(one, About) for one in several):
        raise AttributionError(f"{name} is {_named(given)}; expected a Fact, a prompt as text, or a list of these")
    if len(several) < least:
        raise AttributionError(f"{name} holds {len(several)} prompts; expected at least {least}")
    return [as_fact(one) for one in several]


def _named(value: object) -> str:
    inside = sorted({type(one).__name__ for one in value}) if isinstance(value, list | tuple) else []
    return f"a {type(value).__name__}" + (f" of {', '.join(inside)}" if inside else "")


def _check_share(share: float) -> None:
    checks.share("share", share, kind=AttributionError, expected="a share of the prompts, from 0 to 1")
