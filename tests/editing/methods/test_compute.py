"""What is refused before any work is done, with the weights untouched; and what an edit says about itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch

from editing.covariance.covariance import Covariance
from editing.covariance.estimate import estimate_covariance
from editing.edits.edit import Edit
from editing.methods.compute import METHODS, compute_edit, compute_edits, method_named
from editing.request import EditRequest, EditWarning
from tracer import Fact, TracerError, attribute_neurons, causal_trace
from tracer.model import Model, load

REQUEST = EditRequest("{} is in downtown", "The Space Needle", "Paris")
OTHER = EditRequest("In {} they speak", "Uppsala", "the cello")
TEXT = [" ".join(checkpoints.SENTENCES[:5])] * 8 + [f"{i} is {i * i}, a b c d {chr(97 + i % 26)}" for i in range(200)]
QUICK: dict[str, Any] = {"v_steps": 3, "context_templates": ["{}"], "damping": 0.01}


@pytest.fixture(scope="module")
def model(tiny: Callable[[str], Model]) -> Model:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def moment(model: Model) -> Covariance:
    return estimate_covariance(model, None, TEXT, window=32, cache=False)


@pytest.fixture(scope="module")
def others(tiny: Callable[[str], Model]) -> Covariance:
    return estimate_covariance(tiny("llama"), None, TEXT, window=32, cache=False)


@pytest.fixture(scope="module")
def short(model: Model) -> Covariance:
    """Fewer tokens than keys are wide: it cannot be inverted."""
    return estimate_covariance(model, None, TEXT[:1], window=32, max_tokens=40, cache=False)


@pytest.fixture(autouse=True)
def untouched(model: Model) -> Any:
    before = model.fingerprint()
    asking = [parameter.requires_grad for parameter in model.hf.parameters()]
    yield
    assert model.fingerprint() == before
    assert [parameter.requires_grad for parameter in model.hf.parameters()] == asking
    assert not any(module.training for module in model.hf.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.hf.modules())


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "there is nothing to edit: the list of requests is empty"),
        (
            [{"prompt": "{} is", "subject": "X"}],
            "request 0: a request needs target_new; this record has prompt, subject",
        ),
        ([{"prompt": "Paris is", "subject": "Rome", "target_new": "x"}], "'Rome' does not occur in prompt 'Paris is'"),
        (
            [REQUEST, OTHER, EditRequest("{} is in downtown", "The Space Needle", "Rome")],
            "requests 0 and 2 contradict each other: 'The Space Needle is in downtown' cannot end in both 'Paris' and",
        ),
        (["text"], "a mapping, got str"),
    ],
)
def test_requests_that_cannot_be_used(requests: Any, message: str, model: Model) -> None:
    with pytest.raises(TracerError) as caught:
        compute_edit(model, requests, "rome", **QUICK)
    assert message in str(caught.value)


def test_a_target_the_model_says_already() -> None:
    model = load()
    request = EditRequest(REQUEST.prompt, REQUEST.subject, "Seattle")
    with pytest.raises(TracerError, match="says ' Seattle' after 'The Space Needle is in downtown' already"):
        compute_edit(model, request, "rome", **QUICK)
    assert compute_edit(model, request, "rome", known="edit", **QUICK).requests == (request,)


def test_the_same_subject_twice_is_warned_of(model: Model, moment: Covariance) -> None:
    with pytest.warns(EditWarning, match="requests 0 and 1 share the subject 'The Space Needle'"):
        edit = compute_edit(
            model,
            [REQUEST, EditRequest("{} was built by", "The Space Needle", "Rome")],
            "memit",
            covariance=moment,
            **QUICK,
        )
    assert len(edit.requests) == 2


@pytest.mark.parametrize("method", ["rome", "r_rome", "memit", "emmet", "alphaedit", "pmet", "ft_l", "ft_m", "lora"])
def test_a_layer_that_does_not_exist(method: str, model: Model) -> None:
    with pytest.raises(TracerError, match=r"layer.*0 to 3.*7|layer 7|7.*layers"):
        compute_edit(model, REQUEST, method, layers=[7])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "roma"}, "there is no method 'roma'; expected one of rome, r_rome, wilke"),
        ({"speed": 3}, "rome has no hyper-parameter 'speed'; it has layers, v_steps"),
        ({"clamp": -1}, "clamp is -1; expected a number above zero"),
        ({"v_steps": 0}, "v_steps is 0"),
        ({"v_lr": float("nan")}, "v_lr is nan"),
        ({"kl_factor": -0.1}, "kl_factor is -0.1; expected zero or more"),
        ({"fact_token": "middle"}, "fact_token is 'middle'"),
        ({"essence_at": "start"}, "essence_at is 'start'; expected 'subject' or 'last'"),
        ({"max_rows": 0}, "max_rows is 0"),
        ({"layers": []}, "layers is empty"),
        ({"context_templates": ["A. {}"]}, "the first context template is the bare prompt"),
        ({"essence": ["{} and {}"]}, "has 2 times {}"),
        ({"known": "skip"}, "known is 'skip'; expected 'refuse' or 'edit'"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], message: str, model: Model, moment: Covariance) -> None:
    with pytest.raises(TracerError) as caught:
        compute_edit(model, REQUEST, **{"method": "rome", "covariance": moment, **QUICK, **settings})
    assert message in str(caught.value)


def test_the_covariance_of_another_model(model: Model, others: Covariance) -> None:
    with pytest.raises(TracerError, match="taken from other weights"):
        compute_edit(model, REQUEST, "memit", covariance=others)


@pytest.mark.parametrize("method", ["rome", "memit", "emmet", "pmet"])
def test_a_covariance_that_cannot_be_inverted(method: str, model: Model, short: Covariance) -> None:
    with pytest.raises(TracerError, match="tokens"):
        compute_edit(model, REQUEST, method, covariance=short, v_steps=2, context_templates=["{}"])
    edit = compute_edit(model, REQUEST, method, covariance=short, **QUICK)  # damped, it can
    assert all(torch.isfinite(part).all() for pair in edit.factors.values() for part in pair)


def test_a_covariance_without_the_layer(model: Model, moment: Covariance) -> None:
    part = estimate_covariance(model, [1], TEXT, window=32, cache=False)
    with pytest.raises(TracerError, match=r"lacks \[2\]"):
        compute_edit(model, REQUEST, "rome", layers=[2], covariance=part)


def test_quantised_weights(tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("gpt2"))
    down = model.module("key", 1)
    down.weight = torch.nn.Parameter(down.weight.to(torch.int8), requires_grad=False)  # type: ignore[operator,union-attr]
    before = model.fingerprint()
    with pytest.raises(TracerError, match=r"int8|quantised"):
        compute_edit(model, REQUEST, "rome", layers=[1])
    assert model.fingerprint() == before


def test_a_masked_model(tiny: Callable[[str], Model]) -> None:
    model = tiny("bert")
    with pytest.raises(TracerError, match="is a masked model; rome edits models that predict the next token"):
        compute_edit(model, EditRequest("{} is in [MASK]", "Paris", "France"), "rome")


def test_nothing_to_compute(model: Model) -> None:
    with pytest.raises(TracerError, match="the list of groups is empty"):
        compute_edits(model, [], "rome")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
@pytest.mark.parametrize("method", ["rome", "memit"])
def test_an_interrupt_in_the_middle(
    method: str, error: type[BaseException], model: Model, moment: Covariance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once while values are optimised, once while later layers are computed on top of earlier ones."""
    import editing.methods.value.search as optimise
    import editing.methods.value.spread as spread

    calls = [0]

    def failing(original: Callable[..., Any], after: int) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] > after:
                raise error
            return original(*args, **kwargs)

        return run

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(optimise.Aligned, "logp", failing(optimise.Aligned.logp, 3))  # after the trials
        compute_edit(model, REQUEST, method, covariance=moment, **QUICK)
    if method == "memit":
        calls[0] = 0
        with monkeypatch.context() as patch, pytest.raises(error):
            patch.setattr(spread, "states_at_lookups", failing(spread.states_at_lookups, 3))
            compute_edit(model, REQUEST, method, layers=[1, 2], covariance=moment, **QUICK)


