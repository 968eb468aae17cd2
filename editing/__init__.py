"""Change what a language model states as fact, and measure what else changed."""

from editing.covariance.covariance import Covariance
from editing.covariance.default import covariance_for
from editing.covariance.estimate import estimate_covariance
from editing.edits.edit import Edit, load_edit
from editing.edits.weights import fingerprint
from editing.evaluation.run.start import evaluate
from editing.health.harm import HarmWarning
from editing.layers.located import Located
from editing.ledger.editor import Editor
from editing.localisation.choose import locate
from editing.methods.compute import compute_edit, compute_edits
from editing.methods.prepare import prepare
from editing.methods.published_settings import published
from editing.prepared.prepared import Prepared, load_prepared
from editing.proposal import Proposal, propose
from editing.questions.outcome import Outcome, measure
from editing.questions.probes import Probes
from editing.tasks import finetune, scaled_losses

from .datasets import EditRecord, load_records
from .evaluation import Evaluation
from .plots import (
    plot_attack,
    plot_cosines,
    plot_evaluation,
    plot_health,
    plot_locate,
    plot_memory,
    plot_outcome,
    plot_radar,
    plot_retention,
    plot_scaled_losses,
    plot_training,
)
from .request import EditRequest, EditWarning

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
    "Prepared",
    "Probes",
    "Proposal",
    "compute_edit",
    "compute_edits",
    "covariance_for",
    "estimate_covariance",
    "evaluate",
    "finetune",
    "fingerprint",
    "load_edit",
    "load_prepared",
    "load_records",
    "locate",
    "measure",
    "plot_attack",
    "plot_cosines",
    "plot_evaluation",
    "plot_health",
    "plot_locate",
    "plot_memory",
    "plot_outcome",
    "plot_radar",
    "plot_retention",
    "plot_scaled_losses",
    "plot_training",
    "prepare",
    "propose",
    "published",
    "scaled_losses",
]
