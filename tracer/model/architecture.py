"""The map of a model's sites: TransformerLens's architecture adapters, asked without touching the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tracer.errors import UnknownArchitecture

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# site -> component as TransformerLens names it, per layer or once per model
LAYER_SITES = {
    "hidden": "",
    "attn": "attn",
    "cross": "cross_attn",
    "mlp": "mlp",
    "key": "mlp.out",
    "value": "mlp.out",
    "pre": "mlp",
    "mlp_input": "mlp",
    "mlp_in": "mlp",
    "entering": "",
}
BEHIND = {"attn": "ln1_post", "mlp": "ln2_post"}  # norms between a module's output and the residual stream
MODEL_SITES = {"embed": "embed", "final_norm": "ln_final", "unembed": "unembed"}
# advice for a model without such a site
INSTEAD = {
    "cross": "only the decoder of an encoder-decoder model attends to what another stack has read",
    "key": "its MLP is no pair of projections around one activation (a mixture of experts, say); use site 'mlp'",
    "pre": "its MLP has no module that gives the input of its activation function alone (gate and up projection may be "
    "one, or there are several experts); use site 'key' ('post' of neurons), or 'mlp'",
}


def as_stored(orientation: str, inner: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of a change of a weight in the order of its storage: [in, r] first for "in_out", else [out, r] first.

    The same swap gives (inner, outer) of a pair that is stored.
    """
    return (inner, outer) if orientation == "in_out" else (outer, inner)


def orientation(module: nn.Module, path: str) -> str:
    """The order of axes in which a projection stores its weight. Asked of its class, never guessed from the shape."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return "in_out"
    if isinstance(module, nn.Linear):
        return "out_in"
    raise UnknownArchitecture(
        f"{path} is a {type(module).__name__}; a Conv1D or Linear was expected as the down-projection"
    )


def multiplier(config: PretrainedConfig, site: str) -> float:
    """The factor on a site's output before it is added to the residual stream (Granite)."""
    return float(getattr(config.get_text_config(), "residual_multiplier", 1.0)) if site in BEHIND else 1.0


def component(adapter: Any, site: str, blocks: str = "blocks") -> str:
    """TransformerLens component behind a per-layer site: a norm behind a module, the module, or its output projection.

    The projection is taken where the module's output already holds the residual stream. `blocks` is the component that
    is the list of blocks.
    """
    name = LAYER_SITES[site]
    block = adapter.component_mapping[blocks]
    if BEHIND.get(site) in block.submodules:
        return BEHIND[site]
    part = block.submodules.get(name)
    if site == "mlp_in" and part is not None and part.name is not None:
        return name
    # an MLP that is no module by itself has no gate, and begins with the projection before its activation;
    # the map says whose output the activation function takes: "in", or "gate" in a gated MLP
    if site in ("pre", "mlp_in"):
        taken = str(getattr(part, "hook_aliases", {}).get("hook_pre", ""))
        return f"{name}.{taken.removesuffix('.hook_out')}" if taken.endswith(".hook_out") else f"{name}.in"
    if site not in ("attn", "mlp", "mlp_input") or part is None:
        return name
    projection = name + {"attn": ".o", "mlp": ".out"}[name]
    if part.name is None:  # not a module by itself
        return projection
    # the map itself says where the contribution alone can be read when the module adds the residual
    if block.hook_aliases.get(f"hook_{name}_out") == f"{projection}.hook_out":
        return projection
    # a norm of the block that lies inside the attention module (BERT): it comes after the residual was added
    norms = [str(sub.name) for key, sub in block.submodules.items() if key.startswith("ln")]
    return projection if any(norm.startswith(f"{part.name}.") for norm in norms) else name