def test_an_edit_says_what_was_done(model: Model, moment: Covariance) -> None:
    edit = compute_edit(model, [REQUEST, OTHER], "memit", covariance=moment, **QUICK)
    assert isinstance(edit, Edit)
    assert edit.method == "memit"
    assert edit.requests == (REQUEST, OTHER)
    assert edit.fingerprint == model.fingerprint()
    assert edit.seconds > 0 and edit.memory >= 0
    settings = json.loads(json.dumps(dict(edit.settings)))
    assert settings["layers"] == list(edit.settings["layers"])
    assert settings["covariance"]["tokens"] == moment.tokens
    assert settings["clamp"] is settings["v_lr"] is None  # measured, request by request
    assert edit.evidence is not None
    for name in ("clamp", "step"):
        assert edit.evidence[name].shape == (2,) and float(edit.evidence[name].min()) > 0
    assert set(edit.factors) == {model.down_projection(layer).name for layer in settings["layers"]}


def test_neurons_of_an_attribution_are_those_edited(model: Model, tiny: Callable[[str], Model]) -> None:
    attribution = attribute_neurons(model, REQUEST.fact, token="subject_last")
    edit = compute_edit(model, REQUEST, "kn", locate=attribution)
    assert [tuple(each) for each in edit.settings["neurons"]] == attribution.above(0.1)
    foreign = attribute_neurons(tiny("llama"), REQUEST.fact, token="subject_last")
    with pytest.raises(TracerError, match="attributed on other weights"):
        compute_edit(model, REQUEST, "kn", locate=foreign)


