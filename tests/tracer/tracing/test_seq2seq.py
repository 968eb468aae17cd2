"""Causal traces of encoder-decoder models: two maps, against a plain loop over the library's own forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stacked import NAMES, fact_for, stacked
from torch import Tensor, nn

from tracer.errors import OutOfRange, TraceSettingError
from tracer.facts import Readout
from tracer.facts.prompt import source_length
from tracer.model import Model
from tracer.plots import plot_trace
from tracer.tracing import CausalTrace, GaussianNoise, average_traces, causal_trace
from tracer.tracing.attribution_patching import attribution_trace
from tracer.tracing.case import window_layers

NOISE = GaussianNoise(level=0.8, samples=3)
MAPS = [("encoder", kind) for kind in ("hidden", "mlp", "attn")]
MAPS += [("decoder", kind) for kind in ("hidden", "mlp", "attn", "cross")]


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Model:
    return stacked(request.param, torch.float64)


class Loop:
    """The plain loop: one forward of the library's module for each cell, with hooks of torch's own."""

    def __init__(self, model: Model) -> None:
        self.model, fact = model, fact_for(model)
        alignment = fact.align(model)
        self.readout = Readout.of(model, alignment)
        self.source = source_length(model, self.readout.ids)
        first, last = alignment.subject_range
        drawn = NOISE.level_for(model) * NOISE.draw(last - first, model.d_embed)
        self.noise = torch.zeros(1 + NOISE.samples, self.source, model.d_embed, dtype=torch.float64)
        self.noise[1:, first:last] = torch.from_numpy(drawn)

    def noised(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        """Hook on the encoder's word embedding."""
        return output + self.noise

    def run(self, replaced: dict[tuple[str, int, int], Tensor], kept: set[str] | None = None) -> Any:
        """Log-probability of the answer [1 + samples], and the outputs of modules that were asked for."""
        model, hf = self.model, self.model.hf
        states: dict[tuple[str, int], Tensor] = {}
        handles = [model.module("embed").register_forward_hook(self.noised)]

        def hook(kind: str, layer: int, offset: int) -> Any:
            def after(_: nn.Module, __: Any, output: Any) -> Any:
                state = (output if isinstance(output, Tensor) else output[0]).clone()
                states[kind, layer] = state.clone()
                for (one, at, token), value in replaced.items():
                    if (one, at) == (kind, layer):
                        state[1:, token - offset] = value[1:] if len(value) > 1 else value
                return state if isinstance(output, Tensor) else (state, *output[1:])

            return after

        for stack, layers in model.stacks.items():
            for layer in layers:
                for kind in ("hidden", "mlp", "attn", *(("cross",) if stack == "decoder" else ())):
                    own = hook(kind, layer, 0 if stack == "encoder" else self.source)
                    handles.append(model.module(kind, layer).register_forward_hook(own))
        ids = torch.tensor([self.readout.ids]).expand(1 + NOISE.samples, -1)
        try:
            with torch.no_grad():
                logits = hf(input_ids=ids[:, : self.source], decoder_input_ids=ids[:, self.source :]).logits
        finally:
            for handle in handles:
                handle.remove()
        own = [position - self.source for position in self.readout.read]
        picked = logits[:, own].log_softmax(-1)[:, range(len(own)), list(self.readout.target)]
        return picked.sum(-1).exp(), states

    def cell(self, kind: str, layers: range, token: int, severed: list[tuple[str, int, int]] = []) -> float:  # noqa: B006
        _, states = self.run({})
        offset = 0 if token < self.source else self.source
        replaced = {(kind, layer, token): states[kind, layer][:1, token - offset] for layer in layers}
        for one, layer, at in severed:
            replaced[one, layer, at] = states[one, layer][:, at - (0 if at < self.source else self.source)]
        return float(self.run(replaced)[0][1:].mean())


@pytest.mark.parametrize(("stack", "kind"), MAPS)
def test_a_map_equals_the_plain_loop(model: Model, stack: Any, kind: Any) -> None:
    loop = Loop(model)
    trace = causal_trace(model, fact_for(model), stack=stack, kind=kind, window=2, corruption=NOISE)
    probabilities, _ = loop.run({})
    within = model.stacks[stack]
    tokens = range(loop.source) if stack == "encoder" else range(loop.source, len(loop.readout.ids))
    assert (trace.layers, trace.positions) == (tuple(within), tuple(tokens))
    assert (trace.stack, trace.within) == (stack, (within.start, within.stop))
    np.testing.assert_allclose(trace.clean, float(probabilities[0]), rtol=1e-7)
    np.testing.assert_allclose(trace.corrupted, float(probabilities[1:].mean()), rtol=1e-7)
    expected = np.empty(trace.scores.shape)
    for row, column in np.ndindex(expected.shape):
        layer = within[column]
        layers = range(layer, layer + 1) if kind == "hidden" else window_layers(layer, 2, within.stop, within.start)
        expected[row, column] = loop.cell(kind, layers, tokens[row])
    np.testing.assert_allclose(trace.scores, expected, rtol=1e-7)
    assert np.ptp(expected) > 1e-4 * expected.max(), "a trace without contrast proves nothing"


