"""`tracer evaluate`, also under the name `tracer sweep`: the effects of methods of editing, on many records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from tracer.cli import printing
from tracer.cli.command import Cluster, Device, Workers, choice, command
from tracer.errors import CommandOptionError, EvaluationFileError

if TYPE_CHECKING:
    from editing.datasets import EditRecord
    from editing.evaluation.result.evaluation import Evaluation
    from editing.evaluation.run.protocol import Cell, Protocol
    from tracer.model import Model

RECORDS = "Records"
MEASURE = "What is measured"
RUN = "The run"

Records = Annotated[
    str | None,
    typer.Argument(
        metavar="RECORDS",
        help="A file of records (json, jsonl, csv; CounterFact, zsRE, KnowEdit, MQuAKE, RippleEdits or an own layout), "
        "or a set: factworld, counterfact, zsre, knowedit:wiki_recent, ... Left out: go on with the run in --out.",
    ),
]
Split = Annotated[str | None, typer.Option(help="Part of the set, such as test.", rich_help_panel=RECORDS)]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many.", rich_help_panel=RECORDS)]
Draw = Annotated[
    int | None,
    typer.Option(min=1, help="So many instead, drawn at random: the same ones every time.", rich_help_panel=RECORDS),
]
Layout = Annotated[str | None, typer.Option(help="Name of the layout, if it is not seen.", rich_help_panel=RECORDS)]
Lenient = Annotated[
    bool, typer.Option("--lenient", help="Leave out records that are wrong, as a set does.", rich_help_panel=RECORDS)
]
Spans = Annotated[
    bool,
    typer.Option(
        "--spans",
        help="Ask an encoder-decoder model to fill in what stands behind each prompt; questions stay questions.",
        rich_help_panel=RECORDS,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="A hyper-parameter, NAME=VALUE, for methods that have it; may be repeated."),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help="How it is measured, NAME=VALUE: chunk, batch, step, control_cases, answer_cases, retention, moments, "
        "text_tokens, canary_tokens, on_alarm; may be repeated.",
        rich_help_panel=MEASURE,
    ),
]
Texts = Annotated[
    bool, typer.Option("--texts/--no-texts", help="Fluency and consistency of written texts.", rich_help_panel=MEASURE)
]
Controls = Annotated[
    bool,
    typer.Option("--controls/--no-controls", help="Random direction and random layers too.", rich_help_panel=MEASURE),
]
Attack = Annotated[
    int,
    typer.Option(min=0, help="Guesses at the old answer right after each edit; 0: no attack.", rich_help_panel=MEASURE),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="File of the run. If it is there, the run goes on where it was.", rich_help_panel=RUN
    ),
]


SWEEP = """Evaluate every combination of methods, modes, layers, seeds and models, in one file.

The command evaluate with other defaults: without written texts and controls, into sweep.sqlite.

