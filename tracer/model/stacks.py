"""The map of an encoder-decoder model: two stacks of blocks, whose layers are counted through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracer.errors import SiteError

from . import architecture
from .site_map import Sizes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# what TransformerLens calls the attentions of a decoder's block
_IN_DECODER = {"attn": "self_attn", "cross": "cross_attn"}


@dataclass(frozen=True, eq=False)
class TwoStacks:
    """TransformerLens's map of an encoder-decoder model, asked as that of a model with one stack.

    Layers 0 to E - 1 are blocks of the encoder, layers E to E + D - 1 those of the decoder.

    Attributes:
        adapter: TransformerLens's.
        depths: numbers of blocks, E and D.
        cfg: sizes of the model.
    """

    adapter: Any
    depths: tuple[int, int]
    cfg: Sizes

    @classmethod
    def of(cls, adapter: Any, config: PretrainedConfig) -> TwoStacks:
        """The map of a model with this configuration."""
        own: Any = config
        decoder = getattr(own, "num_decoder_layers", None) or own.decoder_layers
        depths = int(own.num_hidden_layers), int(decoder)
        return cls(adapter, depths, Sizes(sum(depths), int(adapter.cfg.d_model), int(adapter.cfg.n_ctx), False))

    @property
    def stacks(self) -> dict[str, range]:
        """The layers of each stack."""
        encoder, decoder = self.depths
        return {"encoder": range(encoder), "decoder": range(encoder, encoder + decoder)}

    def component(self, site: str, layer: int) -> str:
        """Component behind a site of a layer.

        Args:
            site: a name of `architecture.LAYER_SITES`.
            layer: counted through both stacks.

        Raises:
            TracerError: cross-attention in the encoder.
        """
        if layer < self.depths[0]:
            if site == "cross":
                decoder = self.stacks["decoder"]
                raise SiteError(
                    f"layer {layer} is a block of the encoder, which has no cross-attention; it is in those of the "
                    f"decoder, layers {decoder[0]} to {decoder[-1]}"
                )
            return architecture.component(self.adapter, site, "encoder_blocks")
        return _IN_DECODER.get(site) or architecture.component(self.adapter, site, "decoder_blocks")

    def translate_transformer_lens_path(self, component: str) -> str:
        """Dotted name of the module that is a component of one stack in TransformerLens's words.

        Args:
            component: such as "unembed", "blocks", "blocks.3" or "blocks.3.mlp.out".

        Raises:
            ValueError: there is no such component.
        """
        translate = self.adapter.translate_transformer_lens_path
        first, _, rest = component.partition(".")
        if component == "embed":  # what the encoder looks its words up in; some have another of which it is a copy
            return f"{translate('encoder_blocks').rpartition('.')[0]}.embed_tokens"
        if component == "blocks" or component == "ln_final":
            return translate(f"decoder_{component}")
        if first != "blocks":
            return translate(component)
        number, _, part = rest.partition(".")
        layer, encoder = int(number), self.depths[0]
        stack, own = ("encoder", layer) if layer < encoder else ("decoder", layer - encoder)
        return translate(".".join(filter(None, [f"{stack}_blocks", str(own), part])))
