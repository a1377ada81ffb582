"""What planning must know of a method, told by the method itself.

Making a method imports torch, which takes seconds, while the configuration is read at every start of every job. So what
the object says is remembered, under the source of the whole package, the method and its parameters. Data sets import no
torch; they are asked each time, since their files may change.
"""

import hashlib
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from keyhole.parameters import LEVEL, OF_HOLDOUT, Checked, ParameterError, Setting, as_tuples, named
from keyhole.planning import registry
from keyhole.planning.memory import Memory

__all__ = ["Facts", "Witness"]

MODEL = Setting((3, 32, 32), 10)  # where a data set's images are not known yet; level names do not depend on it


@dataclass(frozen=True)
class Facts:
    """A method with its parameters, as far as planning looks at it; a role's own facts only where it has them."""

    told: tuple[str, ...] = ()
    levels: Mapping[str, list[str]] = field(default_factory=dict)  # parameter -> the levels that it names
    files: tuple[str, ...] = ()  # of the user's own, that an attack reads
    of_holdout: Mapping[str, list[int]] = field(default_factory=dict)  # parameter -> hold-out images asked for
    # attacks
    methods: tuple[str, ...] = ()  # its own, then those of the attacks that it wraps
    controls: str = ""
    crafted_from: str = "nothing"
    cover_ratio: float = 0.0
    paper_rate: float = 0.0
    clean_label: bool = False  # this and the next four: of the innermost attack
    label_map: str = "all_to_one"
    target_class: int = 0
    source_classes: tuple[int, ...] = ()
    cover_classes: tuple[int, ...] = ()
    # defenses
    long: bool = False
    reads_training_set: bool = False
    inverter: str | None = None
    # models
    level_names: tuple[str, ...] = ()


class Witness:
    """Asks methods for their facts, and remembers the answers.

    Args:
        memory: a file that keeps the answers between processes.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = Memory(memory, _source_digest() if memory else "")

    def ask(
        self, role: str, method: str, parameters: Mapping[str, Any], where: str, setting: Setting | None = None
    ) -> Facts:
        """Return the facts of a method with these parameters, after checking them.

        Args:
            where: the place of the parameters in the configuration, for messages.
            setting: the images that it will meet, where they are known.

        Raises:
            ParameterError: the parameters are wrong, do not go together, or do not fit the images.
        """
        key = [role, method, parameters, vars(setting) if setting else None]
        answer = self._memory.recall(key, lambda: _examine(role, method, parameters, where, setting))
        plain: dict[str, Any] = {name: as_tuples(value) for name, value in answer.items()}  # JSON has lists only
        return Facts(**plain)

    def save(self) -> None:
        """Keep what was learned for later processes."""
        self._memory.save()


@lru_cache(maxsize=1)
def _source_digest() -> str:
    digest = hashlib.sha256(repr(sys.version_info).encode())
    for file in sorted(registry.PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(registry.PACKAGE)}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _examine(
    role: str, name: str, parameters: Mapping[str, Any], where: str, setting: Setting | None
) -> dict[str, Any]:
    if role == "models":
        return _examine_model(name, setting or MODEL)
    method = registry.load(role, name, parameters, where)
    if setting:
        _check_setting(method, setting, where)
    facts: dict[str, Any] = {
        "told": sorted(getattr(method, "told", ())),
        "levels": {key: list(filter(None, values)) for key, values in named(method, LEVEL).items()},
        "of_holdout": {key: list(values) for key, values in named(method, OF_HOLDOUT).items()},
    }
    if role == "attacks":
        return facts | _examine_attack(method)
    own = ("long", "reads_training_set", "inverter")
    return facts | {key: getattr(method, key) for key in own if hasattr(method, key)}


def _check_setting(method: Checked, setting: Setting, where: str) -> None:
    try:
        method.check_setting(setting)
    except ParameterError as error:
        raise error.under(where) from None
    except ValueError as error:
        raise ParameterError(where, str(error)) from None


def _examine_attack(attack: Any) -> dict[str, Any]:
    chain = [attack]
    while base := getattr(chain[-1], "inner", None):
        chain.append(base)
    innermost = chain[-1]
    return {
        "methods": [registry.name_of(each) for each in chain],
        "files": list(attack.files()),
        "controls": attack.controls,
        "crafted_from": attack.crafted_from,
        "cover_ratio": attack.cover_ratio,
        "paper_rate": attack.paper_rate,
        "clean_label": innermost.controls == "clean-label",
        "label_map": innermost.label_map,
        "target_class": innermost.target_class,
        "source_classes": list(getattr(innermost, "source_classes", ())),
        "cover_classes": list(getattr(innermost, "cover_classes", ())),
    }


def _examine_model(name: str, setting: Setting) -> dict[str, Any]:
    models = importlib.import_module("keyhole.models")  # by name, as planning must not depend on torch
    return {"level_names": list(models.level_names(name, setting.classes, setting.shape))}
