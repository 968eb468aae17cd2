"""Hyper-parameters of methods whose edits a router finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from editing.memories.routing.router import Router
from editing.methods.training import as_layers
from tracer.errors import HyperparameterError

from .routers import checked


@dataclass(frozen=True)
class RoutedSettings:
    """What they have in common.

    Attributes:
        router: which edit a prompt is about, or none: "states", the model's own state at the prompt's last token;
            "margin", the same by RASE's rule; "nearest", without a gate; "overlap", shared tokens; "classifier",
            SERAC's; "sentinel", RECIPE's, and "fixed", the same with a threshold in the sentinel's place; the controls
            "string", the subject occurs in the prompt, and "random"; or a
            [`editing.memories.Router`][].
        routing: settings of the router in the place of those that were measured, such as {"threshold": 0.9}.
        name: of the memory; "": that of the method.
    """

    router: Any = "states"
    routing: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        checked(self.router)
        if not isinstance(self.routing, Mapping):
            raise HyperparameterError(f"routing is {self.routing!r}; expected settings by name, as in a dict")
        if not isinstance(self.name, str):
            raise HyperparameterError(f"name is {self.name!r}; expected that of a memory")

    def told(self, router: Router) -> dict[str, Any]:
        """What an edit says of its router, json values.

        Args:
            router: that was used.
        """
        named = self.router if isinstance(self.router, str) else f"{router.rule} over {router.features}"
        numbers = {name: each for name, each in router.settings.items() if isinstance(each, int | float | str)}
        return {"router": named, "routing": numbers}


@dataclass(frozen=True)
class RASESettings(RoutedSettings):
    """Hyper-parameters of RASE; see `RoutedSettings`.

    Attributes:
        editor: method whose change of weights an entry is; each fact is written by itself, into the unedited model.
        layers: where it writes; None: where it does so by itself.
        editor_settings: its other hyper-parameters.
    """

    editor: str = "rome"
    layers: Sequence[int] | None = None
    editor_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", as_layers(self.layers))
        if not isinstance(self.editor_settings, Mapping):
            raise HyperparameterError(
                f"editor_settings is {self.editor_settings!r}; expected hyper-parameters by name, as in a dict"
            )
