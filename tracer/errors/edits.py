"""Errors about edits: requests, layers, ledgers, evaluations."""

from .base import TracerError


# --- editing ---------------------------------------------------------------------------------------------------------
class EditError(TracerError):
    """An edit cannot be made or used as asked."""


class InvalidEditRequest(EditError):
    """An edit request lacks something."""

    page = "edit-request"


class ContradictingRequests(EditError):
    """Requests that contradict each other."""

    page = "contradicting-requests"


class KnownAlready(EditError):
    """The model says the target already, or the edit would ruin it."""

    page = "known-already"


class UnknownMethod(EditError):
    """No such method, or no such hyper-parameter."""

    page = "unknown-method"


class HyperparameterError(EditError):
    """A hyper-parameter out of its range."""

    page = "method-setting"


class NoEffect(EditError):
    """An edit that moves nothing."""

    page = "no-effect"


class NoPublishedSettings(EditError):
    """No published hyper-parameters for this model."""

    page = "published-settings"


class ContextTemplateError(EditError):
    """Context templates."""

    page = "context-templates"


class MemoryMisfit(EditError):
    """A memory of another model, of another width, or with another past."""

    page = "memory-misfit"


class MemoryNameTaken(EditError):
    """Two memories of one name."""

    page = "memory-name-taken"


class MemoryInTheWay(EditError):
    """A model with memories is used in a way that cannot respect them."""

    page = "memory-in-the-way"


class UnknownMemoryKind(EditError):
    """No such kind of memory."""

    page = "unknown-memory-kind"


class NotPrepared(EditError):
    """A method that is prepared once for a model, and nothing to use or to prepare it from."""

    page = "not-prepared"


class PreparedForOther(EditError):
    """Something prepared for another model or method."""

    page = "prepared-for-other"


class WeightsNotEditable(EditError):
    """A weight that cannot be edited."""

    page = "weights-not-editable"


class EditOfOtherWeights(EditError):
    """An edit of other weights."""

    page = "edit-of-other-weights"


class AdapterError(EditError):
    """An edit that makes no LoRA adapter."""

    page = "adapter"


# --- layers and covariances ------------------------------------------------------------------------------------------
class LayerError(TracerError):
    """Layers, or the covariance of their keys, cannot be had from what was given."""


class LocateError(LayerError):
    """Arguments of locate."""

    page = "locate"


class UnsuitableResult(LayerError):
    """A result that does not say where to write."""

    page = "layers-from-a-result"


class CovarianceOfOtherWeights(LayerError):
    """A covariance of other weights or layers."""

    page = "covariance-of-other-weights"


class SingularCovariance(LayerError):
    """A covariance that cannot be inverted."""

    page = "covariance-cannot-be-inverted"


class CovarianceTextError(LayerError):
    """Text for a covariance."""

    page = "text-for-keys"


# --- the editor and its ledger ---------------------------------------------------------------------------------------
class LedgerError(TracerError):
    """The editor cannot go where it was asked to."""


class WeightsChanged(LedgerError):
    """Weights were changed outside the editor."""

    page = "weights-changed"


class NoSuchState(LedgerError):
    """No such state to go back to."""

    page = "no-such-state"


class LedgerFolderError(LedgerError):
    """A ledger that is there already, missing, or of another model."""

    page = "ledger"


# --- records and evaluation ------------------------------------------------------------------------------------------
class EvaluationError(TracerError):
    """Records, questions or results of an evaluation cannot be used."""


class RecordFieldError(EvaluationError):
    """A field of a record is missing or wrong."""

    page = "record-field"


class RecordFileError(EvaluationError):
    """A file of records cannot be read."""

    page = "records-file"


class DataSetNotFound(EvaluationError):
    """A data set is not found."""

    page = "data-set-not-found"


class EvaluationOptionError(EvaluationError):
    """An option of an evaluation."""

    page = "evaluation-option"


class EmptySelection(EvaluationError):
    """Nothing of an evaluation is selected."""

    page = "evaluation-selection"


class EvaluationFileError(EvaluationError):
    """A file or table that is no evaluation."""

    page = "evaluation-file"


class JoinError(EvaluationError):
    """Evaluations that cannot be joined."""

    page = "joining-evaluations"


class OtherQuestions(EvaluationError):
    """Before and after were asked different things."""

    page = "other-questions"


class QuestionError(EvaluationError):
    """Questions, prompts and targets that do not go together."""

    page = "questions"


class HealthTextError(EvaluationError):
    """Text on which a model's health is read."""

    page = "text-for-health"


class AbilityError(EvaluationError):
    """Tasks of general ability."""

    page = "ability"
