"""Files of other tools: their hyper-parameters as settings, their result folders as evaluations."""

from .hparams import Hparams, read_hparams
from .runs import read_run

__all__ = ["Hparams", "read_hparams", "read_run"]
