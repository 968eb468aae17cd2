"""Methods that write values with a covariance, against the published code's own outputs: keys, states, losses, changes.

Settings are the published ones; numbers that belong to the small model are put in their place.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
from goldens import Arrays, relative

from editing.covariance import Covariance
from editing.covariance.estimate import estimate_covariance
from editing.edits.edit import Edit
from editing.ledger.editor import Editor
from editing.methods.alphaedit import AlphaEditSettings, free_space
from editing.methods.context import EditContext
from editing.methods.pmet import PMETSettings
from editing.methods.value.context_templates import as_templates
from editing.methods.value.search import optimise
from editing.methods.value.settings import Resolved, subject_of
from editing.request import EditRequest
from tracer.engine.hooks import evaluating, frozen
from tracer.model import Model

LAYERS, SINGLE, LAST = [2, 3, 4], 3, 5
TOLERANCE = 1e-3
LOSSES = 2e-4  # nats; states are found in float32, and losses fall by several nats

Computed = Callable[..., Edit]
Templates = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, Any]:
    return goldens.cases(golden)


@pytest.fixture(scope="module")
def covariance(golden: Path, golden_model: Model) -> Covariance:
    return estimate_covariance(golden_model, LAYERS, golden / "text.txt", window=64, max_tokens=20000, cache=False)


@pytest.fixture(scope="module")
def templates(golden: Path) -> Templates:
    """``templates(method)``: layers and contexts, as the arguments they are given by."""
    memit = json.loads((golden / "memit_templates.json").read_text())
    rome = (golden / "rome_templates.txt").read_text().split("\n")[:21]
    return lambda method: {
        "layers": LAYERS,
        "v_loss_layer": LAST,
        "context_templates": rome if "rome" in method else memit,
    }


@pytest.fixture(scope="module")
def compute(golden_model: Model, covariance: Covariance, templates: Templates, cases: dict[str, Any]) -> Computed:
    """``compute(method, like, places, ...)``: the edit of the requests at these places, with published settings."""

    def made(method: str, like: str, places: list[int], *, editor: Editor | None = None, **numbers: Any) -> Edit:
        value = cases["value"]
        common = {
            **templates(method),
            "v_steps": value["steps"],
            "v_lr": value["lr"],
            "v_weight_decay": value["wd"],
            "kl_factor": value["kl"],
            "covariance": covariance,
        }
        given = goldens.settings(method, like, **{**common, **numbers})
        chosen = [cases["requests"][i] for i in places]
        return (editor or Editor(golden_model)).compute(chosen, method, **given, check=None)

    return made


def change(edit: Edit, model: Model, layer: int) -> Any:
    return edit.to_dense()[model.down_projection(layer).name]


def evidence(edit: Edit, name: str) -> Any:
    assert edit.evidence is not None
    return edit.evidence[name]


def curve(edit: Edit, place: int) -> Any:
    """[iterations, 5]: total, NLL, KL, weight decay, probability."""
    found = evidence(edit, "loss")[place].numpy()
    return found[~np.isnan(found[:, 0])]


def assert_losses(found: Any, expected: Any) -> None:
    assert found.shape == expected.shape  # it ends where the published search ends
    np.testing.assert_allclose(found, expected, atol=LOSSES)


# --- AlphaEdit -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def alpha(golden: Path) -> Arrays:
    return goldens.arrays(golden / "edits" / "alphaedit.npz")


@pytest.fixture(scope="module")
def alpha_settings(cases: dict[str, Any]) -> dict[str, Any]:
    own = cases["alpha"]
    return {"clamp": own["clamp"], "nullspace_threshold": own["threshold"], "ridge_absolute": own["L2"]}


@pytest.fixture(scope="module")
def batches(golden_model: Model, compute: Computed, alpha_settings: dict[str, Any]) -> tuple[Edit, Edit]:
    """Requests 0 and 1, then request 2 on the model that has them."""
    editor = Editor(golden_model)
    first = compute("alphaedit", "gpt2-xl", [0, 1], **alpha_settings, editor=editor)
    editor.apply(first)
    try:
        return first, compute("alphaedit", "gpt2-xl", [2], **alpha_settings, editor=editor)
    finally:
        editor.reset()


@pytest.mark.parametrize("layer", LAYERS)
def test_the_covariance_is_the_published_one(alpha: Arrays, covariance: Covariance, layer: int) -> None:
    moment = covariance.matrix(layer)
    assert int(covariance.tokens) == int(alpha["moment_tokens"])
    assert float(moment.trace()) == pytest.approx(float(alpha[f"moment_trace.{layer}"]), rel=1e-5)
    assert relative(moment.diagonal(), alpha[f"moment_diagonal.{layer}"]) < 1e-5


@pytest.mark.parametrize("layer", LAYERS)
def test_alphaedit_has_the_published_free_space(
    alpha: Arrays, covariance: Covariance, alpha_settings: dict[str, Any], layer: int
) -> None:
    threshold = alpha_settings["nullspace_threshold"]
    values, vectors = covariance.spectrum(layer)
    free = free_space(values, vectors, AlphaEditSettings(nullspace_threshold=threshold), layer)
    assert free.shape[1] == int(alpha[f"free_directions.{layer}"])
    # theirs are of a float32 SVD, whose smallest values are its rounding
    np.testing.assert_allclose(values.flip(0), alpha[f"singular_values.{layer}"], atol=1e-5 * float(values[-1]))
    assert relative((free @ free.T).diagonal(), alpha[f"projection_diagonal.{layer}"]) < TOLERANCE


@pytest.mark.parametrize("batch", [1, 2])
def test_alphaedit_finds_the_published_states(alpha: Arrays, batches: tuple[Edit, Edit], batch: int) -> None:
    edit = batches[batch - 1]
    assert relative(evidence(edit, "zs"), alpha[f"batch{batch}.zs"]) < TOLERANCE
    for i in range(len(edit.requests)):
        assert_losses(curve(edit, i), alpha[f"batch{batch}.loss.{i}"])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("batch", [1, 2])
def test_alphaedit_changes_every_layer_as_published(
    alpha: Arrays, batches: tuple[Edit, Edit], golden_model: Model, batch: int, layer: int
) -> None:
    edit, theirs = batches[batch - 1], f"batch{batch}."
    assert relative(evidence(edit, f"keys.{layer}"), alpha[f"{theirs}keys.{layer}"]) < TOLERANCE
    assert relative(evidence(edit, f"residual.{layer}"), alpha[f"{theirs}residual.{layer}"]) < TOLERANCE
    expected = alpha[f"{theirs}change.{layer}.left"] @ alpha[f"{theirs}change.{layer}.right"].T
    assert relative(change(edit, golden_model, layer), expected) < TOLERANCE
    # what is carried over: the keys of both batches
    kept = sum(float(evidence(one, f"keys.{layer}").pow(2).sum()) for one in batches[:batch])
    assert kept == pytest.approx(float(alpha[f"{theirs}cache_trace.{layer}"]), rel=TOLERANCE)


# --- EMMET -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("case", "places", "layers"), [("batch", [0, 1, 2], LAYERS), ("single", [0], [SINGLE])])
def test_emmet_is_as_published(
    case: str, places: list[int], layers: list[int], golden: Path, golden_model: Model, compute: Computed, cases: Any
) -> None:
    """With its lambda for three requests, and without for one, whose constraint needs none."""
    theirs, own = goldens.arrays(golden / "edits" / "emmet.npz"), cases["emmet"]
    numbers = {"clamp": own["clamp"], "mom2_weight": own["mom2"], "emmet_lambda": own["lam"]}
    edit = compute("emmet", "gpt2-xl", places, layers=layers, **numbers)
    assert relative(evidence(edit, "zs"), theirs[f"{case}.zs"]) < TOLERANCE
    for i in range(len(places)):
        assert_losses(curve(edit, i), theirs[f"{case}.loss.{i}"])
    assert sorted(edit.factors) == [golden_model.down_projection(layer).name for layer in layers]
    for layer in layers:
        assert relative(evidence(edit, f"keys.{layer}"), theirs[f"{case}.keys.{layer}"]) < TOLERANCE
        expected = theirs[f"{case}.change_left.{layer}"] @ theirs[f"{case}.change_right.{layer}"].T
        assert relative(change(edit, golden_model, layer), expected) < TOLERANCE


# --- PMET ------------------------------------------------------------------------------------------------------------
PMET: dict[str, dict[str, Any]] = {
    "mlp": {},
    "both": {},
    "eased": {"clamp": 6.0, "v_lr": 0.5, "v_steps": 40, "kl_factor": 1.0},
}


def pmet_numbers(cases: Any, numbers: dict[str, Any]) -> dict[str, Any]:
    own = cases["pmet"]
    fixed = {"clamp": own["clamp"], "v_steps": own["steps"], "v_lr": own["lr"], "v_weight_decay": own["wd"]}
    return {**fixed, "kl_factor": own["kl"], "mom2_weight": own["mom2"], "nll_factor": own["nll"], **numbers}


@pytest.mark.parametrize("case", ["mlp", "eased"])
def test_pmet_is_as_published(case: str, golden: Path, golden_model: Model, compute: Computed, cases: Any) -> None:
    theirs, own = goldens.arrays(golden / "edits" / "pmet.npz"), cases["pmet"]
    edit = compute("pmet", "gpt-j-6b", [0, 1, 2], **pmet_numbers(cases, PMET[case]))
    assert relative(evidence(edit, "zs"), theirs[f"{case}.zs_mlp"]) < TOLERANCE
    for i in range(3):
        found = curve(edit, i)
        counted = found[:, 0] - found[:, 2] - found[:, 3]  # theirs is the NLL as it counts
        eased = counted < found[:, 1] / 2
        assert bool(eased.any()) is (case == "eased")
        np.testing.assert_allclose(counted, np.where(eased, 0.1, 1.0) * own["nll"] * found[:, 1], atol=1e-5)
        assert_losses(np.column_stack([found[:, 0], counted, found[:, 2:]]), theirs[f"{case}.loss.{i}"])
    for layer in LAYERS:
        name = golden_model.down_projection(layer).name
        assert (
            relative(evidence(edit, f"keys.{layer}"), theirs[f"{case}.keys.{name.removesuffix('.weight')}"]) < TOLERANCE
        )
        expected = theirs[f"{case}.change.{name}.left"] @ theirs[f"{case}.change.{name}.right"].T
        assert relative(change(edit, golden_model, layer), expected) < TOLERANCE


@pytest.mark.parametrize(("case", "numbers"), PMET.items())
def test_pmet_s_attention_moves_as_published(
    case: str, numbers: dict[str, Any], golden: Path, golden_model: Model, templates: Templates, cases: Any
) -> None:
    """It is searched for together with the MLP's value, and not written; nor does writing it too change the search."""
    theirs = goldens.arrays(golden / "edits" / "pmet.npz")
    own = PMETSettings(**goldens.settings("pmet", "gpt-j-6b", **pmet_numbers(cases, numbers), **templates("pmet")))
    assert own.v_steps is not None and own.context_templates is not None
    none: Any = None  # no covariance, since nothing is written
    context = EditContext(golden_model)
    settings = Resolved(own, tuple(LAYERS), as_templates(own.context_templates), own.v_steps, None, none, context)
    requests = [EditRequest.of(request) for request in cases["requests"]]
    with frozen(golden_model), evaluating(golden_model):
        values = optimise(
            golden_model,
            [subject_of(golden_model, request, own, settings.templates) for request in requests],
            [("attn", LAYERS[-1]), ("mlp", LAYERS[-1])],
            settings.objective(nll_factor=own.nll_factor, ease=0.1, kl_stop=own.kl_stop),
        )
    for i, value in enumerate(values):
        for place, name in enumerate(("zs_attn", "zs_mlp")):
            assert relative(value.init[place] + value.delta[place], theirs[f"{case}.{name}"][:, i]) < TOLERANCE
        assert len(value.loss) == len(theirs[f"{case}.loss.{i}"])
        np.testing.assert_allclose(
            value.loss[:, [0, 2, 3, 4]], theirs[f"{case}.loss.{i}"][:, [0, 2, 3, 4]], atol=LOSSES
        )


