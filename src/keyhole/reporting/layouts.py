"""The tables: which cards each is made of, its sections, and how its rows are built. Columns: `columns`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from pandas import DataFrame

from keyhole.planning.roles import RETRAINING, ROLES, SEPARABILITY, UNDEFENDED, Role
from keyhole.reporting._column import Column
from keyhole.reporting.aggregation import aggregate
from keyhole.reporting.columns import aggregated, find
from keyhole.reporting.runs import CELL, CONTROLS, KEY, is_role, tuples
from keyhole.scoring import metrics
from keyhole.scoring.model_detection import model_detection

__all__ = ["LAYOUTS", "Group", "Layout"]

_ANSWERS = ("CA", "ASR", "RA")


@dataclass(frozen=True)
class Group:
    """Rows of a table that are rendered together."""

    section: str  # in the records of columns
    roles: tuple[Role, ...]
    title: str = ""


Build = Callable[["Layout", DataFrame, DataFrame], DataFrame]


def _plain(layout: "Layout", runs: DataFrame, cards: DataFrame) -> DataFrame:
    return aggregate(runs, layout.key, *layout.columns, layout.everyone)


@dataclass(frozen=True)
class Layout:
    """What a table is made of."""

    name: str
    title: str
    groups: tuple[Group, ...]
    build: Build = _plain  # from its runs, and all cards
    keys: tuple[str, ...] = ()  # columns beside `KEY` that tell its rows apart
    everyone: bool = False  # excluded runs count in the means
    undefended: bool = False  # victims are rows, too, as the defense `no_defense`
    says_what_counts: str = ""  # below the table, in place of the number of runs

    @property
    def key(self) -> list[str]:
        return [*KEY, *self.keys]

    @property
    def columns(self) -> tuple[list[Column], list[Column]]:
        """Those that get a mean, and those that get an interval as well."""
        return aggregated(self.name, "mean"), aggregated(self.name, "interval")

    def runs(self, cards: DataFrame) -> DataFrame:
        """The cards that the table is made of."""
        runs = cards[cards["role"].isin([role.noun for group in self.groups for role in group.roles])]
        # of models trained again, the controls show what retraining by itself can do; the rest belong to detectors
        runs = runs[(runs["role"] != RETRAINING.noun) | runs["defense"].isin(CONTROLS)]
        return pd.concat([_undefended(cards), runs], ignore_index=True) if self.undefended and len(runs) else runs


def _undefended(cards: DataFrame) -> DataFrame:
    """Victims as rows of a defense that does nothing."""
    victims = cards[is_role(cards, "attacks")].assign(role=UNDEFENDED.noun, defense=CONTROLS[0], seconds=np.nan)
    answers = (dict(zip(_ANSWERS, values, strict=True)) for values in tuples(victims, list(_ANSWERS)))
    effect = DataFrame([metrics.repair(answer, answer) for answer in answers], index=victims.index)
    return victims.drop(columns=list(effect), errors="ignore").join(effect)


def _attacks(layout: Layout, runs: DataFrame, cards: DataFrame) -> DataFrame:
    """Victims with the silhouette, and the flags, of their latents at each level."""
    raw = cards[(cards["role"] == SEPARABILITY.noun) & (cards["transform"] == "raw")]
    silhouettes = [f"silhouette_{level}" for level in dict.fromkeys(cards["level"].dropna())]
    wide = raw.pivot_table(index=CELL, columns="level", values="silhouette", sort=False, dropna=False)
    wide = wide.add_prefix("silhouette_").reindex(columns=silhouettes).astype(float)
    flags = raw.groupby(CELL, sort=False)["flags"].agg("+".join).rename("flags_latents")
    joined = runs.merge(wide.join(flags).reset_index(), on=CELL, how="left")
    joined = joined.assign(flags=joined["flags"] + "+" + joined["flags_latents"].fillna(""))
    means, measured = layout.columns
    measured = [c for c in measured if c.name != "silhouette_<level>"] + [find(name) for name in silhouettes]
    return aggregate(joined, layout.key, means, measured, layout.everyone)


def _detection(layout: Layout, runs: DataFrame, cards: DataFrame) -> DataFrame:
    """Detectors, with the models trained on what they keep; `retrained` counts those in the means."""
    detection, end = _plain(layout, runs, cards), "_retrained"
    kept = [replace(c, name=c.name.removesuffix(end)) for c in aggregated(layout.name, "retrained")]
    again = cards[cards["role"] == RETRAINING.noun].assign(role=ROLES["detectors"].noun)
    found = aggregate(again, layout.key, [], kept)
    found["retrained"] = found["judged"].where(found["judged"] > 0, found["excluded"])
    ends = {f"{c.name}{mark}": f"{c.name}{end}{mark}" for c in kept for mark in ("", "_interval")}
    values = [name for name in map(str, found) if name in ends]
    found = found[[*layout.key, "retrained", *values, "reason"]].rename(columns={**ends, "reason": "reason_retrained"})
    table = detection.merge(found, on=layout.key, how="left")
    table["retrained"] = table["retrained"].fillna(0).astype(int)
    own, later = table["reason"], table.pop("reason_retrained").fillna("")
    # a detector that failed has no rows to retrain on, and its retraining card repeats the reason
    table["reason"] = np.where((later == "") | (later == own), own, own + "; retraining: " + later)
    table["reason"] = table["reason"].str.removeprefix("; ")
    order = [name for name in table if name not in ("flags", "reason")]
    return table[[*order, "flags", "reason"]]


def _model_detection(layout: Layout, runs: DataFrame, cards: DataFrame) -> DataFrame:
    return model_detection(runs, layout.key)


def _of_table(name: str) -> tuple[Role, ...]:
    return tuple(role for role in ROLES.values() if role.table == name)


def _group(name: str, *more: Role) -> tuple[Group, ...]:
    return (Group(name, (*more, *_of_table(name))),)


_ALL = (
    Layout(
        "attacks",
        "Attacks",
        _group("attacks"),
        _attacks,
        everyone=True,  # without those that failed, an attack would look stronger than it is
        says_what_counts="Means are over all runs here; only the defenses' tables leave excluded victims out.",
    ),
    Layout(
        "separability",
        "How far the payload stands apart in the target class",
        _group("separability", SEPARABILITY),
        keys=("level", "transform"),
        everyone=True,
    ),
    Layout("detection", "Detection of payload rows in the training set", _group("detection"), _detection),
    Layout("inversion", "Trigger inversion", _group("inversion")),
    Layout(
        "model_detection",
        "Inverters as tests of a model",
        (Group("model_detection", _of_table("inversion")),),
        _model_detection,
    ),
    Layout("repair", "Repair", _group("repair", UNDEFENDED, RETRAINING), undefended=True),
    Layout(
        "test_time",
        "Test-time defenses",
        (
            Group("filters", (ROLES["filters"],), "filters"),
            Group("purifiers", (UNDEFENDED, ROLES["purifiers"]), "purifiers"),
        ),
        undefended=True,
    ),
)
LAYOUTS = {layout.name: layout for layout in _ALL}
