"""`tracer edit`: write a fact into a model, and show the effects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracer.cli.command import Device, ModelName, apart, choice, command
from tracer.errors import CommandOptionError, UnknownMethod

if TYPE_CHECKING:
    from editing.health.harm import Check

METHOD = "rome"  # the default
CHECKS: dict[str, Check] = {"warn": "warn", "refuse": "refuse", "none": None}
LOCATORS = ("trace", "neurons", "change", "sweep")
Texts = list[str] | None
WANT = "What to edit"
HOW = "How"
ASK = "What to ask before and after"
KEEP = "What to keep"


@command
def edit(
    method: Annotated[
        str | None,
        typer.Argument(
            metavar="METHOD",
            help="rome, r_rome, wilke, memit, emmet, alphaedit, pmet, ft_l, ft_m, lora, kn, t_patcher, calinet, grace, "
            "melo, serac, wise, mend, malmen, rledit, ke, rase, ike, recipe, lte or dinm; without it rome. With "
            "--undo and --ledger instead how many edits are taken back.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="Text that the target is to follow; it holds the subject, or {}."),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option("--subject", "-s", help="What the fact is about; a part of the prompt.", rich_help_panel=WANT),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--to", "--target", help='The new answer, such as "Paris".', rich_help_panel=WANT)
    ] = None,
    true: Annotated[
        str | None,
        typer.Option("--from", help="The answer so far; without it what the model says.", rich_help_panel=WANT),
    ] = None,
    space: Annotated[
        bool | None,
        typer.Option(
            "--space/--no-space",
            help="Whether a space stands between prompt and answer; without it as the texts tell.",
            rich_help_panel=WANT,
        ),
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option(help="File of many requests instead: json, jsonl or csv; or records.", rich_help_panel=WANT),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Of --requests only the first so many.", rich_help_panel=WANT)
    ] = None,
    saved: Annotated[
        Path | None,
        typer.Option("--load", help="Use an edit that was saved, instead of computing one.", rich_help_panel=WANT),
    ] = None,
    undo: Annotated[
        bool,
        typer.Option(
            "--undo",
            help="Take the last edit of --ledger back, or with a number the last so many. Without a ledger: take the "
            "edit back at the end, and compare the bits.",
            rich_help_panel=WANT,
        ),
    ] = False,
    layers: Annotated[str | None, typer.Option(help="Where to write, such as 2,3 or 3-8.", rich_help_panel=HOW)] = None,
    hparams: Annotated[
        Texts,
        typer.Option(
            "--set", help="A hyper-parameter of the method, NAME=VALUE; may be repeated.", rich_help_panel=HOW
        ),
    ] = None,
    covariance: Annotated[
        Path | None, typer.Option(help="File of second moments of keys.", rich_help_panel=HOW)
    ] = None,
    prepared: Annotated[
        Path | None, typer.Option(help="File of tracer prepare, for methods that need one.", rich_help_panel=HOW)
    ] = None,
    locate: Annotated[
        str | None,
        typer.Option(help="Find the layers first: by trace, neurons, change or sweep.", rich_help_panel=HOW),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            "--anyway",
            help="Also write what the model says already, or a saved edit of other weights.",
            rich_help_panel=HOW,
        ),
    ] = False,
    check: Annotated[
        str,
        typer.Option(
            help="What becomes of an edit that ruins the model, by perplexity on unrelated text: warn, refuse or none.",
            rich_help_panel=HOW,
        ),
    ] = "warn",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the method's random draws.", rich_help_panel=HOW)
    ] = None,
    model: ModelName = None,
    device: Device = None,
    paraphrases: Annotated[
        Texts,
        typer.Option("--paraphrase", help="Another wording, {} for the subject; may be repeated.", rich_help_panel=ASK),
    ] = None,
    neighbours: Annotated[
        Texts,
        typer.Option(
            "--neighbour",
            help='Another fact, which should stay: "PROMPT=ANSWER"; may be repeated.',
            rich_help_panel=ASK,
        ),
    ] = None,
    generate: Annotated[
        Texts,
        typer.Option(help="Text to be continued, {} for the subject; may be repeated.", rich_help_panel=ASK),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="File for the edit: safetensors.", rich_help_panel=KEEP)] = None,
    reports: Annotated[
        list[Path] | None,
        typer.Option(
            "--report",
            help="File for the answers before and after: html, png, svg, pdf, json or csv; may be repeated.",
            rich_help_panel=KEEP,
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--export",
            help="Write a LoRA adapter (peft), the edited model (hf), or that with its memories in its weights (baked) "
            "to --out.",
            rich_help_panel=KEEP,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New folder for --export.", rich_help_panel=KEEP)
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps every edit: made if need be, else its edits are made first.", rich_help_panel=KEEP
        ),
    ] = None,
) -> Any:
    """Write a fact into a model, and show what the model said before and says now.

    Of the embedded model other wordings, neighbours and the subject's other facts are found by themselves. Nothing is
    kept unless --save, --export or --ledger says so.

    tracer edit rome "{} is in downtown" -s "The Space Needle" --to Paris --ledger runs

    tracer edit memit --requests facts.json --save edit.safetensors

    tracer edit --load edit.safetensors

    tracer edit --undo --ledger runs
    """
    from editing.methods.compute import method_named

    from . import hparams as parameters
    from . import run
    from .places import Places
    from .wish import Wish

    places = Places.checked(save, reports or [], form, out, ledger)
    how = {"--layers": layers, "--set": hparams, "--covariance": covariance, "--prepared": prepared}
    how |= {"--locate": locate, "--seed": seed}
    back = undo and (ledger is not None or (method or "").isdecimal())
    name = METHOD
    if not back and saved is None:
        name, prompt = _method_and_prompt(method, prompt)
    texts = (paraphrases or [], neighbours or [], generate or [])
    wish = Wish(prompt, subject, target, true, space, requests, limit, *texts)
    if back:
        if ledger is None:
            raise CommandOptionError(f"--undo {method} takes back edits of a ledger; name its folder: --ledger FOLDER")
        if method is not None and not method.isdecimal():
            raise CommandOptionError(f"--undo with --ledger takes edits back and makes none; leave {method!r} out")
        kept = {"--load": saved, "--save": save, "--export": form, "--force": force}
        apart({**wish.given(), **how, **kept}, "is for an edit to be made, and --undo --ledger takes edits back")
        return run.take_back(wish, places, 1 if method is None else int(method), model, device)
    job = run.Job(wish, places, model, device, force, undo, CHECKS[choice("check", check, list(CHECKS))])
    if saved is not None:
        given = {"METHOD": method, **wish.given(), **how}
        apart(given, "is for an edit to be computed, and --load uses one that was; leave one of them out")
        return run.make(job, run.Saved(saved))
    chosen = method_named(name)
    settings = parameters.read(chosen, hparams or [], layers, seed)
    if covariance is not None:
        settings |= parameters.covariance(chosen, covariance)
    if prepared is not None:
        settings |= parameters.prepared(chosen, prepared)
    if locate is not None:
        locate = choice("locate", locate, LOCATORS)
        if chosen.layers == "none":
            raise UnknownMethod(f"{chosen.name} takes no layers; leave --locate out")
        apart({"--layers": layers}, "and --locate both say where to write; leave one of them out")
    return run.make(job, run.Computed(chosen, settings, locate))


def _method_and_prompt(first: str | None, second: str | None) -> tuple[str, str | None]:
    """The two positions of the command; a text with a space alone is the prompt of the default method."""
    from tracer.facts.fact import SLOT

    if first is not None and second is None and (" " in first.strip() or SLOT in first):
        return METHOD, first
    return first or METHOD, second