# --- ROME and R-ROME -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("method", ["r_rome", "rome"])
def test_rome_and_r_rome_are_as_published(
    method: str, place: int, golden: Path, golden_model: Model, compute: Computed, cases: Any
) -> None:
    theirs = goldens.arrays(golden / "edits" / "r_rome.npz")
    edit = compute(method, "gpt2-xl", [place], layers=[SINGLE], clamp=cases["rrome"]["clamp"])
    assert_losses(curve(edit, 0), theirs[f"{method}.{place}.loss"])
    left, right = theirs[f"{method}.{place}.left"], theirs[f"{method}.{place}.right"]
    assert relative(change(edit, golden_model, SINGLE), np.outer(left, right)) < TOLERANCE
    for name in ("cur_input", "cur_output"):
        if f"{method}.{place}.{name}" in theirs:
            assert relative(evidence(edit, name), theirs[f"{method}.{place}.{name}"]) < TOLERANCE


@pytest.mark.parametrize("place", [0, 1, 2])
def test_bare_keys_in_both_places_follow_from_what_rome_keeps(
    place: int, golden: Path, golden_model: Model, compute: Computed, covariance: Covariance, cases: Any
) -> None:
    """p-ROME, which is no method here: u = C^-1 k / |C^-1 k| of the bare key too."""
    theirs = goldens.arrays(golden / "edits" / "r_rome.npz")
    edit = compute("rome", "gpt2-xl", [place], layers=[SINGLE], clamp=cases["rrome"]["clamp"])
    key, output = (evidence(edit, name)[0].double() for name in ("cur_input", "cur_output"))
    left = covariance.solver(SINGLE).solve(key[:, None])[:, 0]
    left = left / left.norm()
    right = (evidence(edit, "target_init")[0] + evidence(edit, "delta")[0] - output) / (key @ left)
    ours, name = {"left": left, "right": right, "cur_input": key, "cur_output": output}, f"p_rome.{place}."
    assert_losses(curve(edit, 0), theirs[f"{name}loss"])
    assert all(relative(value, theirs[f"{name}{each}"]) < TOLERANCE for each, value in ours.items())
