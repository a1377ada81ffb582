"""Means and intervals over the runs of a setting.

They are over the judged runs. If no run of a setting is judged, they are over the excluded ones, and rendered tables
put them in brackets.
"""

from collections import Counter
from collections.abc import Sequence

import pandas as pd
from pandas import DataFrame, Series

from keyhole.reporting._column import Column
from keyhole.reporting.runs import split_flags

__all__ = ["aggregate"]


def aggregate(
    runs: DataFrame, keys: list[str], means: Sequence[Column], intervals: Sequence[Column], everyone: bool = False
) -> DataFrame:
    """Make one row for each value of `keys`; `seeds` = `judged` + `excluded` + `failed` runs.

    Args:
        means: columns that get a mean.
        intervals: columns that get a mean and an interval.
        everyone: whether excluded runs count, too.
    """
    values = [runs[key] for key in keys]
    is_state = {state: runs["state"] == state for state in ("judged", "excluded", "failed")}
    any_judged = is_state["judged"].groupby(values).transform("any").astype(bool)
    ran = runs["status"].isin(["", "ok"])
    counted = ran if everyone else is_state["judged"] | (~any_judged & ran)
    numbers = runs.reindex(columns=[c.name for c in (*means, *intervals)]).apply(pd.to_numeric)
    groups = runs.groupby(keys, sort=False)
    rows = groups.agg(controls=("controls", "first"), target_share=("target_share", "mean"), seeds=("seed", "size"))
    for state, is_in in is_state.items():
        rows[state] = is_in.groupby(values, sort=False).sum().astype(int)
    rows = rows.join(_means(pd.concat([runs[keys], numbers], axis=1)[counted], keys, means, intervals))
    rows["flags"] = (runs["flags"] + "+" + runs["victim_flags"]).groupby(values, sort=False).agg(_count_flags)
    rows["reason"] = runs["reason"].groupby(values, sort=False).agg(_count_reasons)
    return rows.reset_index()


def _means(values: DataFrame, keys: list[str], facts: Sequence[Column], measured: Sequence[Column]) -> DataFrame:
    """Return means and half widths of Student's t intervals.

    All columns are done at once, since one call for each column takes 20 times as long.
    """
    from scipy.stats import t

    groups = values.groupby(keys, sort=False)
    n = groups.size()
    complete = groups.count().eq(n, axis=0)  # one undefined value makes the mean undefined
    means = groups.mean().where(complete)
    per_deviation = pd.Series(t.ppf(0.975, (n - 1).clip(lower=1)) / n**0.5, index=n.index).where(n > 1)
    half_widths = groups.std(ddof=1).mul(per_deviation, axis=0).where(complete)
    columns = {column.name: means[column.name] for column in facts}
    for column in measured:
        columns[column.name] = means[column.name]
        if column.has_interval:
            columns[f"{column.name}_interval"] = half_widths[column.name]
    return DataFrame(columns, index=n.index)


def _count_flags(marks: Series) -> str:
    """List flags with the number of runs that raise them: `attack_failed(1/3)`."""
    counts = Counter(flag for text in marks for flag in split_flags(text))
    return " ".join(f"{name}({counts[name]}/{len(marks)})" for name in split_flags("+".join(counts)))


def _count_reasons(reasons: Series) -> str:
    """List reasons of failure with the number of runs that give them."""
    return "; ".join(f"{reason} ({n}/{len(reasons)})" for reason, n in Counter(reasons[reasons != ""]).items())
