"""Evaluation sets as records of one type, whatever benchmark they come from."""

from .load import Loaded, Problem, RecordWarning, load_facts, load_records, read_records, records_of, save_records
from .record import KINDS, MEASURES, Ask, EditRecord, Kind, Rewrite

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
    "load_facts",
    "load_records",
    "read_records",
    "records_of",
    "save_records",
]
