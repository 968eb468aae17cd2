"""An evaluation at work: protocol, jobs, workers, controls."""

from .protocol import Cell, Protocol
from .start import begin, carry_on, cells_of, evaluate

__all__ = [
    "Cell",
    "Protocol",
    "begin",
    "carry_on",
    "cells_of",
    "evaluate",
]
