"""A map of sites around an untouched Hugging Face module.

The map is TransformerLens 4's architecture adapter, which names the real module behind `blocks.1.mlp.out` in some fifty
architectures without changing the model, or a `SiteMap` for others. Nothing here knows a model by its name or guesses
from a shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tracer.errors import TracerError, UnknownArchitecture, WeightsChanged

from . import architecture
from .adapter import Style, adapter_for
from .attached import Attachable, attached_to, with_memories
from .bridge import bridge_of
from .given import note_tokens_beyond, own_class, whole
from .identity import fingerprint_of, kind_of
from .places import Places
from .projection import DownProjection
from .site_map import SiteMap
from .stacks import TwoStacks
from .tensors import named_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Model:
    """A thin read-only handle on a Hugging Face model; nothing in it changes the model.

    Attributes:
        hf: the Hugging Face module itself, in eval mode.
        tokenizer: its tokenizer.
        name: as given to `load`; `"factworld"` for the embedded model.
        style: "causal", predicts the next token; "masked", reads both ways and answers at the mask (BERT); "seq2seq",
            an encoder reads the prompt and a decoder writes the answer (T5, BART), see [`tracer.Model.stacks`][].
    """

    hf: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    name: str
    _adapter: Any = field(repr=False)
    style: Style = field(default="causal", repr=False)
    _places: Places = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", Places(self.hf, self._adapter, self.name))

    @classmethod
    def of(
        cls,
        hf: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "model",
        *,
        sites: SiteMap | None = None,
    ) -> Model:
        """A handle on a Hugging Face model you already hold; the model is left as it is.

        Of a module that torch.compile wrapped it is a handle on the one inside, with that one's names; it runs as it
        was written.

        Args:
            hf: the model.
            tokenizer: its tokenizer.
            name: for messages and results.
            sites: where its parts are, for an architecture that TransformerLens has no adapter for; None: it has one.

        Raises:
            TracerError: not a language model of transformers, one without its head, one with adapters that are not
                merged into its weights, an architecture without a map, or a map with a path that is none.

        Warns:
            TracerNote: the tokenizer has tokens that the model has no row for.
        """
        hf = whole(hf, name)
        if sites is None:
            adapter, style = adapter_for(hf.config, name, own_class(hf))
            model = cls(hf, tokenizer, name, adapter, style)
            _check_head(model)
        else:
            model = cls(hf, tokenizer, name, sites.on(hf, name))
        note_tokens_beyond(tokenizer, model.n_tokens, name, stacklevel=3)
        return model

    # --- sizes -----------------------------------------------------------------------------------------------------
    @property
    def n_layers(self) -> int:
        """Number of blocks; in an encoder-decoder model of both stacks together."""
        return int(self._adapter.cfg.n_layers)

    @property
    def d_model(self) -> int:
        """Width of the hidden state."""
        return int(self._adapter.cfg.d_model)

    @property
    def d_embed(self) -> int:
        """Width of the word embedding: that of the hidden state, unless it is projected first (OPT-350m)."""
        return int(self.module("embed").weight.shape[1])  # type: ignore[union-attr]

    @property
    def n_tokens(self) -> int:
        """Number of rows of the word embedding, one per token."""
        return int(self.module("embed").weight.shape[0])  # type: ignore[union-attr]

    @property
    def d_mlp(self) -> int:
        """Width of a key: the input of the down-projection."""
        module = self.module("key", 0)
        return int(module.weight.shape[0 if architecture.orientation(module, self.path("key", 0)) == "in_out" else 1])  # type: ignore[union-attr,index]

    @property
    def n_ctx(self) -> int:
        """Longest prompt, in tokens."""
        return int(self._adapter.cfg.n_ctx)

    @property
    def causal(self) -> bool:
        """Whether the answer follows the prompt: False for masked models, which answer at the mask."""
        return self.style != "masked"

    @property
    def stacks(self) -> dict[str, range]:
        """The layers of the stacks of an encoder-decoder model by name, "encoder" and "decoder"; empty for others.

        Layers are counted through, the encoder's first, and so are tokens: those of the source, the decoder's start and
        what it is given (`tracer.facts.prompt`), and the answer.
        """
        return self._adapter.stacks if isinstance(self._adapter, TwoStacks) else {}

    @property
    def parallel(self) -> bool:
        """True where attention and MLP read the same residual (GPT-J, NeoX, Falcon)."""
        return bool(getattr(self._adapter.cfg, "parallel_attn_mlp", False))

    @property
    def device(self) -> torch.device:
        """Device of token ids: the one the word embedding computes on."""
        embed = self.module("embed")
        device = next(embed.parameters()).device
        if device.type == "meta":  # offloaded: accelerate brings it to its execution device
            device = torch.device(getattr(getattr(embed, "_hf_hook", None), "execution_device", "cpu"))
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the word embedding."""
        return next(self.module("embed").parameters()).dtype

    # --- sites -----------------------------------------------------------------------------------------------------
    def path(self, site: str, layer: int | None = None) -> str:
        """Dotted name, in `hf`, of the module behind a site; see [`tracer.Model.module`][]."""
        return self._places.of(site, layer)

    def module(self, site: str, layer: int | None = None) -> nn.Module:
        """The module at a site.

        Per layer: `"hidden"` the block, whose output is the hidden state `[batch, tokens, d_model]` (element 0 of a
        tuple), and `"entering"` the block again, whose input is meant; `"attn"` and `"mlp"` the modules whose output,
        times [`tracer.Model.multiplier`][], is what attention and MLP add to the residual stream; `"key"` and `"value"`
        the down-projection, whose input is the key `[..., d_mlp]` and whose output the value; `"pre"` the projection
        whose output `[..., d_mlp]` the activation function takes; `"mlp_input"` the MLP itself; `"mlp_in"` the module
        whose input is the MLP's; `"cross"`, in a decoder that an encoder reads for, the module whose output is what
        cross-attention adds. Once per model: `"embed"` (word embedding), `"final_norm"`, `"unembed"`.

        `"attn"` and `"mlp"` are a norm where one comes between the module and the residual stream (Gemma 2), and the
        output projection where there is no module of its own (OPT, BERT) or its output already holds the residual
        (BLOOM, BERT), so that the output is the contribution alone.

        Raises:
            TracerError: unknown site, layer out of range, or a site this architecture does not have.
        """
        return self.hf.get_submodule(self.path(site, layer))

    def multiplier(self, site: str) -> float:
        """The factor from the output of [`tracer.Model.module`][] to the site's contribution; 1 for most models."""
        return architecture.multiplier(self.hf.config, site)

    def down_projection(self, layer: int) -> DownProjection:
        """The down-projection weight of a layer's MLP, with its stored orientation."""
        path, module = self.path("key", layer), self.module("key", layer)
        weight = module.weight
        assert isinstance(weight, nn.Parameter)  # Conv1D and Linear both hold one
        return DownProjection(f"{path}.weight", weight, architecture.orientation(module, path))

    def projections(self, layer: int) -> dict[str, str]:
        """Dotted names, in `hf`, of the matrices of a layer's MLP that are modules of their own.

        `"gate"` and `"up"` read what enters a gated MLP, `"up"` alone that of a plain one; `"down"` writes its output.
        Where gate and up projection are one module (Phi-3), only `"down"` is there.

        Args:
            layer: of the MLP.

        Raises:
            TracerError: a layer that does not exist, or one without a down-projection.
        """
        down = self.path("key", layer)
        found = {}
        for name, component in (("gate", "mlp.gate"), ("up", "mlp.in")):
            if (path := self._places.part(f"blocks.{layer}.{component}")) is not None:
                found[name] = path
        return {**found, "down": down}

    # --- identity --------------------------------------------------------------------------------------------------
    @property
    def memories(self) -> tuple[Attachable, ...]:
        """What is attached to the model besides its weights, by name; see `tracer.model.attached`."""
        return attached_to(self.hf)

    def fingerprint(self, like: str = "") -> str:
        """Hash of what the model is: its weights' fingerprint and, where memories are attached, theirs.

        Args:
            like: a fingerprint that this one is compared with, of whose kind it is to be; "": the present kind. Results
                of earlier versions have another one (see `tracer.model.identity`).
        """
        return with_memories(self.weights_fingerprint(like), self.memories)

    def weights_fingerprint(self, like: str = "") -> str:
        """Hash over the name, shape, dtype and bits of every parameter and buffer, wherever they lie.

        Args:
            like: as of `fingerprint`.
        """
        return fingerprint_of(named_tensors(self.hf), like)

    def pinned(self, like: str = "") -> Model:
        """This handle with its fingerprint taken now, once, for many results on weights that stay as they are.

        Args:
            like: as of `fingerprint`; the kind that results are going to have.
        """
        own = {part.name: getattr(self, part.name) for part in fields(Model) if part.init}
        return _Pinned(**own, _fingerprint=self.weights_fingerprint(like), _memories=self.memories)

    def bridge(self) -> Any:
        """A TransformerLens `TransformerBridge` for that library's own tools.

        Building one rewires the module it is given, so it is built on a copy: twice the memory, and later edits of
        this model do not show in it.

        Raises:
            TracerError: the model has memories, which a bridge cannot have; TransformerLens has no adapter for it.
        """
        return bridge_of(self.hf, self.tokenizer, self.name, self._adapter, self.memories)


