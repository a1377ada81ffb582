"""Cards as one table, and the state of each run.

A run is *excluded* if its victim, or the run itself, has a flag of `flags.EXCLUDING`. Otherwise it is *failed* if its
method raised an error, and *judged* if not.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame

from keyhole import artifacts
from keyhole.planning.roles import ROLES
from keyhole.reporting.columns import COLUMNS
from keyhole.scoring.flags import EXCLUDING, FLAGS

__all__ = ["CELL", "CONTROLS", "KEY", "SETTING", "VICTIM", "collect", "frame", "is_role", "named", "read"]
__all__ += ["split_flags", "tuples"]

SETTING = ["dataset", "model", "recipe"]
VICTIM = [*SETTING, "attack", "poison_rate"]
CELL = [*VICTIM, "seed"]
KEY = [*VICTIM, "role", "defense", "told"]
CONTROLS = ("no_defense", "random_removal", "perfect_removal")
FILLED = ["recipe", "told", "status", "reason", "flags", "excluded", "controls"]  # words; empty if a card has none


def collect(paths: Iterable[str | Path]) -> DataFrame:
    """Read all cards of these files as a table, one row each; the row of a failed run has the reason."""
    return frame(card for path in paths for card in artifacts.load_cards(path))


def frame(cards: Iterable[Mapping[str, Any]]) -> DataFrame:
    """Make a table of cards: lists become words joined by `+`; `victim_flags`, `excluded` and `state` are added."""
    rows = [{k: "+".join(map(str, v)) if isinstance(v, list) else v for k, v in card.items()} for card in cards]
    wanted = [*CELL, "role", "defense", "told", "status", "reason", "flags", "excluded", "controls", "target_share"]
    wanted += ["level", "transform", "silhouette", "looks_at"]
    table = DataFrame(rows)
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *wanted])))
    table[FILLED] = table[FILLED].astype(object).fillna("")
    attacks = table[is_role(table, "attacks")]
    flags_of = dict(zip(tuples(attacks, CELL), attacks["flags"], strict=True))
    table["victim_flags"] = [flags_of.get(cell, "") for cell in tuples(table, CELL)]
    reasons = table["excluded"] + "+" + table["flags"] + "+" + table["victim_flags"]
    table["excluded"] = ["+".join(name for name in split_flags(text) if name in EXCLUDING) for text in reasons]
    ran = np.where(table["status"].isin(["", "ok"]), "judged", "failed")
    table["state"] = np.where(table["excluded"] == "", ran, "excluded")
    return table


def read(path: str | Path) -> DataFrame:
    """Read a CSV file of a table or of cards, as it was before it was written."""
    names = pd.read_csv(path, nrows=0).columns
    words = {column.name for column in COLUMNS if column.unit == "words"}
    words |= {"excluded"} if "state" in names else set()  # in cards the names of flags, in tables a number of runs
    kinds = {name: str for name in names if name in words}
    table = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=[""], low_memory=False)
    filled = [name for name in (*FILLED, "victim_flags") if name in kinds]
    table[filled] = table[filled].astype(object).fillna("")
    return table


def is_role(table: DataFrame, *keys: str) -> Any:
    """Return which rows are cards of these roles."""
    return table["role"].isin([ROLES[key].noun for key in keys])


def tuples(table: DataFrame, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the values of some columns, row by row."""
    return table[columns].itertuples(index=False, name=None)


def named(*words: object) -> str:
    """Join what is not empty, as titles name a data set, a model and a recipe."""
    return ", ".join(filter(None, map(str, words)))


def split_flags(text: str) -> list[str]:
    """Split words joined by `+`; return each once, flags first in their order."""
    words = set(text.split("+"))
    return [name for name in FLAGS if name in words] + sorted(words - FLAGS.keys() - {""})
