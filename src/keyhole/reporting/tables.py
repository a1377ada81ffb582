"""Tables: the cards of all victims, one row for each setting, aggregated over its seeds.

Which runs count is one rule. A run is *excluded* if its victim, or the run itself, has a flag of `checks.EXCLUDING`;
otherwise it has *failed* if its method raised an error; the others are *judged*. Means and 95 % t intervals are over
judged runs; where none is judged they are over the excluded ones, and are rendered in brackets. The attacks' own table
takes all runs into its means: without those that failed, an attack would look stronger than it is.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from keyhole import artifacts
from keyhole.reporting import rendering, summary
from keyhole.scoring import metrics
from keyhole.scoring.flags import EXCLUDING, FLAGS
from keyhole.scoring.model_detection import COLUMNS, model_detection
from keyhole.scoring.separability import COLUMNS as SEPARABILITY

__all__ = ["KEY", "LAYOUTS", "Layout", "captions", "collect", "frame", "main_table", "tabulate", "write"]

Skipped = Sequence[tuple[Mapping[str, Any], str]]  # fields of the cells left out, and why

CELL = ["dataset", "model", "attack", "poison_rate", "seed"]
KEY = ["dataset", "model", "attack", "poison_rate", "role", "defense", "told"]
CONTROLS = ("no_defense", "random_removal", "perfect_removal")
COST = ("holdout_size", "forwards", "backwards")
DIGITS = 6  # in CSV files

_DECIDED = ("TPR", "FPR", "precision", "F1")
_RANKED = ("AUROC", "AUPRC", "AUROC_target", "AUPRC_target")
_BUDGETS = ("TPR_at_1%", "FPR_at_1%", "TPR_at_5%", "FPR_at_5%")
_ANSWERS = ("CA", "ASR", "RA")
_MODEL = ("CA", "CA_target", "CA_worst", "ASR", "ASR_cc", "RA", "leakage")
_DEFENDED = (*_MODEL, "DER", "RIR", "CA_drop", "ASR_drop", "success_10", "success_20")
_INVERTED = ("found", "top1", "any_flagged", "false_alarms", "anomaly_max", "REASR")
_SUCCESSFUL = ("TPR", "precision", "F1", "AUROC", "TPR_at_1%", "TPR_at_5%")


@dataclass(frozen=True)
class Layout:
    """Which cards a table is made of, and their columns."""

    roles: tuple[str, ...]
    metrics: tuple[str, ...]  # mean, and interval unless a run's answer is yes or no
    facts: tuple[str, ...] = ()  # mean only
    keys: tuple[str, ...] = ()  # columns beside `KEY` that tell its rows apart


LAYOUTS = {
    "attacks": Layout(
        ("attack",),
        (*_MODEL, "ASR_natural", "CA_reference"),
        ("payload", "cover", "own_class_payload", "realised_poison_rate", "cover_rate"),
    ),
    "separability": Layout(("separability",), tuple(SEPARABILITY), keys=("level", "transform")),
    "detection": Layout(
        ("detector",),
        (*_DECIDED, "F1_balanced", "cover_flagged", *_RANKED, "TPR_at_0.1%", "FPR_at_0.1%", *_BUDGETS),
        ("prevalence", "removed"),
    ),
    "inversion": Layout(("inverter",), (*_INVERTED, "mask_IoU", "l1_ratio", "feature_distance", "shift_cosine"), COST),
    "model_detection": Layout(("inverter",), COLUMNS),
    "repair": Layout(("none", "retraining", "repairer", "trainer"), _DEFENDED, COST),
    "test_time": Layout(
        ("none", "filter", "purifier"),
        (*_DECIDED, "AUROC", *_BUDGETS, *(f"{name}_successful" for name in _SUCCESSFUL), *_DEFENDED),
        ("screened_clean", "screened_triggered", *COST),
    ),
}


# Cards


def collect(paths: Iterable[str | Path]) -> DataFrame:
    """All cards of these files, one row each; a failed run is a row with its reason."""
    return frame(card for path in paths for card in artifacts.load_cards(path))


def frame(cards: Iterable[Mapping[str, Any]]) -> DataFrame:
    """Cards as a table: lists become words joined by `+`; `victim_flags`, `excluded` and `state` are filled in."""
    rows = [{k: "+".join(map(str, v)) if isinstance(v, list) else v for k, v in card.items()} for card in cards]
    wanted = [*CELL, "role", "defense", "told", "status", "reason", "flags", "excluded", "controls", "target_share"]
    wanted += ["level", "transform", "silhouette", "looks_at"]
    table = DataFrame(rows)
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *wanted])))
    words = ["told", "status", "reason", "flags", "excluded", "controls"]
    table[words] = table[words].astype(object).fillna("")
    attacks = table[table["role"] == "attack"]
    flags_of = dict(zip(_tuples(attacks, CELL), attacks["flags"], strict=True))
    table["victim_flags"] = [flags_of.get(cell, "") for cell in _tuples(table, CELL)]
    reasons = table["excluded"] + "+" + table["flags"] + "+" + table["victim_flags"]
    table["excluded"] = ["+".join(name for name in _distinct(text) if name in EXCLUDING) for text in reasons]
    ran = np.where(table["status"].isin(["", "ok"]), "judged", "failed")
    table["state"] = np.where(table["excluded"] == "", ran, "excluded")
    return table


def _tuples(table: DataFrame, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    return table[columns].itertuples(index=False, name=None)


def _distinct(text: str) -> list[str]:
    """The words of a text joined by `+`, in the order of the flags, each once."""
    words = set(text.split("+"))
    return [name for name in FLAGS if name in words] + sorted(words - FLAGS.keys() - {""})


# Tables


def tabulate(cards: DataFrame) -> dict[str, DataFrame]:
    """The tables by name; fractions in [0, 1], blanks are NaN."""
    levels = _levels(cards)
    tables = {}
    for name, layout in LAYOUTS.items():
        own, everyone = (levels, True) if name == "attacks" else ((), name == "separability")
        runs, keys = _runs(cards, name), [*KEY, *layout.keys]
        if name == "model_detection":
            tables[name] = model_detection(runs, keys)
            continue
        tables[name] = _aggregate(runs, layout.metrics + own, layout.facts, everyone, keys)
    tables["detection"] = _with_retrained(tables["detection"], cards)
    return {name: _in_order(table, cards).round(DIGITS) for name, table in tables.items()}


def _runs(cards: DataFrame, name: str) -> DataFrame:
    """The cards of a table, with victims as the defense `no_defense` where their accuracy is compared."""
    runs = cards[cards["role"].isin(LAYOUTS[name].roles)]
    if name == "repair":  # the controls of a detector show what retraining alone can do
        runs = runs[(runs["role"] != "retraining") | runs["defense"].isin(CONTROLS)]
    if name in ("repair", "test_time") and len(runs):
        runs = pd.concat([_undefended(cards), runs], ignore_index=True)
    return _with_separability(runs, cards) if name == "attacks" else runs


def _undefended(cards: DataFrame) -> DataFrame:
    """Victims as rows of a defense that does nothing."""
    victims = cards[cards["role"] == "attack"].assign(role="none", defense="no_defense", seconds=np.nan)
    answers = (dict(zip(_ANSWERS, values, strict=True)) for values in _tuples(victims, list(_ANSWERS)))
    effect = DataFrame([metrics.repair(answer, answer) for answer in answers], index=victims.index)
    return victims.drop(columns=list(effect), errors="ignore").join(effect)


def _with_separability(runs: DataFrame, cards: DataFrame) -> DataFrame:
    """Victims with the silhouette, and the flags, of their latents at each level."""
    raw = cards[(cards["role"] == "separability") & (cards["transform"] == "raw")]
    wide = raw.pivot_table(index=CELL, columns="level", values="silhouette", sort=False, dropna=False)
    wide = wide.add_prefix("silhouette_").reindex(columns=list(_levels(cards))).astype(float)
    flags = raw.groupby(CELL, sort=False)["flags"].agg("+".join).rename("flags_latents")
    joined = runs.merge(wide.join(flags).reset_index(), on=CELL, how="left")
    return joined.assign(flags=joined["flags"] + "+" + joined["flags_latents"].fillna(""))


def _levels(cards: DataFrame) -> tuple[str, ...]:
    return tuple(f"silhouette_{level}" for level in dict.fromkeys(cards["level"].dropna()))


def _aggregate(
    runs: DataFrame,
    measured: Sequence[str],
    facts: Sequence[str] = (),
    everyone: bool = False,
    names: list[str] = KEY,
) -> DataFrame:
    """One row for each value of `names`; `seeds` = `judged` + `excluded` + `failed` runs.

    Args:
        measured: columns that get a mean and an interval.
        facts: columns that get a mean.
        everyone: excluded runs count, too.
    """
    keys = [runs[name] for name in names]
    is_state = {state: runs["state"] == state for state in ("judged", "excluded", "failed")}
    any_judged = is_state["judged"].groupby(keys).transform("any").astype(bool)
    ran = runs["status"].isin(["", "ok"])
    shown = ran if everyone else is_state["judged"] | (~any_judged & ran)
    numbers = runs.reindex(columns=[*facts, *measured, "seconds"]).apply(pd.to_numeric)
    groups = runs.groupby(names, sort=False)
    rows = groups.agg(controls=("controls", "first"), target_share=("target_share", "mean"), seeds=("seed", "size"))
    for state, here in is_state.items():
        rows[state] = here.groupby(keys, sort=False).sum().astype(int)
    rows = rows.join(_means(pd.concat([runs[names], numbers], axis=1)[shown], measured, facts, names))
    rows["flags"] = (runs["flags"] + "+" + runs["victim_flags"]).groupby(keys, sort=False).agg(_counted)
    rows["reason"] = runs["reason"].groupby(keys, sort=False).agg(_reasons)
    return rows.reset_index()


def _means(values: DataFrame, measured: Sequence[str], facts: Sequence[str], names: list[str]) -> DataFrame:
    """Mean and half width as in `statistics.mean_interval`, for all columns at once (a call each takes 20 times as
    long)."""
    from scipy.stats import t

    groups = values.groupby(names, sort=False)
    n = groups.size()
    complete = groups.count().eq(n, axis=0)  # one undefined value leaves the mean undefined
    means = groups.mean().where(complete)
    per_deviation = pd.Series(t.ppf(0.975, (n - 1).clip(lower=1)) / n**0.5, index=n.index).where(n > 1)
    half_widths = groups.std(ddof=1).mul(per_deviation, axis=0).where(complete)
    columns = {name: means[name] for name in facts}
    for name in measured:
        columns[name] = means[name]
        if name not in rendering.YES_NO:
            columns[f"{name}_interval"] = half_widths[name]
    return DataFrame({**columns, "seconds": means["seconds"]}, index=n.index)


def _counted(marks: Series) -> str:
    """Flags with the runs that raise them: `attack_failed(1/3)`."""
    counts = Counter(flag for text in marks for flag in _distinct(text))
    return " ".join(f"{name}({counts[name]}/{len(marks)})" for name in _distinct("+".join(counts)))


def _reasons(reasons: Series) -> str:
    """Reasons of failure with the runs that give them."""
    return "; ".join(f"{reason} ({n}/{len(reasons)})" for reason, n in Counter(reasons[reasons != ""]).items())


def _with_retrained(detection: DataFrame, cards: DataFrame) -> DataFrame:
    """Detection with the models trained on what was kept; `retrained` counts those in the means."""
    kept = ("CA", "CA_target", "ASR", "RA", "DER", "CA_drop", "ASR_drop", "success_10", "success_20")
    found = _aggregate(cards[cards["role"] == "retraining"].assign(role="detector"), kept)
    found["retrained"] = found["judged"].where(found["judged"] > 0, found["excluded"])
    values = [name for name in map(str, found) if name.removesuffix("_interval") in kept]
    found = found[[*KEY, "retrained", *values, "reason"]].rename(columns={"reason": "reason_retrained"})
    found = found.rename(columns={name: _of_retrained(name) for name in values})
    table = detection.merge(found, on=KEY, how="left")
    table["retrained"] = table["retrained"].fillna(0).astype(int)
    own, later = table["reason"], table.pop("reason_retrained").fillna("")
    # a detector that failed has no rows to retrain on, and its retraining card repeats the reason
    table["reason"] = np.where((later == "") | (later == own), own, own + "; retraining: " + later)
    table["reason"] = table["reason"].str.removeprefix("; ")
    order = [name for name in table if name not in ("flags", "reason")]
    return table[[*order, "flags", "reason"]]


def _of_retrained(column: str) -> str:
    name = column.removesuffix("_interval")
    return column.replace(name, f"{name}_retrained", 1)


def _in_order(table: DataFrame, cards: DataFrame) -> DataFrame:
    """Clean models first, then attacks and defenses as the cards name them; controls before other defenses."""
    place = {name: {value: i for i, value in enumerate(dict.fromkeys(cards[name]))} for name in KEY}
    place["attack"]["none"] = -1
    place["defense"] |= {name: i - len(CONTROLS) for i, name in enumerate(CONTROLS)}
    place["role"] |= {"none": -2, "retraining": -1}  # the controls of the repair table
    place["poison_rate"] = {rate: rate for rate in place["poison_rate"]}
    order = np.lexsort([table[name].map(place[name]) for name in reversed(KEY)])
    return table.iloc[order].reset_index(drop=True)


# Captions and files


def captions(name: str, cards: DataFrame, skipped: Skipped = ()) -> list[str]:
    """What stands below a table: how to read it, which runs count, and which cells were left out."""
    counted = "Means are over all runs here; only the defenses' tables leave excluded victims out."
    if name != "attacks":
        runs = _runs(cards, name)
        states = runs["state"].value_counts()
        excluded, failed, judged = (int(states.get(state, 0)) for state in ("excluded", "failed", "judged"))
        own = sum(_for_itself(*run) for run in _tuples(runs, ["excluded", "victim_flags"]))
        counted = (
            f"Runs in this table: {len(runs)}, of which {excluded - own} on excluded victims, {own} excluded for their "
            f"own scores, {failed} failed, {judged} judged."
        )
    return [rendering.HOW_TO_READ, _exclusion_flow(cards), counted, *_left_out(skipped)]


def _exclusion_flow(cards: DataFrame) -> str:
    victims = cards[cards["role"] == "attack"]
    out = victims.loc[victims["excluded"] != "", "excluded"]
    flags = Counter(flag for text in out for flag in _distinct(text))
    named = ", ".join(f"{flag}: {flags[flag]}" for flag in _distinct("+".join(flags)))
    return (
        f"Exclusion flow: {len(victims)} victims ({(victims['attack'] == 'none').sum()} of them clean), {len(out)} "
        f"fail the validity gate{f' ({named})' if named else ''}, {len(victims) - len(out)} judged."
    )


def _left_out(skipped: Skipped) -> list[str]:
    return [f"Skipped: {', '.join(f'{key} {value}' for key, value in cell.items())}: {why}." for cell, why in skipped]


def _for_itself(excluded: str, victim_flags: str) -> bool:
    """Whether a run is excluded while its victim is not."""
    return bool(excluded) and not EXCLUDING.intersection(victim_flags.split("+"))


def write(cards: DataFrame, folder: str | Path, skipped: Skipped = ()) -> None:
    """Write each table as .csv, .md and .tex, and every card as a row of `cards.csv`."""
    folder = Path(folder)
    artifacts.save_text(folder / "cards.csv", cards.to_csv(index=False))
    for name, table in tabulate(cards).items():
        lines, sections = captions(name, cards, skipped), rendering.sections(name, table)
        artifacts.save_text(folder / f"{name}.csv", table.to_csv(index=False))
        artifacts.save_text(folder / f"{name}.md", rendering.markdown(name, sections, lines))
        artifacts.save_text(folder / f"{name}.tex", rendering.latex(name, sections, lines))


def main_table(cards: DataFrame, skipped: Skipped = ()) -> str:
    """All results on one page of text, at most 118 columns wide, as in Qi et al. 2023, table 1."""
    return summary.page(tabulate(cards), [_exclusion_flow(cards), *_left_out(skipped)])