@pytest.mark.parametrize("sever", ["mlp", "attn", "cross"])
def test_severed_steps_of_the_decoder_equal_the_plain_loop(model: Model, sever: Any) -> None:
    loop, within = Loop(model), model.stacks["decoder"]
    trace = causal_trace(model, fact_for(model), stack="decoder", sever=sever, corruption=NOISE)
    token = loop.readout.read[0]
    expected = [
        loop.cell("hidden", range(layer, layer + 1), token, [(sever, at, token) for at in within if at > layer])
        for layer in within
    ]
    np.testing.assert_allclose(trace.scores[trace.positions.index(token)], expected, rtol=1e-7)


def test_nothing_passes_when_cross_attention_is_severed(model: Model) -> None:
    """The source reaches the decoder through cross-attention alone."""
    severed = causal_trace(model, fact_for(model), sever="cross", corruption=NOISE)
    open_ = causal_trace(model, fact_for(model), corruption=NOISE)
    np.testing.assert_allclose(severed.scores, severed.corrupted, rtol=1e-9)
    assert np.ptp(open_.scores) > 1e-4 * open_.scores.max()


def test_restoring_all_that_the_decoder_reads_is_the_clean_run(model: Model) -> None:
    loop = Loop(model)
    last = model.stacks["encoder"][-1]
    clean, states = loop.run({})
    replaced = {("hidden", last, token): states["hidden", last][:1, token] for token in range(loop.source)}
    torch.testing.assert_close(loop.run(replaced)[0], clean[:1].expand(1 + NOISE.samples), rtol=1e-9, atol=0)
    whole = causal_trace(model, fact_for(model), stack="decoder", kind="hidden", corruption=NOISE)
    if len(loop.readout.read) == 1:
        np.testing.assert_allclose(whole.scores[-1, -1], whole.clean)


def test_settings_that_do_not_go_together(model: Model) -> None:
    fact = fact_for(model)
    for settings, message in (
        ({"kind": "cross"}, "cross-attention is in the decoder"),
        ({"stack": "both"}, "stack is 'both'; expected 'encoder' or 'decoder'"),
    ):
        with pytest.raises(TraceSettingError, match=message):
            causal_trace(model, fact, corruption=NOISE, **settings)  # type: ignore[arg-type]
    with pytest.raises(OutOfRange, match=r"layers=.0. is out of range; expected numbers from 2"):
        causal_trace(model, fact, corruption=NOISE, stack="decoder", layers=[0])
    with pytest.raises(OutOfRange, match=r"tokens=.* is out of range"):
        causal_trace(model, fact, corruption=NOISE, stack="decoder", tokens="subject_last")


def test_estimates_and_averages(model: Model, tmp_path: Path) -> None:
    fact = fact_for(model)
    small = GaussianNoise(level=1e-3, samples=2)
    for stack in ("encoder", "decoder"):
        exact = causal_trace(model, fact, stack=stack, corruption=small)
        guess: Any = attribution_trace(model, fact, stack=stack, corruption=small)
        scale = np.abs(exact.effect).max()
        np.testing.assert_allclose(guess.effect, exact.effect, atol=0.05 * scale)
        exact.save(tmp_path / "trace.npz")
        again = CausalTrace.load(tmp_path / "trace.npz")
        assert (again.stack, again.within, again.tokens) == (exact.stack, exact.within, exact.tokens)
        figure: Any = plot_trace(exact)
        assert f"the {stack} of" in figure.layout.xaxis.title.text
    open_fact = fact_for(model, None)
    mean = average_traces(model, [open_fact], corruption=NOISE, folder=tmp_path / "kept")
    one = causal_trace(model, open_fact, corruption=NOISE)
    span = slice(*one.subject_range)
    np.testing.assert_allclose(mean.effect[2], one.effect[span][-1])
    assert mean.layers == tuple(model.stacks["encoder"])


def test_a_model_with_one_stack_has_no_other(tiny: Any) -> None:
    from agreement import fact

    with pytest.raises(TraceSettingError, match="expected None, as the model has a single stack"):
        causal_trace(tiny("gpt2"), fact(tiny("gpt2")), stack="encoder")
    with pytest.raises(TraceSettingError, match="cross-attention is in the decoder"):
        causal_trace(tiny("gpt2"), fact(tiny("gpt2")), sever="cross")
