"""TransformerLens's map for a model, by its configuration, and what kind of language model it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from tracer.errors import UnknownArchitecture

from .stacks import TwoStacks

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Style = Literal["causal", "masked", "seq2seq"]
# encoder-decoder models of plain text whose two stacks are known here; others (Whisper, Switch, ...) are made otherwise
STACKED = ("T5ForConditionalGeneration", "BartForConditionalGeneration")


def adapter_for(config: PretrainedConfig, name: str, cls: str | None = None) -> tuple[Any, Style]:
    """TransformerLens's map for a configuration, and the model's style.

    Args:
        config: of the model.
        name: for messages.
        cls: name of the module's class, for a configuration that names no architecture (as one made in Python, or read
            from a GGUF file, does not). Without it the class of causal language models of that type is meant.

    Raises:
        TracerError: no map for this architecture; a model of next tokens that reads both ways.
    """
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf
    from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    masked = set(MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()) - causal
    seq2seq = set(STACKED)
    masked -= set(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values())  # encoder-decoders count there too
    try:
        if getattr(config, "architectures", None):
            architecture = determine_architecture_from_hf_config(config)
        else:
            architecture = cls or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, config.model_type)
        if architecture not in causal | masked | seq2seq:
            raise ValueError(architecture)
        settings = build_bridge_config_from_hf(config, architecture, name, torch.float32)
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(settings)
        blocks = (adapter.component_mapping or {}).get("decoder_blocks" if architecture in seq2seq else "blocks")
        if blocks is None:
            raise ValueError(f"{architecture} without blocks")
    except (ValueError, KeyError) as error:
        from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

        named = ", ".join(getattr(config, "architectures", None) or [cls or config.model_type])
        known = ", ".join(sorted(name for name in causal | masked | seq2seq if name in SUPPORTED_ARCHITECTURES))
        raise UnknownArchitecture(
            f"{name!r} is a {named}, for which there is no map of sites; "
            "expected one of these architectures (for another causal language model name its parts, "
            f"sites=tracer.SiteMap(...)): {known}"
        ) from error
    if architecture in causal and config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_decoder:
        # the mask over later tokens is up to the configuration: without it a token's logits know the next one
        raise UnknownArchitecture(
            f"{name!r} is a {architecture} with is_decoder=False, in which every token sees those behind it; make it "
            f"with is_decoder=True, or take the masked model, {MODEL_FOR_MASKED_LM_MAPPING_NAMES[config.model_type]}"
        )
    if architecture in seq2seq:
        return TwoStacks.of(adapter, config), "seq2seq"
    return adapter, "masked" if architecture in masked else "causal"
