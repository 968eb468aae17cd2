"""A map of sites around an untouched Hugging Face module.

The map is TransformerLens 4's architecture adapter, which names the real module behind `blocks.1.mlp.out` in some fifty
architectures without changing the model, or a `SiteMap` for others. Nothing here knows a model by its name or guesses
from a shape.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tracer.errors import MemoryInTheWay, SiteError, TracerError, UnknownArchitecture, WeightsChanged

from . import architecture
from .adapter import Style, adapter_for
from .attached import Attachable, attached_to, with_memories
from .given import note_tokens_beyond, own_class, whole
from .identity import fingerprint_of, kind_of
from .site_map import Placed, SiteMap
from .stacks import TwoStacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class DownProjection:
    """The matrix that turns an MLP's keys into values.

    With weights offloaded by accelerate it lies on the `meta` device and is empty.

    Attributes:
        name: the weight's full parameter name in `model.hf`.
        weight: the model's own parameter: `[d_mlp, d_model]` or `[d_model, d_mlp]`, by `orientation`.
        orientation: `"in_out"` (Conv1D) for the former, `"out_in"` (Linear) for the latter.
    """

    name: str
    weight: nn.Parameter
    orientation: str

    def factors(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """U and V of a change of the weight, which is U V^T as the weight is stored.

        With `keys` [d_mlp, r] and `values` [d_model, r] a key k then gives values keys^T k more than before.
        """
        return architecture.as_stored(self.orientation, keys, values)

    def by_key(self, stored: Tensor) -> Tensor:
        """A matrix that is stored as the weight is, as [d_mlp, d_model]: a row for each unit of the MLP."""
        return stored if self.orientation == "in_out" else stored.T


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
    _paths: dict[str, str] = field(default_factory=dict, init=False, repr=False)  # of components asked for before

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
        if site in architecture.MODEL_SITES:
            if layer is not None:
                raise SiteError(f"site {site!r} exists once per model, got layer {layer!r}; leave the layer out")
            return self._translate(architecture.MODEL_SITES[site], site)
        if site not in architecture.LAYER_SITES:
            known = ", ".join([*architecture.LAYER_SITES, *architecture.MODEL_SITES])
            raise SiteError(f"unknown site {site!r}; the sites are {known}")
        if not isinstance(layer, Integral) or isinstance(layer, bool) or not 0 <= layer < self.n_layers:
            raise SiteError(f"site {site!r} of {self.name} needs a layer from 0 to {self.n_layers - 1}, got {layer!r}")
        return self._translate(self._component(site, int(layer)), site)

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

    def _component(self, site: str, layer: int) -> str:
        if isinstance(self._adapter, TwoStacks):
            component = self._adapter.component(site, layer)
        elif isinstance(self._adapter, Placed):
            component = self._adapter.component(site)
        else:
            component = architecture.component(self._adapter, site)
        return f"blocks.{layer}" + (f".{component}" if component else "")

    def _translate(self, component: str, site: str) -> str:
        try:
            return self._found(component)
        except (ValueError, AttributeError, IndexError) as error:
            raise SiteError(
                f"{type(self.hf).__name__} has no site {site!r} (TransformerLens component {component!r}: {error}); "
                f"{self._elsewhere(site) or architecture.INSTEAD.get(site, 'use another site for this model')}"
            ) from error

    def _found(self, component: str) -> str:
        if component not in self._paths:
            path = self._adapter.translate_transformer_lens_path(component)
            self.hf.get_submodule(path)
            self._paths[component] = path
        return self._paths[component]

    def _elsewhere(self, site: str) -> str:
        """Which blocks have the site, where they are of several kinds."""
        having = []
        for layer in range(self.n_layers if site in architecture.LAYER_SITES else 0):
            with suppress(ValueError, AttributeError, IndexError):
                self._found(self._component(site, layer))
                having.append(str(layer))
        if not having:
            return ""
        return f"its blocks are of several kinds, and layers {', '.join(having)} have it: name these, or use 'hidden'"

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
            with suppress(ValueError, AttributeError, IndexError, KeyError):
                found[name] = self._found(f"blocks.{layer}.{component}")
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
        if isinstance(self._adapter, Placed):
            raise UnknownArchitecture(
                f"{self.name} is a {type(self.hf).__name__} whose sites a SiteMap names, since TransformerLens has no "
                "adapter for it, and so no bridge; use tracer.hooks"
            )
        if self.memories:
            raise MemoryInTheWay(
                f"{self.name} has memories ({', '.join(memory.name for memory in self.memories)}), which a "
                "TransformerBridge cannot have; take them off first"
            )
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        return build_bridge_from_module(
            copy.deepcopy(self.hf),
            self._adapter.cfg.architecture,
            hf_config=self.hf.config,
            tokenizer=copy.deepcopy(self.tokenizer),
            model_name=self.name,
        )


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


def named_tensors(hf: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter and buffer once, by name; those accelerate has offloaded are brought in one module at a time."""
    seen: set[int] = set()
    tied = getattr(hf, "all_tied_weights_keys", None) or {}  # tied tensors count once
    for prefix, module in hf.named_modules():
        own = {**module._parameters, **module._buffers}
        names = []
        for name, tensor in own.items():
            full = f"{prefix}.{name}" if prefix else name
            if tensor is None or id(tensor) in seen or (tensor.is_meta and full in tied):
                continue
            seen.add(id(tensor))
            names.append((name, full))
        offloaded = any(tensor.is_meta for tensor in own.values() if tensor is not None)
        if offloaded:
            from accelerate.utils import align_module_device

        with align_module_device(module, torch.device("cpu")) if offloaded else nullcontext():
            for name, full in names:
                yield full, getattr(module, name)


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
