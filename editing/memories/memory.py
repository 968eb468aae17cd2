"""A memory as a value: named tensors and a header, with a digest; what it does is in its kind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.engine.frame import evaluating
from tracer.engine.memories import kept, resting
from tracer.errors import MemoryMisfit, NotASavedResult, NotFinite
from tracer.files import tensors as tensorfile

from .registry import kind_named

if TYPE_CHECKING:
    from tracer.engine.acts import Asked, Hook, Ids
    from tracer.engine.frame import Frame
    from tracer.model import Model

    from .route import Route

FORMAT = "Memory/1"


@dataclass(frozen=True, eq=False)
class Memory:
    """What is attached to a model under a name; immutable.

    Attributes:
        name: of which a model has one memory.
        kind: name in the registry of kinds.
        fingerprint: hash of the weights that it was made on.
        tensors: by name; entries are rows, on the CPU.
        header: json values.

    Raises:
        TracerError: an unknown kind, numbers that are not finite, a header that json cannot hold.
    """

    name: str
    kind: str
    fingerprint: str
    tensors: Mapping[str, Tensor]
    header: Mapping[str, Any]

    def __post_init__(self) -> None:
        kind_named(self.kind)
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        for name, tensor in own.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise NotFinite(
                    f"the tensor {name!r} of the memory {self.name!r} holds NaN or infinity; nothing was attached. "
                    "Use a smaller learning rate, or make the memory in float32"
                )
        try:
            header = json.loads(json.dumps(dict(self.header)))  # as a file would give it back
        except (TypeError, ValueError) as error:
            raise MemoryMisfit(
                f"the header of the memory {self.name!r} cannot be written as json ({error}); keep it plain, and put "
                "numbers into its tensors"
            ) from error
        object.__setattr__(self, "tensors", own)
        object.__setattr__(self, "header", header)
        object.__setattr__(self, "_held", {})

    def __deepcopy__(self, memo: Any) -> Memory:
        return self  # immutable: a copy of a model has the same one

    # --- identity --------------------------------------------------------------------------------------------------
    @property
    def digest(self) -> str:
        """BLAKE3 hash of all that it is; taken once."""
        held: dict[Any, Any] = vars(self)["_held"]
        if "digest" not in held:
            held["digest"] = tensorfile.digest_of(self.tensors, json.dumps(self._described(), sort_keys=True))
        return held["digest"]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def check(self, model: Model) -> None:
        """Check that it was made on a model's weights.

        Args:
            model: to which it is to be attached.

        Raises:
            TracerError: it was made on others; it does not fit.
        """
        self.acts.check(self, model)
        found = model.weights_fingerprint(self.fingerprint)
        if found != self.fingerprint:
            raise MemoryMisfit(
                f"the memory {self.name!r} was made on the weights {self.fingerprint[:12]}, but {model.name} has "
                f"{found[:12]}; load the model it was made for, or pass force=True to attach it all the same"
            )

    # --- as the engine sees it -------------------------------------------------------------------------------------
    @property
    def acts(self) -> Any:
        """Its [`editing.memories.Kind`][]."""
        return kind_named(self.kind)

    @property
    def rewrites(self) -> bool:
        """Whether it may put another question in the place of a prompt."""
        return self.acts.rewrites

    @property
    def in_front(self) -> bool:
        """Whether it puts vectors in front of prompts."""
        return self.acts.in_front

    def sites(self) -> Sequence[tuple[str, int]]:
        """As its kind says; see `editing.memories.Kind`."""
        return self.acts.sites(self)

    def decide(self, model: Model, prompts: Sequence[Ids]) -> Sequence[Any]:
        """As its kind says; see `editing.memories.Kind`."""
        return self.acts.decide(self, model, prompts)

    def routes(self, model: Model, prompts: Sequence[Ids]) -> Sequence[Route]:
        """As its kind says, with the memories of the model at rest; see `editing.memories.Kind`."""
        prompts = [tuple(prompt) for prompt in prompts]
        found = kept(model)
        if found is None:
            found = {}
        missing = [prompt for prompt in dict.fromkeys(prompts) if (self.digest, prompt) not in found]
        with resting(model), torch.no_grad(), evaluating(model):
            for prompt, route in zip(missing, self.acts.routes(self, model, missing) if missing else (), strict=True):
                found[self.digest, prompt] = route
        return [found[self.digest, prompt] for prompt in prompts]

    def ask(self, model: Model, prompt: Ids, decision: Any) -> Ids | Asked:
        """As its kind says; see `editing.memories.Kind`."""
        return self.acts.ask(self, model, prompt, decision)

    def hooks(self, model: Model, frame: Frame) -> Sequence[Hook]:
        """As its kind says; see `editing.memories.Kind`."""
        return self.acts.hooks(self, model, frame)

    def tensor(self, name: str, like: Tensor) -> Tensor:
        """A tensor on the device and in the number type of another; copied there once.

        Args:
            name: of the tensor.
            like: the other.
        """
        held: dict[Any, Tensor] = vars(self)["_held"]
        place = name, like.device, like.dtype
        if place not in held:
            held[place] = self.tensors[name].to(like)
        return held[place]

    # --- on disk ---------------------------------------------------------------------------------------------------
    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all, and return its path.

        Args:
            path: of the file; ".safetensors" is added if it has no suffix.

        Raises:
            TracerError: it cannot be written; nothing is left behind then.
        """
        return tensorfile.write(path, FORMAT, self.tensors, self._described())

    def _described(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "fingerprint": self.fingerprint, "header": self.header}

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in self.tensors.items())
        return f"Memory({self.name!r}, {self.kind}: {shapes}; {self.nbytes / 1e3:.3g} kB)"


def load_memory(path: str | Path) -> Memory:
    """Read a file of `Memory.save`; nothing in the file is run.

    Args:
        path: of the file.

    Raises:
        TracerError: a missing, damaged or other file, or a kind that is not known here.
    """
    tensors, described = tensorfile.read(path, FORMAT)
    try:
        return Memory(tensors=tensors, **described)
    except TypeError as error:
        raise NotASavedResult(f"{path} is not a saved Memory ({error}); expected a file of Memory.save") from error
