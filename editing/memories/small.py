"""Small models that a memory brings along as tensors and a configuration: encoders, and models that answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from tracer.engine.memories import forward, resting
from tracer.errors import MemoryMisfit
from tracer.model import Model
from tracer.model.site_map import Placed, SiteMap, Sizes

from .similarity import mixed

if TYPE_CHECKING:
    from tracer.engine.acts import Ids

    from .memory import Memory

Thing = TypeVar("Thing")
SELF, STUDENT, OTHER = "self", "student", "model"


@dataclass(frozen=True, eq=False)
class Parts:
    """Tensors by name, and what was made of them, once.

    Attributes:
        tensors: by name.
        made: keeps what `make` made; that of a memory lives as long as the memory.
    """

    tensors: Mapping[str, Tensor]
    made: dict[Hashable, Any]

    @classmethod
    def of(cls, memory: Memory) -> Parts:
        """Those of a memory."""
        return cls(memory.tensors, vars(memory)["_held"])

    def make(self, key: Hashable, how: Callable[[], Thing]) -> Thing:
        """What `how` makes, or made before."""
        if key not in self.made:
            self.made[key] = how()
        return self.made[key]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, by the rest of the name."""
        return {name.removeprefix(prefix): each for name, each in self.tensors.items() if name.startswith(prefix)}


# --- an encoder ------------------------------------------------------------------------------------------------------
def encoder_of(parts: Parts, told: Mapping[str, Any], model: Model) -> tuple[Any, Any]:
    """The tokenizer and the module of an encoder; the tokenizer is the model's where it brings none."""
    from transformers import AutoModel

    def make() -> tuple[Any, Any]:
        encoder = built(AutoModel, told["config"], parts.under("classifier/"))
        stored = parts.tensors.get("classifier.tokenizer")
        return (model.tokenizer if stored is None or not stored.numel() else _tokenizer(stored)), encoder

    return parts.make(("encoder", id(model.tokenizer)), make)


def _tokenizer(stored: Tensor) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(bytes(stored.numpy().tobytes()).decode()))


# --- a model that answers --------------------------------------------------------------------------------------------
def answering_of(parts: Parts, told: Mapping[str, Any], model: Model) -> Model | None:
    """The model that answers a question with an edit in front; None: the model itself.

    Args:
        parts: tensors of it.
        told: what the header says of it.
        model: that is asked; it answers with the same tokens.
    """
    from transformers import AutoModelForCausalLM

    if told["by"] == SELF:
        return None

    def make() -> Model:
        tensors = {name: tensor.float() for name, tensor in parts.under("answering/").items()}
        if told["by"] == STUDENT:
            tensors["transformer.wte.weight"] = embedding(model, parts.tensors["answering.projection"].float())
        hf = built(AutoModelForCausalLM, told["config"], tensors)
        return Model.of(hf.to(model.device), model.tokenizer, f"the one that answers for {model.name}")

    return parts.make(("answering", str(model.device), id(model.hf)), make)


def embedding(model: Model, projection: Tensor) -> Tensor:
    """A student's word embedding [V, width]: the model's own unembedding, less its mean, by a projection [d, width]."""
    weight: Any = model.module("unembed").weight
    weight = weight.detach().float().cpu()
    return (weight - weight.mean(0)) @ projection


def built(kind: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """A module of transformers of this configuration with these parameters; the random state is left alone."""
    from transformers import AutoConfig

    settings = dict(config)
    with torch.random.fork_rng(devices=[]):
        hf = kind.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    missing, unexpected = hf.load_state_dict(dict(tensors), strict=False)
    hf.tie_weights()
    tied = set(getattr(hf, "all_tied_weights_keys", None) or ())
    if unexpected or set(missing) - tied - {name for name, _ in hf.named_buffers()}:
        wrong = [*unexpected, *missing][:3]
        raise MemoryMisfit(
            f"the tensors of a {type(hf).__name__} in a memory do not fit its configuration ({', '.join(wrong)}); make "
            "the memory again"
        )
    return hf.float().eval().requires_grad_(False)


# --- both at once ----------------------------------------------------------------------------------------------------
class Mixture(nn.Module):
    """Answers with a mixture of two models: one reads a text, the other a prompt, before the same answer."""

    def __init__(self, base: Model, other: Model, prompt: Ids, length: int, similarity: float) -> None:
        super().__init__()
        self.config, self.pair = base.hf.config, (base, other)  # in a tuple: they are no parts of this module
        self.prompt, self.length, self.similarity = prompt, length, similarity
        self.embed, self.ln_final, self.unembed = base.module("embed"), nn.Identity(), nn.Identity()
        self.blocks = nn.ModuleList()
        self.dtype, self.device = base.dtype, base.device

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        """Logits [rows, tokens, V]; inside the text those of the model that reads it."""
        from transformers.modeling_outputs import CausalLMOutput

        base, other = self.pair
        with resting(base), resting(other):
            logits = forward(other, input_ids, use_cache=False).logits.float()
            prompt = torch.tensor([self.prompt] * len(input_ids), device=input_ids.device)
            own = torch.cat([prompt, input_ids[:, self.length :]], 1)
            bare = forward(base, own, use_cache=False).logits.float()[:, len(self.prompt) - 1 :]
        last = self.length - 1
        both = torch.cat([logits[:, :last], mixed(bare, logits[:, last:], self.similarity)], 1)
        return CausalLMOutput(logits=self.unembed(both))


def mixture_of(base: Model, other: Model, prompt: Ids, length: int, similarity: float) -> Model:
    """A model that answers with a mixture.

    Args:
        base: reads the prompt.
        other: reads the text.
        prompt: ids.
        length: tokens of the text, behind which the answer begins.
        similarity: weight of the other.
    """
    hf: Any = Mixture(base, other, prompt, length, similarity).eval()
    sizes = Sizes(base.n_layers, base.d_model, min(base.n_ctx, other.n_ctx), False)
    sites = SiteMap("blocks", "attn", "mlp", "mlp", "embed", "ln_final", "unembed")
    adapter: Any = Placed(sites, sizes)
    return Model(hf, base.tokenizer, f"{base.name} mixed with {other.name}", adapter)
