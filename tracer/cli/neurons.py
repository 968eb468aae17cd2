"""`tracer neurons`: the neurons that a fact's wordings share, and what acting on them does."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any

import typer

from tracer.errors import AttributionError

from . import files, printing
from .command import Device, Formats, ModelName, Out, Subject, Target, apart, choice, choices, command, finite

ACTIONS = ("suppress", "amplify", "set_to")
Texts = list[str] | None


@command
def neurons(
    subject: Subject,
    prompt: Annotated[
        str | None, typer.Argument(help="Text to be continued, with the subject or {} in it; optional with --relation.")
    ] = None,
    target: Target = None,
    relation: Annotated[
        str | None,
        typer.Option(
            help="Take this fact, its wordings, neighbours and a control from those the embedded model knows."
        ),
    ] = None,
    paraphrases: Annotated[
        Texts, typer.Option("--paraphrase", help="Another wording, with the subject or {} in it; may be repeated.")
    ] = None,
    negatives: Annotated[
        Texts, typer.Option("--negative", help="Text without the fact: its neurons are removed; may be repeated.")
    ] = None,
    other: Annotated[
        str | None, typer.Option(help="Prompt of another fact, whose neurons are the control; acted on as well.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Keep scores above this share of the highest, 0.2; contrasts: standard deviations, 3."),
    ] = None,
    share: Annotated[float, typer.Option(help="Keep neurons of more than this share of the wordings.")] = 0.7,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the integral.")] = 20,
    rule: Annotated[str, typer.Option(help="published or gauss: how the integral is taken.")] = "published",
    site: Annotated[str, typer.Option(help="post or pre: after the non-linearity, or before it.")] = "post",
    token: Annotated[
        str, typer.Option(help="Where neurons act: answer, subject_last, or the number of a token.")
    ] = "answer",
    method: Annotated[str, typer.Option(help="integrated_gradients or activation_contrast.")] = "integrated_gradients",
    contrast: Annotated[
        Texts, typer.Option("--contrast", help="Text without the fact for activation_contrast; at least two.")
    ] = None,
    action: Annotated[
        str, typer.Option(help="suppress (to zero), amplify (times --factor), set_to (--value); several with commas.")
    ] = "suppress,amplify",
    factor: Annotated[float | None, typer.Option(help="Of amplify; without it 2.")] = None,
    value: Annotated[float | None, typer.Option(help="Of set_to; without it 0.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Sets of random neurons to compare with.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random neurons, neighbours and the control.")] = 0,
    model: ModelName = None,
    device: Device = None,
    out: Out = None,
    formats: Formats = "html",
) -> Any:
    """Find the neurons that all wordings of a fact share, act on them, and compare with controls.

    tracer neurons -s "The Space Needle" --relation landmark_city

    tracer neurons "{} is in downtown" -s "The Space Needle" --paraphrase "{} lies in the city of" --action suppress
    """
    from tracer.model import load
    from tracer.neurons.attribution import check_threshold
    from tracer.neurons.integrated_gradients import KINDS as SITES
    from tracer.neurons.integrated_gradients import METHODS, RULES
    from tracer.plots.export import writable_folder

    from . import prompts, search

    suffixes = files.formats(formats)
    how = choice("method", method, METHODS)
    if contrast and how != METHODS[1]:
        raise AttributionError("--contrast is for --method activation_contrast; add that, or leave it out")
    if how == METHODS[1] and len(contrast or []) < 2:
        raise AttributionError(
            "activation_contrast needs texts to compare with; give at least two, --contrast TEXT each"
        )
    least = threshold if threshold is not None else 3.0 if how == METHODS[1] else 0.2
    check_threshold(least, how)
    if not 0 <= share <= 1:
        raise AttributionError(f"share is {share}; expected a share of the wordings, from 0 to 1")
    actions = choices("action", action, ACTIONS)
    if "amplify" not in actions:
        apart({"--factor": factor}, "is for --action amplify; add that, or leave it out")
    if "set_to" not in actions:
        apart({"--value": value}, "is for --action set_to; add that, or leave it out")
    settings = search.Settings(
        method=how,
        steps=steps,
        rule=choice("rule", rule, RULES),
        site=choice("site", site, tuple(SITES)),
        token=_token(token),
        threshold=least,
        share=share,
        actions=tuple(actions),
        factor=finite("factor", 2.0 if factor is None else factor),
        value=finite("value", 0.0 if value is None else value),
        draws=draws,
        seed=seed,
    )
    given = prompts.Given(subject, prompt, target, relation, paraphrases or [], negatives or [], other, contrast or [])
    chosen = given.prompts(seed)
    with writable_folder(out) if out else nullcontext():
        found = search.search(load(model, device=device), chosen, settings)
        search.show(found, settings)
        written = files.placed(out, lambda folder: search.write(found, settings, folder, suffixes)) if out else []
        return {**search.content(found, settings), "effects": found.effects, "wrote": printing.wrote(written)}


def _token(given: str) -> str | int:
    name = given.strip().lower()
    if name in ("answer", "subject_last"):
        return name
    try:
        return int(name)
    except ValueError as error:
        raise AttributionError(
            f"token is {given!r}; expected answer, subject_last, or the number of a token"
        ) from error
