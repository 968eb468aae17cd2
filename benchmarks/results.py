"""What benchmarks measured, in parquet files beside them: a run replaces the rows that it made anew, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tracer.plots.export import replacing


def replace_rows(path: Path, found: pd.DataFrame, by: Sequence[str], order: Sequence[str] = ()) -> pd.DataFrame:
    """Write what was found, and behind it those rows of the file that were not measured anew.

    Args:
        path: of the file.
        found: rows.
        by: columns that tell what was measured: former rows of the same values go.
        order: of the values of the first of these columns; none: as they come.
    """
    if path.exists():
        former = pd.read_parquet(path)
        anew = found[list(by)].drop_duplicates()
        again = former[list(by)].merge(anew, how="left", on=list(by), indicator=True)["_merge"] == "both"
        found = pd.concat([found, former.loc[~again.to_numpy()]], ignore_index=True)
    if order:
        found = found.sort_values(
            by[0], key=lambda names: names.map(list(order).index), kind="stable", ignore_index=True
        )
    with replacing(path) as temporary:
        short = found.astype(dict.fromkeys(found.columns.intersection(["value"]), "float32"))
        short.to_parquet(temporary, index=False, compression="zstd")
    return found
