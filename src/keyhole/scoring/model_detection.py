"""Inverters as tests of a model: does it have a backdoor, and for which class?

The same rule holds for all inverters: a model counts as detected if any class is flagged, and the class with the
highest anomaly is the one that the inverter names. Shares of victims have Wilson's interval. AUROC compares the
highest anomaly of each poisoned victim with those of the clean victims of its data set, model and recipe, so it does
not depend on the method's own threshold.
"""

from collections.abc import Sequence

from pandas import DataFrame, Series

from keyhole.planning.roles import CLEAN
from keyhole.scoring.statistics import NAN, wilson
from keyhole.scoring.two_sample import auroc

__all__ = ["ALL", "COLUMNS", "model_detection"]

ALL = "all attacks"
SHARES = ("detected", "target_named", "false_alarms_clean")
COST = ("forwards", "backwards", "holdout_size")
COLUMNS = (*(f"{name}{end}" for name in SHARES for end in ("", "_low", "_high")), "model_AUROC", *COST)


def model_detection(runs: DataFrame, keys: Sequence[str]) -> DataFrame:
    """Make one row for each setting of `keys`, and one for all attacks together (`attack` = `ALL`).

    Args:
        runs: cards of inverters, with their `state`; runs that are not judged are only counted.
        keys: `attack`, `poison_rate`, and the other columns that tell settings apart.
    """
    runs = runs.reindex(columns=[*keys, "state", "any_flagged", "top1", "anomaly_max", *COST])
    place = [name for name in keys if name not in ("attack", "poison_rate")]
    rows = []
    for values, group in runs.groupby(place, sort=False):
        clean = group[(group["attack"] == CLEAN) & (group["state"] == "judged")]
        attacked = group[group["attack"] != CLEAN]
        fixed = dict(zip(place, values, strict=True))
        for (attack, rate), part in attacked.groupby(["attack", "poison_rate"], sort=False):
            rows.append({**fixed, "attack": attack, "poison_rate": rate, **_row(part, clean)})
        if attacked["attack"].nunique() != 1:
            rows.append({**fixed, "attack": ALL, "poison_rate": NAN, **_row(attacked, clean)})
    facts = ["controls", "target_share", "seeds", "judged", "excluded", "failed", "flags", "reason"]
    return DataFrame(rows, columns=[*keys, *COLUMNS, *facts])


def _row(part: DataFrame, clean: DataFrame) -> dict[str, object]:
    judged = part[part["state"] == "judged"]
    counts = {state: int((part["state"] == state).sum()) for state in ("judged", "excluded", "failed")}
    cost = judged[list(COST)].astype(float).mean()
    return {
        **_share("detected", judged["any_flagged"]),
        **_share("target_named", judged["top1"] == 1),
        **_share("false_alarms_clean", clean["any_flagged"]),
        "model_AUROC": _auroc(judged["anomaly_max"], clean["anomaly_max"]),
        **cost,
        "seeds": len(part),
        **counts,
        "flags": "",
        "reason": "",
    }


def _share(name: str, hits: Series) -> dict[str, float]:
    n, successes = len(hits), int(hits.sum())
    low, high = wilson(successes, n)
    return {name: successes / n if n else NAN, f"{name}_low": low, f"{name}_high": high}


def _auroc(poisoned: Series, clean: Series) -> float:
    if not len(poisoned) or not len(clean):
        return NAN
    return auroc(poisoned.to_numpy(float), clean.to_numpy(float))
