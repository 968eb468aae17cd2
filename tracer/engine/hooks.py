"""The hook layer: name a site in a model, read it, change it, and leave the model as it was found.

A [`tracer.hooks.Site`][] is a kind, a layer and a token. States are [rows, tokens, width]; the kinds are

- `hidden`: output of block `layer` (the residual stream after it)
- `mlp`: what the MLP of block `layer` adds to the residual stream: its output, behind the norm or times the
  multiplier that some architectures have there
- `attn`: what attention of block `layer` adds, likewise
- `cross`: what cross-attention of block `layer` adds, in the decoder of an encoder-decoder model
- `mlp_in`: what enters the MLP of block `layer`, `d_model` wide
- `key`: INPUT of the MLP's down-projection, `d_mlp` wide
- `value`: OUTPUT of the MLP's down-projection, which is "mlp" unless a norm or multiplier comes behind it
- `pre`: what the MLP's activation function takes, `d_mlp` wide: the OUTPUT of the up-projection, or of the gate
  projection in a gated MLP (the two fused into one module have no such site)
- `embed`: output of the word embedding, before positions are added (no layer)

`model.path(kind, layer)` names the module: a norm behind the MLP or attention where there is one (Gemma 2 and 3, OLMo
2, GLM-4, EXAONE 4), an output projection where either has no module of its own, or adds the residual stream inside
(OPT, BLOOM, BERT). So `hidden[l] - hidden[l - 1] = attn[l] + mlp[l]`, also where both read the same residual stream
(`model.parallel`); except where the norm comes behind the sum (BERT, GPT-1, OPT-350m), whose summands they are, and
where a block adds more than these two (cross-attention, the inputs per layer of Gemma 4, the state-space branch of
Falcon-H1).

Hooks follow torch's grad mode: nothing is detached, so gradients flow through captured and replaced values. Wrap the
call in `torch.no_grad()` when only numbers are wanted.

In an encoder-decoder model layers are counted through both stacks ([`tracer.Model.stacks`][]) and tokens through the
source, the decoder's start and the answer; "embed" is the encoder's.

Recipe 1, read a state:

```python
with torch.no_grad():
    site = Site("hidden", layer=3, token=-1)
    state = capture(model, "The Space Needle is in", [site])[site]            # [1, d_model]
```

Recipe 2, put a state of one prompt into another:

```python
with torch.no_grad(), intervene(model, [Replace(site, state)]):
    logits = model.hf(input_ids=other_ids).logits
```

Recipe 3, many interventions in one forward (see [`tracer.sweep`][]):

```python
with torch.no_grad():
    base = record(model, ids)                                                 # the run that branches start from
    branches = [(Replace(Site("mlp", layer, 2), torch.zeros(model.d_model)),) for layer in range(model.n_layers)]
    p = sweep(model, base, branches, lambda logits: logits.softmax(-1)[..., -1, answer_id])    # [branches, rows]
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tracer.errors import PromptTooLong, SiteError, WeightsNotEditable, out_of_memory
from tracer.facts.prompt import prompt_ids
from tracer.model.vocabulary import check_ids

from .frame import Frame, attach, evaluating
from .layout import laying_out
from .memories import decided, forward
from .sites import INNER, KINDS, WIDE, Add, Intervention, Replace, Site, Units, check_site

if TYPE_CHECKING:
    from tracer.model import Model

__all__ = [
    "INNER",
    "KINDS",
    "WIDE",
    "Add",
    "Frame",
    "Intervention",
    "Replace",
    "Site",
    "Units",
    "as_ids",
    "attach",
    "capture",
    "check_site",
    "evaluating",
    "frozen",
    "intervene",
    "keep_logits",
]


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Let no parameter ask for gradients inside, so that a backward pass pays for those of states only.

    Afterwards every parameter asks for them as before, by name: offloaded weights are new tensors after each forward.

    Raises:
        TracerError: weights made under torch.inference_mode.
    """
    made = next((name for name, p in model.hf.named_parameters() if p.requires_grad and p.is_inference()), None)
    if made is not None:
        raise WeightsNotEditable(
            f"weight {made!r} of {model.name} was made under torch.inference_mode, and nothing that uses it has a "
            "gradient; load the model outside of it"
        )
    asking = [(m, name) for m in model.hf.modules() for name, p in m.named_parameters(recurse=False) if p.requires_grad]

    def ask(whether: bool) -> None:
        for module, name in asking:
            module.get_parameter(name).requires_grad_(whether)

    try:
        ask(False)
        yield
    finally:
        ask(True)


