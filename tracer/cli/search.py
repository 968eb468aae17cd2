"""The work of `tracer neurons`: attribute every wording, keep what they share, act on it; print and write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.errors import NoNeurons
from tracer.neurons.attribution import NeuronAttribution
from tracer.neurons.effects import NeuronEffects, neuron_effects
from tracer.neurons.integrated_gradients import Attributor
from tracer.neurons.selection import BAR, refine

from . import files, printing

if TYPE_CHECKING:
    import pandas as pd

    from tracer.model import Model

    from .prompts import Prompts

SHOWN, WRITTEN = 20, 100  # neurons


@dataclass(frozen=True)
class Settings:
    """Settings of the search for neurons and of the actions on them; see `tracer neurons --help`."""

    method: str
    steps: int
    rule: str
    site: str
    token: str | int
    threshold: float
    share: float
    actions: tuple[str, ...]
    factor: float
    value: float
    draws: int
    seed: int


@dataclass(frozen=True, eq=False)
class Found:
    """The outcome of a search.

    Attributes:
        wordings: attributions of the wordings.
        negatives: attributions of the negatives.
        other: attributions of the control's wordings.
        kept: the neurons that the wordings share, the highest mean score first.
        control: those that the other fact's wordings share.
        effects: one per action; empty where no neuron was kept.
    """

    wordings: tuple[NeuronAttribution, ...]
    negatives: tuple[NeuronAttribution, ...]
    other: tuple[NeuronAttribution, ...]
    kept: tuple[tuple[int, int], ...]
    control: tuple[tuple[int, int], ...]
    effects: tuple[NeuronEffects, ...]

    @property
    def mean(self) -> NeuronAttribution:
        """The mean of the wordings' attributions as one, under the first one's prompt."""
        first, *rest = self.wordings
        if not rest:
            return first
        means: dict[str, Any] = {
            name: np.mean([getattr(each, name) for each in self.wordings], axis=0)
            for name in ("scores", "activations", "zero", "full")
        }
        means["full"] = float(means["full"])
        return replace(first, **means, note=f"mean over {len(self.wordings)} wordings, of which this is the first")

    def frame(self, threshold: float) -> pd.DataFrame:
        """The neurons kept and others of high score, as a table.

        It is the mean's table with two columns more: `prompts` (above the threshold in how many) and `kept`.
        """
        frame = self.mean.to_frame()
        above = [set(each.above(threshold)) for each in self.wordings]
        pairs = list(zip(frame["layer"].tolist(), frame["neuron"].tolist(), strict=True))
        frame["prompts"] = [sum(pair in some for some in above) for pair in pairs]
        frame["kept"] = [pair in {*self.kept} for pair in pairs]
        return frame.loc[frame["kept"].to_numpy() | (np.arange(len(frame)) < WRITTEN)]


def search(model: Model, prompts: Prompts, settings: Settings) -> Found:
    """Attribute all prompts, keep the neurons that are shared, and act on these. The model is left as it was found."""
    prompts = prompts.aligned(model, settings.token)
    one = Attributor(model, settings.steps, settings.method, settings.site, settings.token, settings.rule, None)
    groups = (prompts.wordings, prompts.negatives, prompts.other)
    results = one.each([fact for group in groups for fact in group], prompts.contrast or None, BAR)
    ends = np.cumsum([len(group) for group in groups]).tolist()
    wordings, negatives, other = results[: ends[0]], results[ends[0] : ends[1]], results[ends[1] :]
    kept = refine(wordings, settings.threshold, settings.share, negatives)
    control = refine(other, settings.threshold, settings.share) if other else []
    effects = _effects(model, prompts, settings, kept, control) if kept else []
    return Found(tuple(wordings), tuple(negatives), tuple(other), tuple(kept), tuple(control), tuple(effects))


def _effects(model: Model, prompts: Prompts, settings: Settings, kept: list, control: list) -> list[NeuronEffects]:
    for layer, count in enumerate(_per_layer(kept, model.n_layers)):
        if 2 * count > model.d_mlp:
            raise NoNeurons(
                f"{count} of the {model.d_mlp} neurons of layer {layer} would be kept, more than random ones can be "
                "drawn beside; raise --threshold or --share"
            )
    return [
        neuron_effects(
            model,
            prompts.wordings[0],
            kept,
            other=control or None,
            neighbours=prompts.neighbours,
            action=action,  # type: ignore[arg-type]
            factor=settings.factor,
            value=settings.value,
            tokens=settings.token,  # type: ignore[arg-type]
            draws=settings.draws,
            seed=settings.seed,
            site=settings.site,  # type: ignore[arg-type]
        )
        for action in settings.actions
    ]


def _per_layer(neurons: Sequence[tuple[int, int]], n_layers: int) -> list[int]:
    return np.bincount([layer for layer, _ in neurons], minlength=n_layers).tolist()


# --- printing ------------------------------------------------------------------------------------------------------
def show(found: Found, settings: Settings) -> None:
    """Print what was found."""
    first = found.wordings[0]
    printing.say(f"{first.prompt} → {first.answer.strip()}   p = {first.full:.4g}", style="bold")
    printing.say(_method(settings))
    filled = printing.table("", "prompt", "answer", *printing.right("p", "neurons"))
    for part, group in (("wording", found.wordings), ("negative", found.negatives), ("control", found.other)):
        for each in group:
            texts = map(printing.literal, (part, each.prompt, each.answer.strip()))
            filled.add_row(*texts, f"{each.full:.4g}", f"{len(each.above(settings.threshold)):,}")
    printing.show(filled)
    printing.notes(f"{each.prompt}: {each.note}" for each in found.wordings if each.note)
    _show_kept(found, settings)
    for effect in found.effects:
        _show_effect(effect)


def _show_kept(found: Found, settings: Settings) -> None:
    least = f"{settings.threshold:g} standard deviations"
    if settings.method != "activation_contrast":
        least = f"{settings.threshold:g} of the highest score"
    rule = f"above {least} for more than {settings.share:g} of {len(found.wordings)} wordings"
    if settings.share == 1 or len(found.wordings) == 1:
        rule = f"above {least}" + (f" for all {len(found.wordings)} wordings" if len(found.wordings) > 1 else "")
    if found.negatives:
        rule += ", in no negative"
    if not found.kept:
        repair = "a lower --threshold or --share keeps more" + (", and so do fewer negatives" * bool(found.negatives))
        printing.say(f"no neuron was kept ({rule}); {repair}", style="yellow")
        return
    printing.say(f"{_neurons(found.kept)} kept ({rule})")
    mean = found.mean
    filled = printing.table(*printing.right("layer", "neuron", "mean score", "activation"))
    for neuron in found.kept[:SHOWN]:
        filled.add_row(*map(str, neuron), f"{mean.scores[neuron]:+.4g}", f"{mean.activations[neuron]:+.4g}")
    printing.show(filled)
    if len(found.kept) > SHOWN:
        printing.say(f"and {len(found.kept) - SHOWN:,} more")
    counts = _per_layer(found.kept, mean.n_layers)
    printing.say("per layer   " + "   ".join(f"{layer}: {count}" for layer, count in enumerate(counts) if count))
    if found.other and not found.control:
        printing.say(f"no neuron of the control {found.other[0].prompt!r} was kept, so it is left out", style="yellow")


def _show_effect(effect: NeuronEffects) -> None:
    how = {"suppress": "suppressed", "amplify": f"times {effect.factor:g}", "set_to": f"set to {effect.value:g}"}
    rest = ", then its neighbours" if len(effect.facts) > 1 else ""
    legend = f"the fact{rest}; random: {effect.random.shape[1]} sets of as many neurons of the same layers, their mean"
    columns = printing.right("before", "after", "change", "random", whole=True)
    columns += printing.right("2.5 to 97.5 %")  # of the random sets
    if effect.other_change is not None:
        columns += printing.right("other", whole=True)
        legend += f"; other: {_neurons(effect.other_neurons)} of the control"
    printing.say()
    printing.say(f"{_neurons(effect.neurons)} {how[effect.action]}: change of the answer's probability", style="bold")
    printing.say(legend)
    filled = printing.table("prompt", *columns)
    low, high = np.percentile(effect.random_change, [2.5, 97.5], axis=1)
    for i, (prompt, answer) in enumerate(zip(effect.facts, effect.answers, strict=True)):
        numbers = [f"{effect.before[i]:.4g}", f"{effect.after[i]:.4g}", f"{effect.change[i]:+.1%}"]
        numbers += [f"{effect.random_change[i].mean():+.1%}", f"{low[i]:+.1%} to {high[i]:+.1%}"]
        if effect.other_change is not None:
            numbers.append(f"{effect.other_change[i]:+.1%}")
        filled.add_row(printing.literal(f"{prompt} → {answer.strip()}"), *numbers)
        if i == 0 and rest:
            filled.add_section()
    printing.show(filled)
    printing.notes([effect.note])


def _method(settings: Settings) -> str:
    place = {"answer": "where the answer is read", "subject_last": "at the subject's last token"}
    where = place.get(str(settings.token), f"at token {settings.token}")
    side = {"post": "after the non-linearity", "pre": "before the non-linearity"}[settings.site]
    how = settings.method.replace("_", " ")
    if settings.method != "activation_contrast":
        how += f", {settings.steps} steps" + (f", {settings.rule}" if settings.rule != "published" else "")
    return f"{how}; neurons {side}, {where}"


def _neurons(neurons: Sequence[tuple[int, int]]) -> str:
    return f"{len(neurons):,} neuron{'' if len(neurons) == 1 else 's'}"


def content(found: Found, settings: Settings) -> dict[str, Any]:
    """The search as json values: what was asked, and the neurons of `Found.frame`.

    Args:
        found: by the search.
        settings: of it.
    """
    names = ("prompt", "subject", "answer", "full", "method", "site", "steps", "rule", "model", "fingerprint")
    return {
        **{name: getattr(found.mean, name) for name in names},
        "threshold": settings.threshold,
        "share": settings.share,
        "wordings": [each.prompt for each in found.wordings],
        "negatives": [each.prompt for each in found.negatives],
        "neurons": found.frame(settings.threshold).to_dict("records"),
    }


# --- files ---------------------------------------------------------------------------------------------------------
def write(found: Found, settings: Settings, folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Write attribution and effects in every format and return the paths. Tables hold the neurons of `Found.frame`."""
    from tracer.plots import plot_effects, plot_neurons

    name, mean = files.slug(found.wordings[0].subject), found.mean
    attributed, acted = f"{name}_neurons", f"{name}_effects"
    rest = [suffix for suffix in suffixes if suffix not in ("csv", "json")]
    figure = {attributed: lambda: plot_neurons(mean, threshold=settings.threshold)}
    written = [_write_table(found, settings, folder / f"{attributed}.{form}") for form in suffixes if form not in rest]
    written += files.write(folder, attributed, rest, [mean], {attributed: mean}, figure)
    if found.effects:
        singles = {f"{acted}_{effect.action}": effect for effect in found.effects}
        figures = {acted: lambda: plot_effects(found.effects)}
        written += files.write(folder, acted, suffixes, found.effects, singles, figures)
    return written


def _write_table(found: Found, settings: Settings, path: Path) -> Path:
    """The neurons of the search as csv or json."""
    import json

    from tracer.plots.export import replacing

    if path.suffix == ".csv":
        text = found.frame(settings.threshold).to_csv(index=False)
    else:
        text = json.dumps(content(found, settings), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    return path
