"""The tables: the cards that each is made of, its sections, and how its rows are built. For columns see `columns`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from pandas import DataFrame

from keyhole.planning.roles import DEFENSES, RETRAINING, ROLES, SEPARABILITY, UNDEFENDED, Role
from keyhole.reporting._column import Column
from keyhole.reporting.aggregation import aggregate
from keyhole.reporting.columns import columns_of_table, find
from keyhole.reporting.runs import CELL, CONTROLS, KEY, is_role, tuples
from keyhole.scoring import metrics
from keyhole.scoring.model_detection import model_detection

__all__ = ["LAYOUTS", "Group", "Layout"]

_ANSWERS = ("CA", "ASR", "RA")


@dataclass(frozen=True)
class Group:
    """Rows of a table that are rendered together."""

    section: str  # its name in the records of columns
    roles: tuple[Role, ...]
    title: str = ""


Build = Callable[["Layout", DataFrame, DataFrame], DataFrame]


def _plain(layout: "Layout", runs: DataFrame, _cards: DataFrame) -> DataFrame:
    return aggregate(runs, layout.key, *layout.columns, layout.everyone)


@dataclass(frozen=True)
class Layout:
    """What a table is made of."""

    name: str
    title: str
    groups: tuple[Group, ...]
    build: Build = _plain  # makes its rows from its runs and all cards
    keys: tuple[str, ...] = ()  # columns that tell its rows apart, in addition to `KEY`
    everyone: bool = False  # excluded runs count in the means
    undefended: bool = False  # victims have rows, too, with the defense `no_defense`
    says_what_counts: str = ""  # a caption in place of the number of runs

    @property
    def key(self) -> list[str]:
        """All columns that tell its rows apart."""
        return [*KEY, *self.keys]

    @property
    def columns(self) -> tuple[list[Column], list[Column]]:
        """The columns that get a mean, and those that get a mean and an interval."""
        return columns_of_table(self.name, "mean"), columns_of_table(self.name, "interval")

    def runs(self, cards: DataFrame) -> DataFrame:
        """Choose the cards that the table is made of."""
        runs = cards[cards["role"].isin([role.noun for group in self.groups for role in group.roles])]
        # models trained again belong to their detectors, except for controls: they show what retraining does by itself
        runs = runs[(runs["role"] != RETRAINING.noun) | runs["defense"].isin(CONTROLS)]
        return pd.concat([_undefended(cards), runs], ignore_index=True) if self.undefended and len(runs) else runs


def _undefended(cards: DataFrame) -> DataFrame:
    """Return victims as rows of a defense that does nothing."""
    victims = cards[is_role(cards, "attacks")].assign(role=UNDEFENDED.noun, defense=CONTROLS[0], seconds=np.nan)
    victims = victims.reindex(columns=list(dict.fromkeys([*victims, *_ANSWERS])))
    answers = (dict(zip(_ANSWERS, values, strict=True)) for values in tuples(victims, list(_ANSWERS)))
    effect = DataFrame([metrics.repair(answer, answer) for answer in answers], index=victims.index)
    return victims.drop(columns=list(effect), errors="ignore").join(effect)


def _attacks(layout: Layout, runs: DataFrame, cards: DataFrame) -> DataFrame:
    """Make the rows of victims, with the silhouettes of their latents at each level and the flags of these."""
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
    """Make the rows of detectors, with the models trained on the rows that they keep.

    `retrained` is the number of these models that count in the means.
    """
    detection, end = _plain(layout, runs, cards), "_retrained"
    repeated = [replace(c, name=c.name.removesuffix(end)) for c in columns_of_table(layout.name, "retrained")]
    again = cards[cards["role"] == RETRAINING.noun].assign(role=ROLES["detectors"].noun)
    later = aggregate(again, layout.key, [], repeated)
    later["retrained"] = later["judged"].where(later["judged"] > 0, later["excluded"])
    ends = {f"{c.name}{mark}": f"{c.name}{end}{mark}" for c in repeated for mark in ("", "_interval")}
    values = [name for name in map(str, later) if name in ends]
    later = later[[*layout.key, "retrained", *values, "reason"]].rename(columns={**ends, "reason": "reason_retrained"})
    table = detection.merge(later, on=layout.key, how="left")
    table["retrained"] = table["retrained"].fillna(0).astype(int)
    of_detector, of_retraining = table["reason"], table.pop("reason_retrained").fillna("")
    # a detector that failed leaves no rows to train on, and the card of its retraining repeats the reason
    table["reason"] = np.where(
        (of_retraining == "") | (of_retraining == of_detector),
        of_detector,
        of_detector + "; retraining: " + of_retraining,
    )
    table["reason"] = table["reason"].str.removeprefix("; ")
    order = [name for name in table if name not in ("flags", "reason")]
    return table[[*order, "flags", "reason"]]


def _model_detection(layout: Layout, runs: DataFrame, _cards: DataFrame) -> DataFrame:
    return model_detection(runs, layout.key)


def _roles_of(name: str) -> tuple[Role, ...]:
    return tuple(role for role in ROLES.values() if role.table == name)


def _group(name: str, *more: Role) -> tuple[Group, ...]:
    return (Group(name, (*more, *_roles_of(name))),)


_ALL = (
    Layout(
        "attacks",
        "Attacks",
        _group("attacks"),
        _attacks,
        everyone=True,  # without the runs that fail the gate, an attack would look stronger than it is
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
        (Group("model_detection", _roles_of("inversion")),),
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
    Layout(
        "cost",
        "Time and memory",
        (Group("cost", (ROLES["attacks"], *(ROLES[role] for role in DEFENSES), RETRAINING)),),
        everyone=True,
        says_what_counts="Means are over all runs that did not fail, in the order of the method's kind.",
    ),
)
LAYOUTS = {layout.name: layout for layout in _ALL}
