"""Types of method parameters that say their range.

A parameter is a dataclass field; its annotation is read as text by `registry`, before any job and without importing
the method, so these names carry the check. They are plain types to Python and to a type checker.
"""

from typing import Any

Fraction = float  # 0 <= x <= 1
Share = float  # 0 <= x < 1
Positive = float  # x > 0
NonNegative = float  # x >= 0
Count = int  # x >= 1
Natural = int  # x >= 0
RateGuess = float  # 0 <= x < 1, or the word `oracle`: the script puts the realised poison rate
Wrapped = str | dict  # an attack: its name, or a mapping of its parameters with `method`
PayloadGuess = tuple  # row numbers, or the word `oracle`: the script puts the true payload rows

CRAFTS = ("surrogate", "data", "nothing")  # what an attack may learn from before it poisons, the most first

ORACLE = "oracle"
# parameter whose value may be `oracle` -> what the row then says it was told
TOLD_BY_ORACLE = {"assumed_rate": "poison_rate", "assumed_payload": "payload"}


def told_by_oracle(parameters: dict[str, Any]) -> set[str]:
    """What a method is told because its entry in the configuration says `oracle`."""
    return {TOLD_BY_ORACLE[name] for name, value in parameters.items() if value == ORACLE and name in TOLD_BY_ORACLE}
