"""Former places of modules: still importable for one release, with a DeprecationWarning that names the new one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "editing.adapter": ("editing.edits.lora",),
    "editing.compute": ("editing.methods.compute",),
    "editing.contexts": ("editing.methods.value.context_templates",),
    "editing.continuation": ("tracer.engine.generation",),
    "editing.corpus": ("editing.covariance.text",),
    "editing.covariance_cache": ("editing.covariance.cache",),
    "editing.datasets.record": (
        "editing.questions.record",
        "editing.questions.question",
    ),
    "editing.decoding": ("tracer.engine.follow",),
    "editing.drift": ("editing.health.drift",),
    "editing.edit": ("editing.edits.edit",),
    "editing.editfile": ("tracer.files.tensors",),
    "editing.edits.file": ("tracer.files.tensors",),
    "editing.editor": ("editing.ledger.editor",),
    "editing.evaluation.answers": (
        "editing.questions.asking_records",
        "editing.questions.asked",
    ),
    "editing.evaluation.bench": ("editing.evaluation.run.worker",),
    "editing.evaluation.comparison": ("editing.evaluation.result.comparison",),
    "editing.evaluation.controls": ("editing.evaluation.run.controls",),
    "editing.evaluation.defined": ("editing.questions.definitions",),
    "editing.evaluation.evaluate": ("editing.evaluation.run.start",),
    "editing.evaluation.evaluation": ("editing.evaluation.result.evaluation",),
    "editing.evaluation.evaluation_table": ("editing.evaluation.result.text",),
    "editing.evaluation.health": ("editing.health.monitor",),
    "editing.evaluation.joined": ("editing.evaluation.result.joining",),
    "editing.evaluation.kept": ("editing.evaluation.run.blobs",),
    "editing.evaluation.metrics": (
        "editing.questions.metrics",
        "editing.questions.question_metrics",
    ),
    "editing.evaluation.negation": ("editing.questions.negation",),
    "editing.evaluation.plan": ("editing.evaluation.run.protocol",),
    "editing.evaluation.retention": ("editing.evaluation.result.retention",),
    "editing.evaluation.said": ("editing.questions.match",),
    "editing.evaluation.sequence": ("editing.evaluation.run.sequence",),
    "editing.evaluation.series": ("editing.evaluation.result.series",),
    "editing.evaluation.stages": ("editing.evaluation.result.stages",),
    "editing.evaluation.summary": ("editing.evaluation.result.summary",),
    "editing.evaluation.tables": ("editing.evaluation.result.schema",),
    "editing.evaluation.tasks": ("editing.evaluation.run.tasks",),
    "editing.evaluation.text_metrics": ("editing.questions.text_metrics",),
    "editing.evidence": ("editing.localisation.evidence",),
    "editing.harm": ("editing.health.harm",),
    "editing.keyvalues": ("tracer.engine.kv_cache",),
    "editing.locate": (
        "editing.localisation.choose",
        "editing.layers.from_result",
    ),
    "editing.located": ("editing.layers.located",),
    "editing.make_covariance": ("editing.covariance.make",),
    "editing.memory": ("editing.methods.peak_memory",),
    "editing.method": ("editing.methods.method",),
    "editing.methods.spread": ("editing.methods.value.spread",),
    "editing.moments": (
        "editing.covariance.estimate",
        "editing.covariance.keys",
    ),
    "editing.moments_run": ("editing.covariance.parallel",),
    "editing.optimise": ("editing.methods.value.search",),
    "editing.outcome": ("editing.questions.outcome",),
    "editing.outcome_table": ("editing.questions.table",),
    "editing.packed": ("editing.covariance.triangles",),
    "editing.probes": (
        "editing.questions.probes",
        "editing.questions.question",
    ),
    "editing.published": ("editing.methods.published_settings",),
    "editing.rows": (
        "editing.methods.value.prompts",
        "tracer.engine.batch",
    ),
    "editing.scores": (
        "editing.questions.target_scores",
        "editing.questions.measures",
    ),
    "editing.sentences": ("tracer.facts.sentences",),
    "editing.settings": ("editing.methods.value.settings",),
    "editing.suffix": ("tracer.engine.partial",),
    "editing.sums": ("editing.covariance.accumulate",),
    "editing.timing": ("editing.methods.timing",),
    "editing.training": ("editing.methods.training",),
    "editing.versions": ("editing.ledger.weight_history",),
    "editing.weights": ("editing.edits.weights",),
    "tracer.acting": ("tracer.neurons.interventions",),
    "tracer.answers": (
        "tracer.facts.readout",
        "tracer.engine.answer",
    ),
    "tracer.arriving": ("tracer.engine.arriving",),
    "tracer.attributed": ("tracer.neurons.attribution",),
    "tracer.attribution": ("tracer.tracing.attribution_patching",),
    "tracer.attributor": ("tracer.neurons.integrated_gradients",),
    "tracer.average": (
        "tracer.tracing.average",
        "tracer.tracing.member",
    ),
    "tracer.averaged": ("tracer.tracing.average_trace",),
    "tracer.branches": ("tracer.engine.branches",),
    "tracer.case": ("tracer.tracing.case",),
    "tracer.causal": ("tracer.tracing.causal",),
    "tracer.chat": ("tracer.facts.chat",),
    "tracer.corruption": ("tracer.tracing.corruption",),
    "tracer.effect_result": ("tracer.neurons.effects_result",),
    "tracer.effects": ("tracer.neurons.effects",),
    "tracer.encoding": ("tracer.facts.encoding",),
    "tracer.export": ("tracer.plots.export",),
    "tracer.factworld.evaluate": ("tracer.factworld.recipe.evaluate",),
    "tracer.factworld.make": ("tracer.factworld.recipe.make",),
    "tracer.factworld.mechanism": ("tracer.factworld.recipe.mechanism",),
    "tracer.factworld.train": ("tracer.factworld.recipe.train",),
    "tracer.forward": ("tracer.engine.forward",),
    "tracer.grid": ("tracer.tracing.grid",),
    "tracer.hooks": ("tracer.engine.hooks",),
    "tracer.inspection": ("tracer.facts.inspection",),
    "tracer.labels": ("tracer.plots.labels",),
    "tracer.metrics": ("tracer.tracing.metrics",),
    "tracer.result": ("tracer.tracing.trace",),
    "tracer.runs.traces": ("tracer.tracing.parallel",),
    "tracer.sites": ("tracer.engine.sites",),
    "tracer.spacing": ("tracer.facts.spacing",),
    "tracer.storage": ("tracer.files.npz",),
    "tracer.sweep": ("tracer.engine.sweep",),
    "tracer.tokens": ("tracer.facts.fact",),
    "tracer.tracestore": ("tracer.tracing.store",),
    "tracer.trial": ("tracer.engine.trial",),
}
"""Old module -> the modules that hold its names now."""


class Moved(ModuleType):
    """A module at its old place: its names are looked up in the new ones.

    Calling it calls the function that has its name (`editing.locate` is a function to users, and was a module as well).
    """

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for place in MOVED[self.__name__]:
                module = import_module(place)
                if hasattr(module, name):
                    return getattr(module, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The result of the function that has the module's name."""
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Moved(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        now = " and ".join(MOVED[module.__name__])
        # the frames between here and the importing line are the import system's, which warnings leaves out
        warnings.warn(f"{module.__name__} has moved to {now}; import from there", DeprecationWarning, stacklevel=2)


def keep_old_places() -> None:
    """Let the import system find modules at their former places, after it has looked everywhere else."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def former(module: str, names: Mapping[str, Any]) -> Callable[[str], Any]:
    """A module's `__getattr__` that gives former names, with a DeprecationWarning that says the name now.

    Args:
        module: its name.
        names: what a former name stands for.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        now = names[name].__name__
        warnings.warn(f"{module}.{name} is called {now} now; use that name", DeprecationWarning, stacklevel=2)
        return names[name]

    return get
