"""Acting on single units of the MLPs: switch neurons off, turn them up, put values, and draw random ones beside them.

A neuron is a pair (layer, unit). Its activation is the unit's value at the input of the down-projection (site "key"),
after the non-linearity, and in a gated MLP after the gate: `site="post"`, as in Dai et al., "Knowledge Neurons in
Pretrained Transformers" (2022). The published code acts before the non-linearity in decoders, and at their last token
only: `site="pre"`, `tokens=-1`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from tracer.checks import finite, whole
from tracer.engine.hooks import Intervention, Site, Units, intervene
from tracer.errors import InterventionError, NoNeurons, OutOfRange, out_of_memory

if TYPE_CHECKING:
    from tracer.model import Model

Neuron = tuple[int, int]
Neurons = Sequence[Neuron] | np.ndarray
Tokens = int | Sequence[int] | None

SITES = {"post": "key", "pre": "pre"}


@contextmanager
def suppress(
    model: Model, neurons: Neurons, tokens: Tokens = None, *, site: Literal["post", "pre"] = "post"
) -> Iterator[Model]:
    """Set neurons to zero in every forward of `model.hf` inside; afterwards the model is as it was found.

    Managers nest: an inner one acts on what outer ones leave, so that amplifying within a suppression changes nothing.

    Args:
        model: the model.
        neurons: pairs (layer, unit), or an array [n, 2].
        tokens: positions of each forward, negative from its end; None is every token. When text is generated with a
            cache, a forward after the first holds one token, so that only None and -1 are sure to be there.
        site: after the non-linearity, or before it.

    Raises:
        TracerError: neurons the model does not have or that are named twice; at the forward, a token out of range.
    """
    with intervene(model, _everywhere(model, neurons, 0.0, 0.0, tokens, site)):
        yield model


@contextmanager
def amplify(
    model: Model,
    neurons: Neurons,
    factor: float = 2.0,
    tokens: Tokens = None,
    *,
    site: Literal["post", "pre"] = "post",
) -> Iterator[Model]:
    """Multiply neurons by `factor` in every forward of `model.hf` inside; all else as in [`tracer.suppress`][].

    Raises:
        TracerError: a factor that is not finite as well.
    """
    with intervene(
        model, _everywhere(model, neurons, finite("factor", factor, kind=InterventionError), 0.0, tokens, site)
    ):
        yield model


@contextmanager
def set_to(
    model: Model,
    neurons: Neurons,
    value: float | Sequence[float] | np.ndarray | Tensor,
    tokens: Tokens = None,
    *,
    site: Literal["post", "pre"] = "post",
) -> Iterator[Model]:
    """Set neurons to `value` in every forward of `model.hf` inside; all else as in [`tracer.suppress`][].

    Args:
        model: the model.
        neurons: as in `suppress`.
        value: a number, or one per neuron in their order.
        tokens: as in `suppress`.
        site: as in `suppress`.

    Raises:
        TracerError: values that are not finite or of another number as well.
    """
    with intervene(model, _everywhere(model, neurons, 0.0, value, tokens, site)):
        yield model


def random_neurons(model: Model, neurons: Neurons, draws: int, seed: int) -> list[list[Neuron]]:
    """Draw sets of as many random neurons: the i-th of each lies in the layer of the i-th of `neurons`.

    They exclude `neurons`, and a set has no neuron twice. The first sets do not depend on how many follow.

    Raises:
        TracerError: a layer has too few others.
    """
    pairs, width = check_neurons(model, neurons), model.d_mlp
    draws, seed = whole("draws", draws, 1, kind=InterventionError), whole("seed", seed, kind=InterventionError)
    members: dict[int, list[int]] = {}  # layer -> places in the set
    for place, (layer, _) in enumerate(pairs):
        members.setdefault(layer, []).append(place)
    others = {}
    for layer, places in members.items():
        others[layer] = np.setdiff1d(np.arange(width), [pairs[place][1] for place in places])
        if len(others[layer]) < len(places):
            raise NoNeurons(
                f"{len(places)} neurons of layer {layer} leave {len(others[layer])} others of its {width}, too few to "
                "draw as many random ones from; name fewer neurons"
            )
    generator = np.random.default_rng(seed)
    sets = []
    for _ in range(draws):
        found: dict[int, Neuron] = {}
        for layer, places in members.items():
            units = generator.choice(others[layer], len(places), replace=False).tolist()
            found.update({place: (layer, unit) for place, unit in zip(places, units, strict=True)})
        sets.append([found[place] for place in range(len(pairs))])
    return sets


def check_neurons(model: Model, neurons: Neurons, name: str = "neurons") -> list[Neuron]:
    """Neurons as pairs of ints, in their order.

    Raises:
        TracerError: an empty list, one twice, or one the model does not have; `name` is theirs in the message.
    """
    example = f"expected pairs (layer, unit), such as {name}=[(3, 17)]"
    try:
        pairs = [(operator.index(layer), operator.index(unit)) for layer, unit in neurons]
    except (TypeError, ValueError) as error:
        raise InterventionError(f"{name} are not pairs of whole numbers ({error}); {example}") from error
    if not pairs:
        raise InterventionError(f"{name} are empty; {example}")
    layers, width = model.n_layers, model.d_mlp
    seen = set()
    for layer, unit in pairs:
        if not (0 <= layer < layers and 0 <= unit < width):
            raise InterventionError(
                f"neuron ({layer}, {unit}) of {name} is out of range: {model.name} has layers 0 to {layers - 1} with "
                f"units 0 to {width - 1}"
            )
        if (layer, unit) in seen:
            raise InterventionError(f"neuron ({layer}, {unit}) is named twice in {name}; name each once")
        seen.add((layer, unit))
    return pairs


def units(
    model: Model,
    neurons: Sequence[Neuron],
    factor: float,
    value: Any,
    site: str,
    positions: Sequence[int | None],
) -> list[Intervention]:
    """Interventions that make checked `neurons` `factor * current + value`, one per layer and position."""
    if site not in SITES:
        raise InterventionError(
            f"site {site!r} is unknown; expected 'post' or 'pre', where of the non-linearity to act"
        )
    layers: dict[int, list[tuple[int, float]]] = {}
    for (layer, unit), number in zip(neurons, _values(value, len(neurons), model.dtype), strict=True):
        layers.setdefault(layer, []).append((unit, number))
    items: list[Intervention] = []
    for layer, members in sorted(layers.items()):
        index = tuple(unit for unit, _ in members)
        put = torch.tensor([number for _, number in members], dtype=torch.float64)
        items += [Units(Site(SITES[site], layer, position), index, factor, put) for position in positions]
    return items


def indices(tokens: int | Sequence[int]) -> list[int]:
    """One position or several as a list of ints.

    Raises:
        TracerError: an empty list, one twice, or anything but whole numbers.
    """
    try:
        found = [operator.index(tokens)]  # type: ignore[arg-type]
    except TypeError:
        try:
            found = [operator.index(token) for token in tokens]  # type: ignore[union-attr]
        except TypeError:
            found = []
    if not found or isinstance(tokens, str | bool):
        raise OutOfRange(f"tokens={tokens!r}: expected a position, or several, such as tokens=-1")
    if len(set(found)) < len(found):
        raise OutOfRange(f"tokens={found} name one twice; name each once")
    return found


def _everywhere(
    model: Model, neurons: Neurons, factor: float, value: Any, tokens: Tokens, site: str
) -> list[Intervention]:
    """The interventions of a manager in every forward."""
    pairs = check_neurons(model, neurons)
    if tokens is None:
        return units(model, pairs, factor, value, site, [None])
    positions = indices(tokens)
    if min(positions) < 0 <= max(positions):
        # in a short forward two such positions may be one, which would be acted on twice
        raise OutOfRange(f"tokens={positions} count from both ends of a forward; use positions from one end")
    return units(model, pairs, factor, value, site, positions)


def _values(value: Any, count: int, dtype: torch.dtype) -> list[float]:
    """One value per neuron, finite in `dtype`."""
    try:
        found = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        raise InterventionError(f"value is {value!r}; expected a number, or one per neuron") from error
    if found.shape not in ((), (count,)):
        raise InterventionError(
            f"value has the shape {list(found.shape)}; expected a number, or one per neuron, [{count}]"
        )
    if not torch.isfinite(found.to(dtype)).all():
        raise InterventionError(f"value is {value!r}; expected numbers that are finite in {dtype}")
    return found.expand(count).tolist()
