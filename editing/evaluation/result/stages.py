"""Stages of a case: measured before, after its own edit, and after many others; and its weight in a mean."""

from __future__ import annotations

from editing.questions.metrics import METRICS

from .schema import LABELS, UNEDITED, Frame

STAGES = ("unedited", "edited", "end")


def staged(rows: Frame) -> Frame:
    """The rows of a summary, with their `stage` and `weight`; one that is of two stages comes twice.

    "unedited": the model without any edit. "edited": after the case's edit; of mode "sequential" when it was first
    measured after it. "end": of mode "sequential", at the last moment at which older edits were measured too, with the
    weights of `retained`. A case counts as often as it has questions where the published mean is over these
    (`Metric.pooled`).

    Args:
        rows: with the columns `LABELS`, case_id, position and after; of metrics also metric and n.
    """
    import pandas as pd

    control = rows["method"] == UNEDITED
    behind = ~control & (rows["after"] > rows["position"])
    sequential = rows[behind & (rows["mode"] == "sequential")]
    key = [*LABELS, "case_id", *(["metric"] if "metric" in rows.columns else [])]
    first = sequential.groupby(key)["after"].transform("min")
    again = retained(sequential)
    last = again["after"].where(again["older"]).groupby([again[label] for label in LABELS]).transform("max")
    # where no older ones were ever measured: the only moment there is
    alone = last.isna() & (again["after"] == sequential.groupby(list(LABELS))["after"].transform("max")[again.index])
    parts = {
        "unedited": rows[control],
        "edited": pd.concat([rows[behind & (rows["mode"] != "sequential")], sequential[sequential["after"] == first]]),
        "end": again[(again["after"] == last) | alone].drop(columns="older"),
    }
    parts["edited"] = parts["edited"].sort_index()
    found = pd.concat([part.assign(stage=stage) for stage, part in parts.items()]).fillna({"weight": 1.0})
    if {"metric", "n"} <= {*found.columns}:
        pooled = found["metric"].isin([name for name, metric in METRICS.items() if metric.pooled])
        found["weight"] = found["weight"].where(~pooled, found["weight"] * found["n"])
    return found


def retained(rows: Frame) -> Frame:
    """Rows about all edits made so far, with their `weight`, and whether `older` edits are among them.

    Left out are moments at which only the newest edits were measured, though there were older ones. Where only some of
    the older edits were measured, each of them stands for several: its weight is the number of older edits over the
    number of measured ones. Newest edits, measured for the first time, stand for themselves.

    Args:
        rows: of mode "sequential", behind their edits.
    """
    key = [*LABELS, *(["metric"] if "metric" in rows.columns else [])]
    new = rows["after"] == rows.groupby([*key, "case_id"])["after"].transform("min")
    moments = rows.assign(new=new).groupby([*key, "after"])["new"].agg(new="sum", all="size")
    made = moments.groupby(level=list(range(len(key))))["new"].cumsum() - moments["new"]
    measured = moments["all"] - moments["new"]
    table = moments.assign(weight=made / measured.where(measured > 0), older=measured > 0, first=made == 0)
    at = rows[[*key, "after"]].merge(table.reset_index(), how="left", on=[*key, "after"]).set_index(rows.index)
    weighted = rows.assign(weight=at["weight"].where(~new, 1.0), older=at["older"])
    return weighted[at["older"] | at["first"]]
