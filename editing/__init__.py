"""Change what a language model states as fact, and measure what else changed."""

from editing.compute import compute_edit, compute_edits
from editing.covariance import Covariance
from editing.covariance_default import covariance_for
from editing.datasets import EditRecord, load_records
from editing.edit import Edit, load_edit
from editing.editor import Editor
from editing.evaluation import Evaluation, evaluate
from editing.harm import HarmWarning
from editing.locate import locate
from editing.located import Located
from editing.moments import estimate_covariance
from editing.outcome import Outcome, measure
from editing.plots import plot_evaluation, plot_health, plot_locate, plot_outcome, plot_radar, plot_retention
from editing.probes import Probes
from editing.published import published
from editing.request import EditRequest, EditWarning
from editing.weights import fingerprint

__all__ = [
    "Covariance",
    "Edit",
    "EditRecord",
    "EditRequest",
    "EditWarning",
    "Editor",
    "Evaluation",
    "HarmWarning",
    "Located",
    "Outcome",
    "Probes",
    "compute_edit",
    "compute_edits",
    "covariance_for",
    "estimate_covariance",
    "evaluate",
    "fingerprint",
    "load_edit",
    "load_records",
    "locate",
    "measure",
    "plot_evaluation",
    "plot_health",
    "plot_locate",
    "plot_outcome",
    "plot_radar",
    "plot_retention",
    "published",
]
