"""Per-worker state: models, records, baselines; and rows of measurements."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from editing.attack import attack
from editing.edits.edit import Edit
from editing.evaluation.result.schema import COLUMNS
from editing.health.drift import Drift, Drifted
from editing.ledger.editor import Editor
from editing.methods.compute import compute_edits, method_named
from editing.methods.context import EditContext, Measured
from editing.questions.answer import CaseAnswers
from editing.questions.asking_records import ask_records
from editing.questions.case_functions import norm
from editing.questions.metric import Moment, Value
from editing.questions.metrics import case_metrics, edit_metrics, model_metrics
from editing.questions.record import EditRecord
from editing.questions.text_metrics import TermWeights
from tracer.errors import OtherRun, TracerError
from tracer.model import EMBEDDED, Model, load

from .blobs import answers_from_bytes
from .left_out import meaningful
from .protocol import Cell, Protocol, unedited_key

if TYPE_CHECKING:
    from tracer.runs import Claim

Rows = dict[str, list[dict[str, Any]]]
UNASKED = "cannot be asked, like the unedited model"


class Bench:
    """State of one worker, made from a run's settings.

    Args:
        settings: of the run.
        given: "models", by name, to be used rather than loaded; "hparams", for every cell, that json cannot hold.
    """

    def __init__(self, settings: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> None:
        self.records = [EditRecord.model_validate(record) for record in settings["records"]]
        self.protocol = Protocol.of(settings["protocol"])
        self.cells = [Cell(**cell) for cell in settings["cells"]]
        self._known: dict[str, Mapping[str, Any]] = {each["name"]: each for each in settings["models"]}
        self._models: dict[str, Model] = dict((given or {}).get("models", {}))
        self._hparams: Mapping[str, Any] = (given or {}).get("hparams", {})
        self._text = settings.get("canary")
        self._drifts: dict[str, Drift | None] = {}
        self._measured: dict[str, Measured] = {}
        references = [text for record in self.records for text in record.references]
        self._weights = TermWeights(references) if references else None

    # --- models ----------------------------------------------------------------------------------------------------
    def model(self, name: str) -> Model:
        """The model of this name, with the weights the run began with.

        Args:
            name: of the model.

        Raises:
            TracerError: it has other weights.
        """
        known = self._known[name]
        if name not in self._models:
            loaded = load(known["source"], device=known["device"], dtype=known["dtype"])
            self._models[name] = replace(loaded, name=name)
        model = self._models[name]
        if (found := model.fingerprint(known["fingerprint"])) != known["fingerprint"]:
            raise OtherRun(
                f"{name} has the weights {found[:12]}, but the run was begun with {known['fingerprint'][:12]}; "
                "give that model, or begin another run"
            )
        if name not in self._drifts:  # now, while the model has no edit
            tokens = meaningful(model, self.protocol).canary_tokens
            text = self._text if model.name == EMBEDDED else None
            self._drifts[name] = Drift.recorded(model, text, tokens=tokens) if tokens else None
        return model

    def drift(self, name: str) -> Drift | None:
        """Baseline on unrelated text, recorded when `model` first gave the model; None if it is off."""
        return self._drifts[name]

    # --- edits -----------------------------------------------------------------------------------------------------
    def edits(self, cell: Cell, cases: Sequence[int], **more: Any) -> list[Edit | str]:
        """Edit of each case alone on the model as it is, or why it failed; their values are found together."""
        groups = [self.records[i].requests() for i in cases]
        try:
            return list(self._computed(cell, groups, more))
        except TracerError as error:
            if len(groups) == 1:
                return [str(error)]
        return [edit for i in cases for edit in self.edits(cell, [i], **more)]

    def edit(self, cell: Cell, cases: Sequence[int], editor: Editor | None = None, **more: Any) -> Edit | str:
        """One edit for all of these cases, or the reason why it failed; with an editor, on its model as it is now."""
        requests = [request for i in cases for request in self.records[i].requests()]
        try:
            return self._computed(cell, [requests], more, editor)[0]
        except TracerError as error:
            return str(error)

    def _computed(
        self, cell: Cell, groups: Sequence[Any], more: Mapping[str, Any], editor: Editor | None = None
    ) -> list[Edit]:
        known = method_named(cell.method).parameters
        objects = {name: value for name, value in {**self._hparams, **more}.items() if name in known}
        # drift on unrelated text has its own columns here
        found = {**cell.options(), **objects}
        model = self._models[cell.model]
        if editor is None:
            context = EditContext(model, measured=self._measured.setdefault(cell.model, Measured()))
        else:
            context = editor.context(found.get("covariance"))
        return compute_edits(model, groups, cell.method, known="edit", check=None, context=context, **found)

    # --- answers ---------------------------------------------------------------------------------------------------
    def asked(
        self, model: Model, cases: Sequence[int], before: Sequence[CaseAnswers | None] | None = None, texts: bool = True
    ) -> list[CaseAnswers | str]:
        """Answers to the questions of cases, from the model as it is; or the reason why a case cannot be asked.

        Args:
            model: to ask.
            cases: places of the records.
            before: of the unedited model; None for a case that could not be asked then.
            texts: let the model continue prompts too.
        """
        if before is None:
            return self._asked(model, cases, None, texts)
        fit = [place for place, old in enumerate(before) if old is not None]
        asked = self._asked(model, [cases[place] for place in fit], [old for old in before if old is not None], texts)
        found: list[CaseAnswers | str] = [UNASKED] * len(cases)
        for place, one in zip(fit, asked, strict=True):
            found[place] = one
        return found

    def _asked(
        self, model: Model, cases: Sequence[int], before: Sequence[CaseAnswers] | None, texts: bool
    ) -> list[CaseAnswers | str]:
        protocol = meaningful(model, self.protocol)
        try:
            return list(
                ask_records(
                    model,
                    [self.records[i] for i in cases],
                    generate=protocol.generate and model.causal,
                    texts=texts and protocol.texts and model.causal,
                    before=before,
                    text_tokens=protocol.text_tokens,
                )
            )
        except TracerError as error:  # such as a prompt longer than the context, or logits that are no numbers
            if len(cases) == 1:
                return [f"cannot be asked: {error}"]
        alone = [None] * len(cases) if before is None else [[old] for old in before]
        return [one for i, old in zip(cases, alone, strict=True) for one in self._asked(model, [i], old, texts)]

    def before(self, claim: Claim, model: str, cases: Sequence[int]) -> list[CaseAnswers | None]:
        """Answers of the unedited model to cases; None for one that could not be asked."""
        chunk = self.protocol.chunk
        kept = [claim.blob_of(unedited_key(model, i - i % chunk), f"answers {i}") for i in cases]
        return [None if blob is None else answers_from_bytes(blob) for blob in kept]

    # --- rows ------------------------------------------------------------------------------------------------------
    def rows(
        self,
        labels: Mapping[str, Any],
        case: int,
        answers: CaseAnswers,
        before: CaseAnswers | None,
        further: Sequence[Value] = (),
        *,
        position: int = 0,
        after: int = 1,
        kept: bool = True,
    ) -> Rows:
        """Rows of "metrics" and, if wanted, of "answers".

        Args:
            labels: values of `LABELS`.
            case: place of the record.
            answers: to the questions of the case.
            before: of the unedited model.
            further: other metrics of the case.
            position: of the edit in a sequence.
            after: number of edits made.
            kept: with rows of "answers".
        """
        record = self.records[case]
        head = {**labels, "case_id": record.case_id, "after": after}
        values = [*case_metrics(record, answers, before, weights=self._weights), *further]
        place = {"subject": record.rewrites[0].subject, "position": position}
        rows = {"metrics": [{**head, **place, **asdict(value)} for value in values if not math.isnan(value.value)]}
        routes = [(one, route) for one in answers.answers for route in one.routes] if kept else []
        if routes:
            rows["routes"] = [
                {**head, "kind": one.kind, "prompt": one.prompt, **asdict(route)} for one, route in routes
            ]
        if kept and case < self.protocol.answer_cases:
            columns = [name for name in COLUMNS["answers"] if name not in head]
            rows["answers"] = [{**head, **{name: getattr(each, name) for name in columns}} for each in answers.answers]
            empty = {name: None if name in ("answer", "against") else math.nan for name in columns}
            rows["answers"] += [
                {**head, **empty, "kind": "text", "prompt": prompt, "generated": text.removeprefix(prompt)}
                for prompt, text in zip(record.generate, answers.texts, strict=False)
            ]
        return rows

    def edit_row(
        self, labels: Mapping[str, Any], case: int, edit: Edit | str, position: int = 0, share: int = 1
    ) -> dict[str, Any]:
        """The row of "edits".

        Args:
            labels: values of `LABELS`.
            case: place of the record.
            edit: the edit, or the reason why it failed.
            position: of the edit in a sequence.
            share: number of cases among which the seconds of the edit are divided.
        """
        head = {**labels, "case_id": self.records[case].case_id, "position": position}
        if isinstance(edit, str):
            none = {"seconds": math.nan, "peak_bytes": None, "norm": math.nan, "rank": None}
            return {**head, **none, "error": edit}
        return {
            **head,
            "seconds": edit.seconds / share,
            "peak_bytes": edit.memory,
            "norm": norm(edit),
            "rank": max(edit.rank().values(), default=0),
            "error": "",
        }

    def drifted(self, name: str, model: Model) -> Drifted | None:
        """Drift of a model with an edit from itself on unrelated text."""
        drift = self.drift(name)
        return None if drift is None else drift.read(model)

    def tried(
        self, cell: Cell, model: Model, case: int, edit: Edit, before: CaseAnswers | None, control: str = ""
    ) -> tuple[Rows, str]:
        """Rows of a case edited alone, and the reason for missing rows or ""; the model is as before afterwards.

        Args:
            cell: the method as it is used.
            model: to be edited.
            case: place of the record.
            edit: of the case.
            before: answers of the unedited model.
            control: name of the control, or "".
        """
        with edit.applied(model):
            (answers,) = self.asked(model, [case], [before])
            if isinstance(answers, str):
                return {}, answers
            further = self.measured(model, case, self.drifted(cell.model, model), edit)
        return self.rows(cell.labels(control), case, answers, before, further, kept=not control), ""

    def measured(
        self, model: Model, case: int, drifted: Drifted | None, edit: Edit | None = None, share: int = 1
    ) -> list[Value]:
        """All metrics of a case that need the model as it is, or the edit that it has.

        Args:
            model: with the edit, or unedited.
            case: place of the record.
            drifted: drift of the model on unrelated text.
            edit: of the case; None: the model is unedited.
            share: number of cases among which the edit's seconds are divided.
        """
        attacked = self._attacked(model, case) if meaningful(model, self.protocol).attack else {}
        found = model_metrics(Moment(model, self.records[case], drifted, edited=edit is not None, attacked=attacked))
        return found if edit is None else [*found, *edit_metrics(edit, share)]

    def _attacked(self, model: Model, case: int) -> dict[str, float]:
        """By attack, the share of a case's old answers that it brings back; empty where one is not known."""
        record = self.records[case]
        if any(request.target_true is None for request in record.requests()):
            return {}
        found = attack(model, record, budget=self.protocol.attack)
        return {name: float(found.success(name).mean()) for name in found.made}


def add(rows: Rows, more: Mapping[str, list[dict[str, Any]]]) -> None:
    """Put rows of several tables behind others."""
    for table, added in more.items():
        rows.setdefault(table, []).extend(added)


def seed_of(*parts: Any) -> int:
    """A seed that depends on all of `parts`, and on nothing else."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")
