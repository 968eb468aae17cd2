"""Evaluation sets as records of one type, whatever benchmark they come from."""

from editing.questions.question import KINDS, MEASURES, Kind, Question
from editing.questions.record import EditRecord, Rewrite
from tracer.moved import former

from .load import Loaded, load_facts, load_records, read_records, records_of, save_records
from .problems import Problem, RecordWarning
from .spans import in_spans
from .unused import Unused

__getattr__ = former(__name__, {"Ask": Question})

__all__ = [
    "KINDS",
    "MEASURES",
    "EditRecord",
    "Kind",
    "Loaded",
    "Problem",
    "Question",
    "RecordWarning",
    "Rewrite",
    "Unused",
    "in_spans",
    "load_facts",
    "load_records",
    "read_records",
    "records_of",
    "save_records",
]
