"""Weights and their changes: editable weights, W + U V^T to the bit, and writing all of them or not any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tracer.errors import EditOfOtherWeights, NotFinite, TracerError, WeightsNotEditable
from tracer.files import uninterrupted
from tracer.files.tensors import digest
from tracer.model import orientation, quantised

if TYPE_CHECKING:
    from tracer.model import Model

Factors = Mapping[str, tuple[Tensor, Tensor]]
EDITABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_BLOCK = 1 << 20  # numbers of a weight in double precision at a time: 8 MB


def names_of(model: Model, layers: Iterable[int]) -> list[str]:
    """Names of the down-projection weights of some layers, in their order.

    Args:
        model: the model.
        layers: of the weights.

    Raises:
        TracerError: a layer that does not exist.
    """
    return [model.down_projection(layer).name for layer in layers]


def parameter(model: Model, name: str) -> nn.Parameter:
    """The parameter of `model.hf` with a name.

    Args:
        model: the model.
        name: full name of the parameter.

    Raises:
        TracerError: no such parameter.
    """
    try:
        return model.hf.get_parameter(name)
    except AttributeError as error:
        raise WeightsNotEditable(
            f"{model.name} has no weight {name!r}; weights are named as in model.hf.named_parameters(), for example "
            f"{model.down_projection(0).name!r}"
        ) from error


def check_editable(model: Model, names: Iterable[str]) -> None:
    """Pass if the named weights can be changed exactly.

    Args:
        model: the model.
        names: full names of the weights.

    Raises:
        TracerError: no such weight, one that is quantised, sharded, offloaded or made under inference mode, or two
            names of the same one.
    """
    seen: dict[int, str] = {}
    packed = quantised(model.hf)
    for name in names:
        weight = parameter(model, name)
        if weight.is_meta:
            raise WeightsNotEditable(
                f"weight {name!r} of {model.name} is offloaded and holds no numbers; load the model on one device "
                "(device=...), or with a device_map that keeps this weight in memory"
            )
        if weight.is_inference():
            raise WeightsNotEditable(
                f"weight {name!r} of {model.name} was made under torch.inference_mode and cannot be written to; load "
                "the model outside of it"
            )
        plain = weight.dtype in EDITABLE and type(weight.data) is Tensor  # torchao, quanto and DTensor are subclasses
        if packed or not plain:
            kind = type(weight).__name__ if type(weight) is not nn.Parameter else type(weight.data).__name__
            raise WeightsNotEditable(
                f"weight {name!r} of {model.name} is a quantised or sharded one ({kind}, {weight.dtype}), which cannot "
                "hold an edit exactly; load the model in float32, bfloat16 or float16 without quantisation"
            )
        twin = seen.setdefault(weight.data_ptr(), name)
        if twin != name:
            raise WeightsNotEditable(
                f"{twin!r} and {name!r} of {model.name} are one weight under two names; edit one of them"
            )


def orientation_of(model: Model, names: Iterable[str]) -> str | None:
    """Storage of the named weights: `"in_out"` (all of Conv1D) or `"out_in"` (all of Linear), else None."""
    try:
        paths = [name.removesuffix(".weight") for name in names]
        found = {orientation(model.hf.get_submodule(path), path) for path in paths}
    except (TracerError, AttributeError):  # no projection, or no such weight
        return None
    return found.pop() if len(found) == 1 else None


def added(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """W + U V^T in double precision, rounded once to the type of W.

    The ranks are added one after the other. A product of two float32 numbers is exact in double precision, so every
    step is one correctly rounded addition: the same bits on any device and with any number of threads, which a matrix
    product does not promise.

    Args:
        weight: W [rows, columns].
        u: U [rows, r].
        v: V [columns, r].
    """
    device = torch.device("cpu") if weight.device.type == "mps" else weight.device  # no double precision there
    left, right = u.to(device, torch.float64), v.to(device, torch.float64).T.contiguous()  # [rows, r], [r, columns]
    new = torch.empty_like(weight, requires_grad=False)
    step = max(1, _BLOCK // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        block = slice(start, start + step)
        total = weight[block].to(device, torch.float64, copy=True)
        for column, row in zip(left[block].unbind(1), right, strict=True):
            total.addcmul_(column.unsqueeze(1), row)
        new[block] = rounded(total, weight.dtype)
    return new


@torch.no_grad()
def proposed(model: Model, factors: Factors) -> dict[str, Tensor]:
    """New value of every weight in the factors, on its device; nothing is written.

    Args:
        model: to be edited.
        factors: U and V by full name of the weight.

    Raises:
        TracerError: a weight that cannot be edited, factors of another shape, or a result that is not finite.
    """
    check_editable(model, factors)
    new = {}
    for name, (u, v) in factors.items():
        weight = parameter(model, name)
        if weight.dim() != 2 or (len(u), len(v)) != tuple(weight.shape) or u.shape[1:] != v.shape[1:]:
            raise EditOfOtherWeights(
                f"the change of {name!r} has factors U {list(u.shape)} and V {list(v.shape)}, but the weight is "
                f"{list(weight.shape)}; expected U [rows, r] and V [columns, r] of a matrix"
            )
        new[name] = added(weight, u, v)
        if not torch.isfinite(new[name]).all():
            raise NotFinite(
                f"the edit would make {name!r} of {model.name} not finite in {weight.dtype} (NaN or infinity); nothing "
                "was changed. Use a smaller clamp or learning rate, or load the model with a wider dtype"
            )
    return new


def bits(model: Model, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of the named weights, on their devices."""
    return {name: parameter(model, name).detach().clone() for name in names}