tracer sweep factworld --split validation --limit 40 --layers 1 --layers 2 --layers 3 --seeds 0,1 --workers 2
"""


@command(name="sweep", help=SWEEP, texts=False, controls=False, out=Path("sweep.sqlite"))
@command
def evaluate(
    records: Records = None,
    methods: Annotated[str, typer.Option("--method", "--methods", help="Methods, with commas between.")] = "rome",
    modes: Annotated[
        str, typer.Option("--mode", "--modes", help="single, batch or sequential, or several with commas between.")
    ] = "single",
    layers: Annotated[
        list[str] | None, typer.Option(help="Where to write, such as 2,3 or 3-8; repeated: each in turn.")
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seed", "--seeds", help="Seed of whatever is drawn, or several with commas between.")
    ] = "0",
    sets: Sets = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Hub name, folder, .gguf file or a name of tracer models; without it the embedded model; repeated: "
            "each in turn.",
        ),
    ] = None,
    device: Device = None,
    split: Split = None,
    limit: Limit = None,
    draw: Draw = None,
    layout: Layout = None,
    lenient: Lenient = False,
    spans: Spans = False,
    options: Options = None,
    texts: Texts = True,
    controls: Controls = True,
    attack: Attack = 0,
    out: Out = Path("run.sqlite"),
    workers: Workers = 1,
    cluster: Cluster = None,
) -> Any:
    """Edit a model with every record's fact, and measure what that did beside the unedited model and random controls.

    Of several methods, modes, layers, seeds and models every combination is measured.

    tracer evaluate factworld --split test --limit 100 --method rome,memit --out run.sqlite

    tracer evaluate factworld --layers 1 --layers 2 --layers 3 --seeds 0,1 --no-texts --no-controls --workers 2

    tracer report run.sqlite
    """
    from . import hparams as parameters

    layer_sets = [parameters.layers_of(text) for text in layers or []] or [None]
    numbers = [_whole("seed", text) for text in _names(seeds)]
    grid = _Grid(_names(methods), list(models or [None]), _names(modes), layer_sets, numbers, sets or [])
    source = _Source(records, split, limit, draw, layout, lenient, spans)
    evaluation = _go(source, grid, _protocol(options or [], texts, controls, attack), out, device, workers, cluster)
    for line in str(evaluation).splitlines():
        printing.say(line)
    printing.wrote([out])
    printing.say(f"tracer report {out} makes a page of it")
    tables = {"summary": evaluation.summary(), "score": evaluation.score()}
    return {**{name: table.to_dict("records") for name, table in tables.items()}, "wrote": [out]}


@dataclass(frozen=True)
class _Source:
    name: str | None
    split: str | None
    limit: int | None
    draw: int | None
    layout: str | None
    lenient: bool
    spans: bool

    def records(self) -> list[EditRecord]:
        from editing.datasets import load_records

        assert self.name is not None
        strict = False if self.lenient else None
        found = load_records(self.name, split=self.split, limit=self.limit, layout=self.layout, strict=strict)
        if self.draw is None or self.draw >= len(found):
            return found
        return [found[i] for i in sorted(Random(0).sample(range(len(found)), self.draw))]

    def asked(self, records: list[EditRecord], models: Sequence[Model]) -> list[EditRecord]:
        """The records as the models are asked them.

        Raises:
            TracerError: spans of models with different marks, or of one that has none.
        """
        if not self.spans:
            return records
        from editing.datasets import in_spans

        every = [in_spans(model, records) for model in models]
        if any(other != every[0] for other in every):
            names = " and ".join(model.name for model in models)
            raise CommandOptionError(f"spans of {names} have different marks; evaluate one family of models at a time")
        return every[0]


class _Grid:
    def __init__(
        self,
        methods: Sequence[str],
        models: Sequence[str | None],
        modes: Sequence[str],
        layers: Sequence[tuple[int, ...] | None],
        seeds: Sequence[int],
        sets: Sequence[str],
    ) -> None:
        from editing.evaluation.run.protocol import Mode

        from . import hparams as parameters

        self.methods, self.models, self.layers, self.seeds = methods, models, layers, seeds
        self.modes = [choice("mode", mode, get_args(Mode)) for mode in modes]
        self.hparams = parameters.read_for(methods, sets)

    def cells(self, names: Sequence[str]) -> list[Cell]:
        from editing.evaluation.run.start import cells_of

        modes: Any = self.modes
        return cells_of(self.methods, names, modes, self.layers, self.seeds, self.hparams)


def _go(
    source: _Source,
    grid: _Grid,
    protocol: Protocol,
    out: Path,
    device: str | None,
    workers: int,
    cluster: str | None,
) -> Evaluation:
    from editing.evaluation.run.start import begin, carry_on
    from tracer.model import load

    given: dict[str, Any] | None = None
    if source.name is not None:
        grid.cells([""])  # TracerError before anything is loaded
        records = source.records()
        loaded = [load(name, device=device) for name in grid.models]
        begin(out, loaded, source.asked(records, loaded), grid.cells([model.name for model in loaded]), protocol)
        if workers == 1 and cluster is None:
            given = {"models": {model.name: model for model in loaded}}
    elif not out.exists():
        raise EvaluationFileError(f"there is no run in {out} to go on with; name RECORDS to begin one")
    return carry_on(out, workers=workers, cluster=cluster, given=given)


def _protocol(options: Sequence[str], texts: bool, controls: bool, attack: int) -> Protocol:
    from editing.evaluation.run.protocol import CONTROLS, Protocol

    found: dict[str, Any] = {"texts": texts, "controls": CONTROLS if controls else (), "attack": attack}
    for text in options:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not value.strip():
            raise CommandOptionError(f"--option {text!r} sets nothing; write name=value, such as chunk=8")
        value = value.strip()
        found[name] = value if name == "on_alarm" else None if value == "none" else _whole(name, value)
    return Protocol.of(found)


def _names(text: str) -> list[str]:
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise CommandOptionError(f"{text!r} names nothing; write names with commas between")
    return found


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise CommandOptionError(f"{name} is {text!r}; expected a whole number") from None
