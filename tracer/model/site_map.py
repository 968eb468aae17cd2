"""The map of a model's sites, written down by hand: for architectures that TransformerLens has no adapter for."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from tracer.errors import UnknownArchitecture

from .architecture import orientation

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# component as TransformerLens names it -> field with its path
_ONCE = {"embed": "embed", "ln_final": "ln_final", "unembed": "unembed"}
_PER_BLOCK = {
    "attn": "attn",
    "mlp": "mlp",
    "mlp.out": "mlp_out",
    "mlp.in": "mlp_in",
    "ln1_post": "ln1_post",
    "ln2_post": "ln2_post",
}


@dataclass(frozen=True)
class SiteMap:
    """Where the parts of a causal language model are: dotted names of modules, those of a block within the block.

    For a model that [`tracer.load`][] and [`tracer.Model.of`][] know no map of. Nothing is guessed, and every path is
    looked up when the model is taken. Workers in other processes load a model by its name and have no map: work on such
    a model is done in one, `workers=1`.

    Attributes:
        blocks: the list of blocks, such as "transformer.h"; the output of a block is the hidden state [batch, tokens,
            d_model] (element 0 of a tuple).
        attn: in a block, the module whose output is what attention adds to the residual stream.
        mlp: in a block, the MLP: it takes [..., d_model], and its output is what it adds to the residual stream. Where
            the MLP is no module, the same as `mlp_out`, which is also right where its output holds the residual.
        mlp_out: in a block, the down-projection, a Linear or Conv1D, whose input is the key and whose output the value.
        embed: the word embedding.
        ln_final: the norm behind the last block.
        unembed: the projection to the vocabulary.
        mlp_in: in a block, the projection whose output the activation function takes, and no other; None: the model
            has no site "pre".
        ln1_post: in a block, a norm between attention and the residual stream; None: there is none.
        ln2_post: the same behind the MLP.
        n_ctx: longest prompt, in tokens; None: `max_position_embeddings` of the configuration.
        parallel: whether attention and MLP read the same residual.
    """

    blocks: str
    attn: str
    mlp: str
    mlp_out: str
    embed: str
    ln_final: str
    unembed: str
    mlp_in: str | None = None
    ln1_post: str | None = None
    ln2_post: str | None = None
    n_ctx: int | None = None
    parallel: bool = False

    def on(self, hf: nn.Module, name: str) -> Placed:
        """The map on a model.

        Args:
            hf: the model.
            name: of it, for messages.

        Raises:
            TracerError: a path that leads to no module (of a block: in none of the blocks), blocks that are no list, a
                down-projection of another class, or no length of context.
        """
        for field in ("blocks", *_ONCE.values()):
            self._found(hf, field, name)
        blocks = hf.get_submodule(self.blocks)
        if not isinstance(blocks, nn.ModuleList) or not len(blocks):
            raise UnknownArchitecture(
                f"blocks={self.blocks!r} of the SiteMap for {name!r} is a {type(blocks).__name__}; expected the "
                "ModuleList of its blocks"
            )
        for field in _PER_BLOCK.values():
            if getattr(self, field) is not None:
                self._found_in_a_block(blocks, field, name)
        width = 0
        for layer, block in enumerate(blocks):
            with suppress(AttributeError):
                down = block.get_submodule(self.mlp_out)
                kept = orientation(down, f"{self.blocks}.{layer}.{self.mlp_out}")
                width = int(down.weight.shape[1 if kept == "in_out" else 0])  # type: ignore[union-attr,index]
        config: Any = hf.config
        return Placed(self, Sizes(len(blocks), width, self._context(config, name), self.parallel))

    def _found(self, hf: nn.Module, field: str, name: str) -> None:
        path = getattr(self, field)
        try:
            hf.get_submodule(path)
        except AttributeError as error:
            raise UnknownArchitecture(
                f"the SiteMap for {name!r} says {field}={path!r}, but {type(hf).__name__} has no module of that name; "
                "expected a path as hf.named_modules() lists it"
            ) from error

    def _found_in_a_block(self, blocks: nn.ModuleList, field: str, name: str) -> None:
        path = getattr(self, field)
        for block in blocks:
            with suppress(AttributeError):
                block.get_submodule(path)
                return
        has = ", ".join(part for part, _ in blocks[0].named_modules() if part)
        raise UnknownArchitecture(
            f"the SiteMap for {name!r} says {field}={path!r}, but no block of {self.blocks} has a module of that name; "
            f"the first has {has}"
        )

    def _context(self, config: PretrainedConfig, name: str) -> int:
        found = self.n_ctx or getattr(config.get_text_config(), "max_position_embeddings", None)
        if found is None:
            raise UnknownArchitecture(
                f"the configuration of {name!r} has no max_position_embeddings; say in the SiteMap how many tokens the "
                "longest prompt has, n_ctx="
            )
        return int(found)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model, named as in the configuration of TransformerLens's adapters."""

    n_layers: int
    d_model: int
    n_ctx: int
    parallel_attn_mlp: bool


@dataclass(frozen=True)
class Placed:
    """A `SiteMap` on a model: answers what a [`tracer.Model`][] asks of TransformerLens's adapters.

    Attributes:
        sites: the map.
        cfg: sizes of the model.
    """

    sites: SiteMap
    cfg: Sizes

    def component(self, site: str) -> str:
        """Component behind a site of each layer: a norm behind a module, or the module.

        Args:
            site: a name of `architecture.LAYER_SITES`.
        """
        sites = self.sites
        whole = sites.mlp != sites.mlp_out  # the MLP is a module, and its output is what it adds
        return {
            "hidden": "",
            "entering": "",
            "attn": "attn" if sites.ln1_post is None else "ln1_post",
            "mlp": "mlp" if sites.ln2_post is None else "ln2_post",
            "mlp_input": "mlp",
            "mlp_in": "mlp" if whole else "mlp.in",
            "key": "mlp.out",
            "value": "mlp.out",
            "pre": "mlp.in",
            "cross": "cross_attn",  # which no map has
        }[site]

    def translate_transformer_lens_path(self, component: str) -> str:
        """Dotted name of the module that is a component in TransformerLens's words.

        Args:
            component: such as "unembed", "blocks", "blocks.3" or "blocks.3.mlp.out".

        Raises:
            ValueError: the map has no such component.
        """
        first, _, rest = component.partition(".")
        if first != "blocks":
            return getattr(self.sites, _ONCE[component])
        layer, _, part = rest.partition(".")
        if not part:
            return ".".join(filter(None, [self.sites.blocks, layer]))
        if part not in _PER_BLOCK:
            raise ValueError(f"a SiteMap has no {part}")
        path = getattr(self.sites, _PER_BLOCK[part])
        if path is None:
            raise ValueError(f"the SiteMap has no {_PER_BLOCK[part]}")
        return f"{self.sites.blocks}.{layer}.{path}"
