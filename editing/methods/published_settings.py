"""Hyper-parameters of the published code, by method and model, each with the file it was read from.

The numbers are those of the files; the names are this project's. Constants that a file leaves to its code, such as the
lengths of context templates, are those of that code. See `note` of a section for differences here.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tracer.errors import NoPublishedSettings

if TYPE_CHECKING:
    from tracer.model import Model


class Strict(BaseModel):
    """A record without fields of other names."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Strict):
    """Source of numbers: a file in a GitHub repository.

    Attributes:
        repository: owner/name.
        file: path in it.
    """

    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    file: str = Field(pattern=r"^[\w./-]+$")


class Section(Strict):
    """Published constants of one method.

    Attributes:
        source: of the numbers.
        settings: arguments.
        takes: what takes them: "edit", [`editing.compute_edit`][], or "prepare", [`editing.prepare`][], where what was
            published is how an editor is trained.
        note: differences here, or "".
    """

    source: Source
    settings: dict[str, Any] = Field(min_length=1)
    takes: Literal["edit", "prepare"] = "edit"
    note: str = ""


class Sizes(Strict):
    """Type and sizes by which a model is recognised.

    Attributes:
        model_type: of its Hugging Face configuration.
        n_layers: number of blocks.
        d_model: width of the residual stream.
        d_mlp: width of a key.
    """

    model_type: str
    n_layers: int = Field(gt=0)
    d_model: int = Field(gt=0)
    d_mlp: int = Field(gt=0)


class Published(Strict):
    """Published constants for one model.

    Attributes:
        name: of the model.
        model: its sizes.
        methods: constants by method.
    """

    name: str
    model: Sizes
    methods: dict[str, Section] = Field(min_length=1)


def published(method: str, model: Model | str) -> dict[str, Any]:
    """Arguments with the constants that were published for a method and a model.

    They are for [`editing.compute_edit`][]; of an editor that is trained (mend, malmen) for [`editing.prepare`][].

    Args:
        method: its name.
        model: a model, recognised by its type and sizes (its relatives of the same type and sizes have the same
            constants), or a name of `published_models`.

    Raises:
        TracerError: nothing was published; the message lists the published ones.
    """
    return dict(published_section(method, model).settings)


def published_section(method: str, model: Model | str) -> Section:
    """Published constants of a method and a model, with their source.

    Args:
        method: its name.
        model: as of `published`.

    Raises:
        TracerError: as `published` does.
    """
    every = published_models()
    if isinstance(model, str):
        found = every.get(model.lower())
        named = f"{model!r}"
    else:
        config: Any = model.hf.config.get_text_config()
        own = Sizes(model_type=config.model_type, n_layers=model.n_layers, d_model=model.d_model, d_mlp=model.d_mlp)
        found = next((one for one in every.values() if one.model == own), None)
        named = f"{model.name} ({own.model_type}, {own.n_layers} layers, {own.d_model} wide, MLP {own.d_mlp})"
    if found is None:
        raise NoPublishedSettings(
            f"no hyper-parameters are published for {named}; there are some for {', '.join(every)}. Leave them out to "
            "have them measured on the model"
        )
    key = method.lower().replace("-", "_")
    if key not in found.methods:
        others = [name for name, one in every.items() if key in one.methods]
        hint = f"; of {key} there are those for {', '.join(others)}" if others else ""
        raise NoPublishedSettings(f"for {found.name} {', '.join(found.methods)} are published, not {method!r}{hint}")
    return found.methods[key]


def published_models() -> dict[str, Published]:
    """All published constants, by model, in alphabetical order."""
    folder = files("editing").joinpath("data/published")
    texts = {
        entry.name: entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.name.endswith(".json")
    }
    found = {}
    for name, text in sorted(texts.items()):
        try:
            one = Published.model_validate_json(text)
        except ValidationError as error:
            raise NoPublishedSettings(f"the file of published hyper-parameters {name} is damaged: {error}") from error
        found[one.name] = one
    return found
