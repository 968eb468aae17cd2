"""Change what a language model states as fact, and measure what else changed."""

from typing import TYPE_CHECKING

from tracer.first_use import at_first_use

if TYPE_CHECKING:  # what the names are to type checkers; the same names by place stand below
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

__getattr__, __dir__ = at_first_use(
    __name__,
    {
        "editing.covariance.covariance": "Covariance",
        "editing.covariance.default": "covariance_for",
        "editing.covariance.estimate": "estimate_covariance",
        "editing.datasets": "EditRecord load_records",
        "editing.edits.edit": "Edit load_edit",
        "editing.edits.weights": "fingerprint",
        "editing.evaluation": "Evaluation",
        "editing.evaluation.run.start": "evaluate",
        "editing.health.harm": "HarmWarning",
        "editing.layers.located": "Located",
        "editing.ledger.editor": "Editor",
        "editing.localisation.choose": "locate",
        "editing.methods.compute": "compute_edit compute_edits",
        "editing.methods.prepare": "prepare",
        "editing.methods.published_settings": "published",
        "editing.plots": (
            "plot_attack plot_cosines plot_evaluation plot_health plot_locate plot_memory "
            "plot_outcome plot_radar plot_retention plot_scaled_losses plot_training"
        ),
        "editing.prepared.prepared": "Prepared load_prepared",
        "editing.proposal": "Proposal propose",
        "editing.questions.outcome": "Outcome measure",
        "editing.questions.probes": "Probes",
        "editing.request": "EditRequest EditWarning",
        "editing.tasks": "finetune scaled_losses",
    },
)
