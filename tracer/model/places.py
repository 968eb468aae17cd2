"""Where the sites of a model are: dotted names of modules, looked up in the module itself and kept."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any

from tracer.errors import SiteError

from . import architecture
from .site_map import Placed
from .stacks import TwoStacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MISSING = ValueError, AttributeError, IndexError, KeyError  # of a component that the map or the module does not have


@dataclass(frozen=True, eq=False)
class Places:
    """The map of a model's sites, asked about its module.

    Attributes:
        hf: the module.
        adapter: the map.
        name: of the model, for messages.
    """

    hf: PreTrainedModel
    adapter: Any
    name: str
    _found: dict[str, str] = field(default_factory=dict, init=False)  # components asked for before

    def of(self, site: str, layer: int | None = None) -> str:
        """Dotted name of the module behind a site.

        Args:
            site: a name of `architecture.LAYER_SITES` or `architecture.MODEL_SITES`.
            layer: of the former.

        Raises:
            TracerError: unknown site, layer out of range, or a site this architecture does not have.
        """
        if site in architecture.MODEL_SITES:
            if layer is not None:
                raise SiteError(f"site {site!r} exists once per model, got layer {layer!r}; leave the layer out")
            return self._translated(architecture.MODEL_SITES[site], site)
        if site not in architecture.LAYER_SITES:
            known = ", ".join([*architecture.LAYER_SITES, *architecture.MODEL_SITES])
            raise SiteError(f"unknown site {site!r}; the sites are {known}")
        count = int(self.adapter.cfg.n_layers)
        if not isinstance(layer, Integral) or isinstance(layer, bool) or not 0 <= layer < count:
            raise SiteError(f"site {site!r} of {self.name} needs a layer from 0 to {count - 1}, got {layer!r}")
        return self._translated(self._component(site, int(layer)), site)

    def part(self, component: str) -> str | None:
        """Dotted name of the module that is a component in TransformerLens's words; None: there is none.

        Args:
            component: such as "blocks.3.mlp.gate".
        """
        with suppress(*_MISSING):
            return self._path(component)
        return None

    def _component(self, site: str, layer: int) -> str:
        if isinstance(self.adapter, TwoStacks):
            component = self.adapter.component(site, layer)
        elif isinstance(self.adapter, Placed):
            component = self.adapter.component(site)
        else:
            component = architecture.component(self.adapter, site)
        return f"blocks.{layer}" + (f".{component}" if component else "")

    def _translated(self, component: str, site: str) -> str:
        try:
            return self._path(component)
        except (ValueError, AttributeError, IndexError) as error:
            raise SiteError(
                f"{type(self.hf).__name__} has no site {site!r} (TransformerLens component {component!r}: {error}); "
                f"{self._elsewhere(site) or architecture.INSTEAD.get(site, 'use another site for this model')}"
            ) from error

    def _path(self, component: str) -> str:
        if component not in self._found:
            path = self.adapter.translate_transformer_lens_path(component)
            self.hf.get_submodule(path)
            self._found[component] = path
        return self._found[component]

    def _elsewhere(self, site: str) -> str:
        """Which blocks have the site, where they are of several kinds."""
        having = []
        for layer in range(int(self.adapter.cfg.n_layers) if site in architecture.LAYER_SITES else 0):
            with suppress(ValueError, AttributeError, IndexError):
                self._path(self._component(site, layer))
                having.append(str(layer))
        if not having:
            return ""
        return f"its blocks are of several kinds, and layers {', '.join(having)} have it: name these, or use 'hidden'"
