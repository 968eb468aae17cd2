"""Located layers made by hand, for tests of what is drawn, written and read."""

from __future__ import annotations

from typing import Any

import numpy as np

from editing.layers.located import USING, Located


def located(using: str = "trace", n_layers: int = 8, facts: int = 4, **fields: Any) -> Located:
    """Evidence that peaks at layer 2 (of a sweep: full up to layer 5), or that which ``fields`` names, [facts, layers].

    Measures of a sweep that are not named are the first one's; margins are named "reliability margin".
    """
    names = {*USING[using], "count", *(f"{name} margin" for name in USING[using])}
    evidence = {name: np.array(fields.pop(name), dtype=float) for name in sorted(names & fields.keys())}
    layers = np.arange(n_layers)
    shape = 0.9 * np.where(layers <= 5, 1, 0.5) if using == "sweep" else 0.5 * 0.7 ** abs(layers - 2)
    rows = len(next(iter(evidence.values()))) if evidence else facts
    random = np.random.default_rng(0)
    given = next((evidence[name] for name in USING[using] if name in evidence), None)
    for name in USING[using]:
        drawn = np.clip(shape + random.normal(0, 0.02, (rows, n_layers)), -1, 1)
        evidence.setdefault(name, given if using == "sweep" and given is not None else drawn)
    default: dict[str, Any] = {
        "prompts": tuple(f"Landmark {i} is in" for i in range(rows)),
        "subjects": tuple(f"Landmark {i}" for i in range(rows)),
        "answers": (" Seattle",) * rows,
        "model": "factworld",
        "n_layers": n_layers,
        "fingerprint": "0" * 64,
        "settings": {
            "trace": {"window": 3, "metric": "prob"},
            "neurons": {"threshold": 0.2},
            "change": {"method": "rome", "hparams": {}},
            "sweep": {"method": "rome", "by": "preferred", "hparams": {}},
        }[using],
    }
    if using == "sweep":
        default["unedited"] = {"reliability": [0.0] * rows, "generalisation": [0.05] * rows, "locality": [0.98] * rows}
    return Located.of(using, evidence, **(default | fields))
