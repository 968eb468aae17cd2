"""Errors about what is put in: facts, models, traces, neurons."""

from .base import TracerError


# --- facts, prompts and tokens ---------------------------------------------------------------------------------------
class FactError(TracerError):
    """A fact, a prompt or a text cannot be used."""


class SubjectNotInPrompt(FactError):
    """The subject is not in the prompt, or there twice."""

    page = "subject-not-in-prompt"


class EmptyText(FactError):
    """A prompt, subject or target is empty or no text."""

    page = "empty-text"


class TextWithoutTokens(FactError):
    """The tokenizer has no tokens for a text."""

    page = "text-without-tokens"


class PromptTooLong(FactError):
    """The prompt is longer than the model's context."""

    page = "prompt-too-long"


class MaskedModelError(FactError):
    """A masked model, or its mask token."""

    page = "masked-model"


class ChatTemplateError(FactError):
    """A chat template that is missing, or refuses."""

    page = "chat-template"


class UnknownFact(FactError):
    """FactWorld has no such fact, subject, relation or part."""

    page = "unknown-fact"


class FactWorldTableError(FactError):
    """A table of facts or a training folder of FactWorld."""

    page = "factworld-table"


class OneOfSeveral(FactError):
    """One of several is wrong."""

    page = "one-of-several"


# --- models ----------------------------------------------------------------------------------------------------------
class ModelError(TracerError):
    """A model cannot be loaded or run as asked."""


class ModelNotFound(ModelError):
    """The model is not found."""

    page = "model-not-found"


class GGUFError(ModelError):
    """A GGUF model cannot be read."""

    page = "gguf"


class IncompleteCheckpoint(ModelError):
    """A checkpoint folder is incomplete or damaged."""

    page = "checkpoint-incomplete"


class NoSafetensors(ModelError):
    """The weights are not safetensors."""

    page = "no-safetensors"


class NoTokenizer(ModelError):
    """The model's tokenizer is missing or cannot be used."""

    page = "no-tokenizer"


class UnknownArchitecture(ModelError):
    """The architecture has no map of sites."""

    page = "unknown-architecture"


class EncoderDecoderError(ModelError):
    """An encoder-decoder model, asked for what only models of one stack can do."""

    page = "encoder-decoder"


class DeviceError(ModelError):
    """A device or a number type that cannot be used."""

    page = "device-or-dtype"


class NotFinite(ModelError):
    """Numbers that are not finite."""

    page = "not-finite"


class SiteError(ModelError):
    """A site, or what is put there."""

    page = "site"


# --- tracing ---------------------------------------------------------------------------------------------------------
class TraceError(TracerError):
    """A trace or an average cannot be made as asked."""


class TraceSettingError(TraceError):
    """A setting of a trace."""

    page = "trace-setting"


class OutOfRange(TraceError):
    """Layers or tokens out of range."""

    page = "out-of-range"


class NoiseError(TraceError):
    """Settings of the noise."""

    page = "noise"


class ReplacementError(TraceError):
    """Another subject of as many tokens."""

    page = "replacement"


class FoilError(TraceError):
    """The foil of a logit difference."""

    page = "foil"


class AverageError(TraceError):
    """Facts or traces that cannot be averaged."""

    page = "facts-to-average"


class StatisticsError(TraceError):
    """Arrays or settings of an interval."""

    page = "numbers-for-statistics"


# --- neurons ---------------------------------------------------------------------------------------------------------
class NeuronError(TracerError):
    """Neurons cannot be attributed or acted on as asked."""


class AttributionError(NeuronError):
    """Arguments of neuron attribution."""

    page = "neuron-attribution"


class NoNeurons(NeuronError):
    """Too few or too many neurons."""

    page = "no-neurons"


class InterventionError(NeuronError):
    """Neurons to act on."""

    page = "acting-on-neurons"
