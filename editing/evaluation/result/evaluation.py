"""Measurements of an evaluation: tidy tables, their summaries, and one file that holds them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.errors import EvaluationFileError
from tracer.files import new_file
from tracer.html_table import html_of

from .former_names import asked_for
from .schema import COLUMNS, COUNT, LABELS, NUMBER, WHOLE, Frame, typed

if TYPE_CHECKING:
    from .comparison import Comparison, Select
    from .retention import Retention

HEADER = b"SQLite format 3\0"
PLACE = ("job_job", "job_item", "job_row")  # of a row in the file of a run, in any order of writing
SQL = {WHOLE: "INTEGER", COUNT: "INTEGER", NUMBER: "REAL"}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Measurements of edits, of the unedited model, and of controls, in tidy tables (columns: `tables.COLUMNS`).

    Each table may be given as a frame or as a sequence of rows.

    Attributes:
        metrics: one row per case, metric and moment. Metrics that could not be measured have no row.
        answers: one row per question and moment.
        routes: one row per question, moment and memory of the model: whether it acted, and how near it was.
        edits: one row per edit: time, memory, size, or why it could not be made.
        health: the whole model's state after so many edits.
        settings: all settings of the run.

    Raises:
        TracerError: a table with missing columns, or values that do not fit a column.
    """

    metrics: Frame
    answers: Frame
    routes: Frame
    edits: Frame
    health: Frame
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        for name in COLUMNS:
            object.__setattr__(self, name, typed(name, getattr(self, name)))
        object.__setattr__(self, "settings", dict(self.settings))

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None = None, **tables: Any) -> Evaluation:
        """An evaluation from some tables; the others are empty.

        Args:
            settings: of the run.
            tables: by name, as frames or sequences of rows.
        """
        unknown = tables.keys() - COLUMNS.keys()
        if unknown:
            raise EvaluationFileError(
                f"there is no table {sorted(unknown)[0]!r}; expected some of {', '.join(COLUMNS)}"
            )
        return cls(**{name: tables.get(name, ()) for name in COLUMNS}, settings=dict(settings or {}))

    @property
    def frame(self) -> Frame:
        """The table of metrics."""
        return self.metrics

    def to_frame(self) -> Frame:
        """The table of metrics."""
        return self.metrics

    def among(self, cases: Iterable[str]) -> Evaluation:
        """The same of some cases only.

        Args:
            cases: their ids.
        """
        wanted = {str(case) for case in cases}
        apart = {name: getattr(self, name) for name in COLUMNS}
        some = {name: rows[rows["case_id"].isin(wanted)] if "case_id" in rows else rows for name, rows in apart.items()}
        return Evaluation.of(self.settings, **some)

    def known(self, whether: bool = True) -> tuple[str, ...]:
        """Ids of the cases whose true answer the unedited model gives, or does not give; empty where it was not asked.

        Of the latter an edit has no old answer to replace: `evaluation.among(evaluation.known())` counts them apart.

        Args:
            whether: True: cases with the true answer; False: cases without it.
        """
        asked = self.metrics[self.metrics["metric"] == "known"]
        return tuple(dict.fromkeys(asked[asked["value"] == float(whether)]["case_id"]))

    @property
    def left_out(self) -> dict[str, str]:
        """By model, what was asked for and means nothing there, in words; empty where all was measured."""
        return dict(self.settings.get("left_out", {}))

    # --- summaries ---------------------------------------------------------------------------------------------------
    def summary(
        self,
        by: Sequence[str] = LABELS,
        *,
        metrics: Sequence[str] | None = None,
        level: float = 0.95,
        resamples: int = 2000,
        seed: int = 0,
    ) -> Frame:
        """Means over cases with their intervals: [`editing.evaluation.result.summary.summarise`][].

        Args:
            by: the columns of `LABELS` that make a series.
            metrics: the metrics wanted; None: all.
            level: of the intervals.
            resamples: draws of the bootstrap.
            seed: of the draws.
        """
        from .summary import summarise

        only = None if metrics is None else [asked_for(name) for name in metrics]
        return summarise(self.metrics, by, only=only, level=level, resamples=resamples, seed=seed)

    def score(self, by: Sequence[str] = LABELS, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Frame:
        """CounterFact's S with its interval: [`editing.evaluation.result.summary.score`][].

        Args:
            by: the columns of `LABELS` that make a series.
            level: of the intervals.
            resamples: draws of the bootstrap.
            seed: of the draws.
        """
        from .summary import score

        return score(self.metrics, by, level=level, resamples=resamples, seed=seed)

    def compare(
        self,
        a: Select,
        b: Select,
        metric: str,
        *,
        stage: str = "edited",
        level: float = 0.95,
        resamples: int = 2000,
        seed: int = 0,
    ) -> Comparison:
        """The paired difference of two methods: [`editing.evaluation.result.comparison.compare`][].

        Args:
            a: a method's name, or labels and their values.
            b: the other, likewise.
            metric: its name.
            stage: "edited" or "end".
            level: of the interval.
            resamples: draws of the bootstrap.
            seed: of the draws.
        """
        from .comparison import compare

        return compare(self.metrics, a, b, asked_for(metric), stage=stage, level=level, resamples=resamples, seed=seed)

    def retention(
        self,
        metric: str | None = None,
        by: Sequence[str] = LABELS,
        *,
        level: float = 0.95,
        resamples: int = 2000,
        seed: int = 0,
    ) -> Retention:
        """Effect of later edits on earlier ones: [`editing.evaluation.result.retention.retention`][].

        Args:
            metric: its name; None: whether edits still hold.
            by: the columns of `LABELS` that make a series.
            level: of the intervals.
            resamples: draws of the bootstrap.
            seed: of the draws.
        """
        from .retention import retention

        metric = None if metric is None else asked_for(metric)
        return retention(self.metrics, metric, by, level=level, resamples=resamples, seed=seed)

    def __str__(self) -> str:
        from .text import as_text

        unknown = len(self.known(False))
        return as_text(self.summary(), self.score(), self.metrics, unknown=unknown, left_out=self.left_out)

    def _repr_html_(self) -> str:
        title = f"evaluation of {self.metrics['case_id'].nunique()} cases"
        return html_of(title, self.summary()) if len(self.metrics) else html_of(title, self.metrics)

    # --- files -------------------------------------------------------------------------------------------------------
    def to_plain(self) -> dict[str, Any]:
        """Every table as a list of rows, and the settings, of JSON values only; nan is None."""
        tables = {name: json.loads(getattr(self, name).to_json(orient="records")) for name in COLUMNS}
        return {**tables, "settings": _parsed(_json(self.settings))}

    def save(self, path: str | Path) -> Path:
        """Write everything to one SQLite file, whole or not at all; it replaces one of the same name.

        Args:
            path: of the file.

        Raises:
            TracerError: it cannot be written; the suffix is .npz, which names another format.
        """
        path = Path(path)
        if path.suffix.lower() == ".npz":
            raise EvaluationFileError(
                f"an evaluation is saved as an SQLite file, not as npz; name it {path.stem}.sqlite"
            )
        with new_file(path) as temporary:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                with closing(sqlite3.connect(temporary)) as base, base:
                    for name, columns in COLUMNS.items():
                        _write(base, name, columns, getattr(self, name))
                    base.execute("CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT)")
                    pairs = [(key, _json(value)) for key, value in self.settings.items()]
                    base.executemany("INSERT INTO settings VALUES (?, ?)", pairs)
            except (sqlite3.Error, UnicodeEncodeError) as error:
                raise EvaluationFileError(f"cannot write {path} ({error}); choose another file") from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read a file of `save`, or the measurements so far of an unfinished run.

        The file is opened for reading only, and may be written to by others meanwhile.

        Args:
            path: of the file.

        Raises:
            TracerError: a file that is missing or holds no evaluation.
        """
        path = Path(path)
        wanted = "expected the file of a run, or what Evaluation.save wrote"
        try:
            with open(path, "rb") as file:
                header = file.read(len(HEADER))
        except OSError as error:
            raise EvaluationFileError(f"cannot read {path} ({error.strerror or error}); {wanted}") from error
        if header != HEADER:
            raise EvaluationFileError(f"{path} is no SQLite file; {wanted}")
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as base:
                base.execute("BEGIN")  # one moment for all tables
                found = {str(row[0]) for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                if "metrics" not in found:
                    raise EvaluationFileError(f"{path} holds no evaluation: it has no table 'metrics'; {wanted}")
                tables = {name: _read(base, name) for name in COLUMNS if name in found}
                pairs = base.execute("SELECT key, value FROM settings").fetchall() if "settings" in found else []
        except sqlite3.Error as error:
            raise EvaluationFileError(f"cannot read {path} ({error}); {wanted}") from error
        return cls.of({str(key): _parsed(value) for key, value in pairs}, **tables)


def _write(base: sqlite3.Connection, name: str, columns: Mapping[str, str], frame: Frame) -> None:
    declared = ", ".join(f'"{column}" {SQL.get(kind, "TEXT")}' for column, kind in columns.items())
    base.execute(f"CREATE TABLE {name} ({declared})")
    # Python's own numbers and None: SQLite would store numpy's as bytes. It has no nan; NULL is read as one
    plain = [frame[column].astype(object).where(frame[column].notna(), None).tolist() for column in columns]
    places = ", ".join("?" * len(columns))
    base.executemany(f"INSERT INTO {name} VALUES ({places})", zip(*plain, strict=True))


def _read(base: sqlite3.Connection, name: str) -> Frame:
    """The whole table, every column as objects, in the order in which it was written; of a run in that of its jobs."""
    import pandas as pd

    columns = [str(row[1]) for row in base.execute(f"PRAGMA table_info({name})")]
    order = [column for column in PLACE if column in columns] or ["rowid"]
    rows = base.execute(f"SELECT * FROM {name} ORDER BY {', '.join(order)}").fetchall()
    return pd.DataFrame(rows, columns=pd.Index(columns), dtype=object)


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _parsed(text: Any) -> Any:
    """A value from JSON; any other text as it is."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
