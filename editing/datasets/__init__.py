"""Evaluation sets as records of one type, whatever benchmark they come from."""

from editing.questions.record import KINDS, MEASURES, Ask, EditRecord, Kind, Rewrite

from .load import Loaded, load_facts, load_records, read_records, records_of, save_records
from .problems import Problem, RecordWarning
from .unused import Unused

__all__ = [
    "KINDS",
    "MEASURES",
    "Ask",
    "EditRecord",
    "Kind",
    "Loaded",
    "Problem",
    "RecordWarning",
    "Rewrite",
    "Unused",
    "load_facts",
    "load_records",
    "read_records",
    "records_of",
    "save_records",
]