def test_layers_of_a_trace_are_those_edited(model: Model, moment: Covariance) -> None:
    trace = causal_trace(model, Fact(REQUEST.prompt, REQUEST.subject), kind="mlp", window=1)
    row = trace.positions.index(trace.subject_range[1] - 1)
    peak = trace.layers[int(np.argmax(trace.effect[row]))]
    edit = compute_edit(model, REQUEST, "rome", locate=trace, covariance=moment, **QUICK)
    assert list(edit.factors) == [model.down_projection(peak).name]
    named = compute_edit(model, REQUEST, "rome", locate=trace, layers=[0], covariance=moment, **QUICK)
    assert list(named.factors) == [model.down_projection(0).name]  # what is said outright counts


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_there_by_its_name(name: str) -> None:
    method = method_named(name.upper().replace("_", "-"))
    assert method.name == name
    assert method.summary
    assert method.layers in ("one", "range", "none")
    assert method.layers == "none" or "layers" in method.parameters
    declared = {"neurons": method.neurons, "seed": method.seeded}
    assert {field: field in method.parameters for field in declared} == declared
    assert method.needs.isdisjoint(method.settings.__dataclass_fields__)


@pytest.mark.parametrize("method", ["rome", "r_rome", "memit", "pmet"])
def test_an_edit_that_moves_nothing_is_said(method: str, model: Model, moment: Covariance) -> None:
    """What the last block writes at the subject reaches no later token."""
    contexts = ["{}", "It is said. {}"]  # whose mean is not the bare prompt's value
    settings: dict[str, Any] = {"layers": [3], "covariance": moment, **QUICK, "context_templates": contexts}
    message = r"the value does nothing to the target at the layer written.* name an earlier layer"
    with pytest.warns(EditWarning, match=message):
        edit = compute_edit(model, REQUEST, method, **settings)
    assert "moves nothing" in edit.note and max(edit.norm().values()) < 1e-5
    with pytest.raises(TracerError, match=message):
        compute_edit(model, REQUEST, method, check="refuse", **settings)
    unseen = compute_edit(model, REQUEST, method, check=None, **settings)
    assert "moves nothing" in unseen.note
    with pytest.warns(EditWarning, match="2 of 2 values do nothing"):
        compute_edit(model, [REQUEST, OTHER], method, **settings)


PREPARED = (
    "serac",
    "mend",
    "malmen",
    "ke",
    "rledit",
    "rase",
    "ike",
    "recipe",
    "lte",
)  # beforehand: the others' preparations are made on the spot


@pytest.mark.parametrize("known", ["refuse", "edit"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [3e4, float("inf")], ids=["overflows", "infinite logits"])
def test_a_model_that_overflows_is_named_and_not_the_method(
    method: str, known: Any, scale: float, tiny_folder: Callable[[str], Path]
) -> None:
    half = load(tiny_folder("gpt2"), dtype=torch.float16)
    with torch.no_grad():
        if scale == float("inf"):
            half.module("unembed").weight[7] = scale  # type: ignore[union-attr,index]
        else:
            for parameter in half.module("mlp", 2).parameters():
                parameter.mul_(scale)
    message = r"returns logits that are not numbers: .* in torch\.float16; .*float32"
    if known == "edit" and method in PREPARED:  # what it needs cannot be made on such a model
        message = "needs what is prepared once for a model"
    with pytest.raises(TracerError, match=message):
        compute_edit(half, REQUEST, method, known=known)
