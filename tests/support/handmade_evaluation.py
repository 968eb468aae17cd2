"""An evaluation made by hand, for tests of what is summed up, drawn, written and shown."""

from __future__ import annotations

from typing import Any

import numpy as np

from editing.evaluation.result.evaluation import Evaluation

CASES = 12
MARK = "document.documentElement.setAttribute('data-hacked','1')"
HOSTILE = (
    f"<script>{MARK}</script>",
    f'<img src=x onerror="{MARK}">',
    f"</script><script>{MARK}//",
    "{{7*7}} {% raw %} ${7*7}",
    "line\u2028separator\u2029and <!-- <script>",
    "\u202eright to left\u202c and \u2066isolate",
    f"' onmouseover='{MARK}' \" &lt;b&gt;",
    "=1+1\x00\x07 NUL",
)
MEANS = {  # method: reliability, generalisation, locality, portability; free generation is worse
    ("unedited", ""): (0.0, 0.05, 1.0, 0.1),
    ("rome", ""): (1.0, 0.9, 0.85, 0.4),
    ("rome", "random layer"): (0.5, 0.3, 0.7, 0.2),
    ("rome", "random direction"): (0.05, 0.05, 0.9, 0.1),
    ("memit", ""): (0.95, 0.7, 0.95, 0.35),
}
KINDS = {"reliability": "rewrite", "generalisation": "paraphrase", "locality": "neighbour", "portability": "one_hop"}


def labels(method: str, control: str = "", mode: str = "single", **more: Any) -> dict[str, Any]:
    layers = {"unedited": "", "memit": "1,2"}.get(method, "2")
    made = {"model": "factworld", "method": method, "control": control, "layers": layers, "seed": 0, "mode": mode}
    return made | more


def subject(case: int) -> str:
    """Twelve cases about ten subjects: the last two share theirs with the first two."""
    return f"Subject {case % 10}"


def row(of: dict[str, Any], case: int, metric: str, value: float, **more: Any) -> dict[str, Any]:
    """A row of the table of metrics."""
    place = {"case_id": str(case), "subject": subject(case), "position": 0, "after": int(of["method"] != "unedited")}
    return {**of, **place, "metric": metric, "value": value, "n": 1} | more


def evaluation(cases: int = CASES, hostile: bool = True, **settings: Any) -> Evaluation:
    """Two methods with controls, edit by edit; and both again with one edit after another, measured after every
    fourth, where the success of older edits wears off."""
    random = np.random.default_rng(0)
    metrics, answers, edits, health = [], [], [], []
    for (method, control), means in MEANS.items():
        of = labels(method, control)
        for case in range(cases):
            for (measure, kind), mean in zip(KINDS.items(), means, strict=True):
                forced = float(random.random() < mean)
                said = forced * float(random.random() < 0.8)
                metrics += [
                    row(of, case, f"{measure} (forced)", forced),
                    row(of, case, f"{measure} (generated)", said),
                    row(of, case, f"{kind} success", forced, n=1 + (kind == "neighbour")),
                ]
            metrics.append(row(of, case, "fluency", 6.2 - 0.3 * means[0] + random.normal(0, 0.1)))
            metrics.append(row(of, case, "consistency", 0.2 + 0.1 * means[0]))
            answers += _asked(of, case, means, hostile)
            if method != "unedited":
                size = {"seconds": 0.1 + 0.01 * case, "peak_bytes": 10**8 + case, "norm": 1.5, "rank": 1}
                edits.append({**of, "case_id": str(case), "position": 0, **size, "error": ""})
    for method, lasts in (("rome", 0.8), ("memit", 0.97)):
        of = labels(method, mode="sequential")
        for position in range(cases):
            edits.append({**of, "case_id": str(position), "position": position, "seconds": 0.2, "error": ""})
            for after in sorted({position + 1, *range(4, cases + 1, 4)}):
                if after <= position:
                    continue
                holds = float(lasts ** (after - position - 1) > 0.5)
                more = {"position": position, "after": after}
                metrics.append(row(of, position, "reliability (forced)", holds, **more))
                metrics.append(row(of, position, "reliability (generated)", holds, **more))
        for after in range(0, cases + 1, 4):
            for measure, value, limit in (
                ("norm growth", 1 + (1 - lasts) * after, 2.0),
                ("perplexity", 4 + after / 2, 8.0),
            ):
                health.append({**of, "after": after, "measure": measure, "value": value, "limit": limit})
                health[-1]["alarm"] = int(value > limit)
    edits[-1] |= {"seconds": np.nan, "norm": np.nan, "error": f"cannot be made {HOSTILE[0]}"}
    for each in edits:
        each.setdefault("peak_bytes", None)
        each.setdefault("rank", None)
        each.setdefault("norm", np.nan)
    made = {"records": "handmade", "seed": 0, "methods": {"rome": {"layers": [2]}}, "note": HOSTILE[0]} | settings
    return Evaluation.of(made, metrics=metrics, answers=answers, edits=edits, health=health)


def _asked(of: dict[str, Any], case: int, means: tuple[float, ...], hostile: bool) -> list[dict[str, Any]]:
    after = int(of["method"] != "unedited")
    nasty = HOSTILE[case % len(HOSTILE)] if hostile else "plain"
    rows = []
    for place, kind in enumerate(KINDS.values()):
        wanted = means[place] > 0.5
        rows.append(
            {
                **of,
                "case_id": str(case),
                "after": after,
                "kind": kind,
                "prompt": f"{subject(case)} {kind} prompt {nasty}",
                "answer": f" Paris {nasty}",
                "against": " Rome" if place < 3 else None,
                "nll": 0.5 if wanted else 3.25,
                "nll_against": 2.0 if place < 3 else np.nan,
                "accuracy": float(wanted),
                "exact": float(wanted),
                "generated": f" Paris {of['method']} {nasty}" if wanted else " Rome",
                "match": float(wanted),
            }
        )
    text = {
        "kind": "text",
        "prompt": f"{subject(case)} is",
        "generated": f"{subject(case)} is {nasty}, by {of['method']}.",
    }
    empty = {
        "answer": None,
        "against": None,
        **dict.fromkeys(("nll", "nll_against", "accuracy", "exact", "match"), np.nan),
    }
    return [*rows, {**of, "case_id": str(case), "after": after, **empty, **text}]