def write(model: Model, new: Mapping[str, Tensor]) -> None:
    """Copy new values into the model's own weights, all of them or not any; a Ctrl-C takes effect afterwards.

    Args:
        model: the model.
        new: values by full name of the weight.
    """
    weights = {name: parameter(model, name) for name in new}
    before = bits(model, new)
    with uninterrupted(), torch.no_grad():
        try:
            for name, weight in weights.items():
                weight.copy_(new[name])  # in place: tied weights and references held elsewhere follow
        except BaseException:
            for name, weight in weights.items():
                weight.copy_(before[name])
            raise


@contextmanager
def applied(model: Model, factors: Factors) -> Iterator[Model]:
    """Context in which the model has W + U V^T for its weights W; afterwards it has the exact bits of before.

    Args:
        model: the model; restored whatever happens.
        factors: U and V by full name of the weight.

    Raises:
        TracerError: as `proposed` does; the model is untouched then.
    """
    new = proposed(model, factors)
    before = bits(model, new)
    try:
        write(model, new)
        del new
        yield model
    finally:
        write(model, before)


def digests(model: Model, names: Iterable[str]) -> dict[str, str]:
    """`digest` of each named weight of a model."""
    return {name: digest(parameter(model, name)) for name in names}


def rounded(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Float64 to `dtype` in one rounding to nearest even; torch reaches the 16-bit types by way of float32.

    Rounding to odd on the way there keeps the second rounding from being misled by the first (Boldo and Melquiond,
    "When double rounding is odd", 2005).

    Args:
        exact: float64.
        dtype: a floating type.
    """
    if dtype in (torch.float32, torch.float64):
        return exact.to(dtype)
    single = exact.float()
    back = single.double()
    down = torch.where(back.abs() > exact.abs(), torch.nextafter(single, torch.zeros_like(single)), single)
    odd = (down.view(torch.int32) | 1).view(torch.float32)
    return torch.where(back == exact, single, odd).to(dtype)


def fingerprint(model: Model) -> str:
    """Hash over every weight's name, shape, type and bits; two models with the same one are the same.

    Args:
        model: to hash.
    """
    return model.fingerprint()
