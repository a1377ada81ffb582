"""What a job does first: use its threads and its log, find its device, build its method."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any

import torch

from keyhole.parameters import ORACLE, told_by_oracle
from keyhole.planning import registry

__all__ = ["begin", "instantiate", "on_device"]


def begin(threads: int, log_file: str, rule: str) -> None:
    """Use as many threads as the rule asked for, and write progress to its log."""
    torch.set_num_threads(threads)
    logging.basicConfig(filename=log_file, filemode="w", level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("keyhole").info("rule %s", rule)


def on_device(value: Any) -> Any:
    """Move a tensor or a network to the GPU where there is one."""
    return value.to("cuda") if torch.cuda.is_available() else value


def instantiate(role: str, entry: str, truth: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, str]]:
    """Build the method of a configuration entry (its canonical JSON); return it with the columns that describe it.

    The word `oracle` is replaced by the truth (parameter name -> value) here and nowhere else. The columns: `told`;
    `method` and `parameters` (JSON, with all defaults and `oracle` as configured), from which it can be built again.
    """
    described = json.loads(entry)
    configured = described["parameters"]
    given = {name: (truth or {})[name] if value == ORACLE else value for name, value in configured.items()}
    method = registry.load(role, described["method"], given)
    told = set(getattr(method, "told", ())) | told_by_oracle(configured)
    oracle = {name: value for name, value in configured.items() if value == ORACLE}
    parameters = json.dumps({**_parameters(method), **oracle})
    return method, {"told": "+".join(sorted(told)), "method": described["method"], "parameters": parameters}


def _parameters(method: Any) -> dict[str, Any]:
    """Return all parameters of a method; for an attack that wraps another, those of the other under `base`."""
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
    if "base" in values:
        base = method.inner
        values["base"] = {"method": type(base).__module__.rpartition(".")[2], **_parameters(base)}
    return values