@dataclass(frozen=True, eq=False)
class _Pinned(Model):
    _fingerprint: str = field(default="", repr=False)
    _memories: tuple[Attachable, ...] = field(default=(), repr=False)
    _others: dict[str, str] = field(default_factory=dict, init=False, repr=False)  # of other kinds, by their beginning

    def fingerprint(self, like: str = "") -> str:
        return with_memories(self.weights_fingerprint(like), self._memories)

    def pinned(self, like: str = "") -> Model:
        found = super().pinned(like)
        assert isinstance(found, _Pinned)
        found._others.update({**self._others, kind_of(self._fingerprint): self._fingerprint})
        return found

    def weights_fingerprint(self, like: str = "") -> str:
        if not like or kind_of(like) == kind_of(self._fingerprint):
            return self._fingerprint
        if kind_of(like) not in self._others:
            if super().weights_fingerprint(self._fingerprint) != self._fingerprint:
                raise WeightsChanged(
                    f"the weights of {self.name} changed meanwhile, so that they cannot be compared with "
                    f"{like[:12]}, a hash of an earlier version; compare before changing them"
                )
            self._others[kind_of(like)] = super().weights_fingerprint(like)
        return self._others[kind_of(like)]


def _check_head(model: Model) -> None:
    """Check that the module is the whole model that its configuration names.

    Raises:
        TracerError: it is not.
    """
    try:
        for site in ("embed", "unembed"):
            model.module(site)
    except TracerError as error:
        named = ", ".join(model.hf.config.architectures or ["a language model"])
        raise UnknownArchitecture(
            f"{model.name!r} is a {type(model.hf).__name__} that lacks parts of what its configuration names, {named}; "
            "give the whole language model, as AutoModelForCausalLM loads it"
        ) from error