def keep_logits(model: Model, positions: Sequence[int]) -> RemovableHandle:
    """Let the unembedding see only `positions` of its input [rows, tokens, d], so that no other logits are made."""
    index = list(positions)

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][:, index], *args[1:])

    return model.module("unembed").register_forward_pre_hook(before)


def pick_logits(model: Model, rows: Tensor, tokens: Tensor) -> RemovableHandle:
    """Let the unembedding see n places of its input [rows, tokens, d] only, place by place: logits are [1, n, V]."""

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        state = args[0]
        return (state[rows.to(state.device), tokens.to(state.device)].unsqueeze(0), *args[1:])

    return model.module("unembed").register_forward_pre_hook(before)


def as_ids(model: Model, ids_or_text: str | Sequence[int] | Tensor) -> Tensor:
    """Token ids [rows, tokens] on the model's device, from a text, a list of ids, or ids [tokens] or [rows, tokens].

    A text is tokenised as prompts are (`tracer.facts.prompt`).

    Raises:
        TracerError: no token, or too many.
    """
    if isinstance(ids_or_text, str):
        ids_or_text = prompt_ids(model, ids_or_text)
    ids = torch.as_tensor(ids_or_text, dtype=torch.long, device=model.device)
    ids = ids.unsqueeze(0) if ids.dim() < 2 else ids
    if ids.dim() != 2 or ids.numel() == 0:
        raise PromptTooLong(
            f"token ids of shape {list(ids.shape)}: expected at least one token, as [tokens] or [rows, tokens]"
        )
    if ids.shape[1] > model.n_ctx:
        raise PromptTooLong(
            f"the prompt has {ids.shape[1]} tokens and {model.name} reads at most {model.n_ctx}; shorten the prompt"
        )
    check_ids(model, ids)
    return ids


def capture(model: Model, ids_or_text: str | Sequence[int] | Tensor, sites: Iterable[Site]) -> dict[Site, Tensor]:
    """Run the model once and return the state at each site: [rows, width], or [rows, tokens, width] without a token.

    Rows are those of the ids (one for a text).

    Raises:
        TracerError: a layer or token out of range.
    """
    ids = as_ids(model, ids_or_text)
    found: dict[Site, Tensor] = {}
    groups: dict[tuple[str, int | None], list[Site]] = {}
    for site in sites:
        check_site(model, site, ids.shape[1])
        groups.setdefault((site.kind, site.layer), []).append(site)

    def keep(members: list[Site]) -> Callable[[Tensor], None]:
        def edit(state: Tensor) -> None:
            for site in members:
                # cloned: some models add to a module's output in place later on
                found[site] = (state if site.token is None else state[:, site.token]).clone()

        return edit

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.callback(keep_logits(model, [-1]).remove)
        frame = decided(model, ids.tolist()) or Frame(ids.shape[1])
        for (kind, layer), members in groups.items():
            stack.callback(attach(model, kind, layer, keep(members), frame).remove)
        forward(model, ids, frame)
    return found


@contextmanager
def intervene(model: Model, interventions: Iterable[Intervention]) -> Iterator[Model]:
    """Make `interventions`, in the order given, in every forward of `model.hf` inside; afterwards they are gone.

    Raises:
        TracerError: a layer out of range, at once; a token or a value that does not fit, at the forward.
    """
    frame = Frame()
    groups: dict[tuple[str, int | None], list[Intervention]] = {}
    for item in interventions:
        check_site(model, item.site)
        groups.setdefault((item.site.kind, item.site.layer), []).append(item)

    def count(_: nn.Module, __: Any, output: Tensor) -> None:
        frame.tokens = output.shape[1]

    def change(members: list[Intervention]) -> Callable[[Tensor], Tensor]:
        def edit(state: Tensor) -> Tensor:
            state = state.clone()
            for item in members:
                check_site(model, item.site, state.shape[1])
                where = (slice(None),) if item.site.token is None else (slice(None), item.site.token)
                try:
                    state[where] = item(state[where])
                except RuntimeError as error:
                    if out_of_memory(error):
                        raise
                    raise SiteError(
                        f"a value of shape {list(item.value.shape)} does not fit {item.site}, "
                        f"whose state is {list(state[where].shape)}"
                    ) from error
            return state

        return edit

    with ExitStack() as stack:
        stack.enter_context(laying_out(model))
        stack.callback(model.module("embed").register_forward_hook(count).remove)
        for (kind, layer), members in groups.items():
            stack.callback(attach(model, kind, layer, change(members), frame).remove)
        yield model
