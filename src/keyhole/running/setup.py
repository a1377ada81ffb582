"""The first steps of a job: set its threads and its log, build its method."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from keyhole.parameters import ORACLE, told_by_oracle
from keyhole.planning import registry
from keyhole.running.logs import open_log

__all__ = ["begin", "instantiate"]


def begin(job: Any) -> None:
    """Use the number of threads that a job's rule asked for, and open its log.

    Args:
        job: the object `snakemake` of its script.
    """
    torch.set_num_threads(job.threads)
    open_log(job)


def instantiate(role: str, entry: str, truth: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, str]]:
    """Build the method of a configuration entry.

    Args:
        role: the section of the configuration, such as `detectors`.
        entry: the entry as canonical JSON.
        truth: parameter name -> the value that replaces the word `oracle`. It is replaced here and nowhere else.

    Returns:
        The method, and the columns that describe it: `told`, and `method` and `parameters` (JSON with all defaults, and
        `oracle` as configured), from which the method can be built again.
    """
    described = json.loads(entry)
    configured = described["parameters"]
    given = {name: (truth or {})[name] if value == ORACLE else value for name, value in configured.items()}
    method = registry.load(role, described["method"], given)
    told = set(getattr(method, "told", ())) | told_by_oracle(configured)
    oracle = {name: value for name, value in configured.items() if value == ORACLE}
    parameters = json.dumps({**method.parameters, **oracle})
    return method, {"told": "+".join(sorted(told)), "method": described["method"], "parameters": parameters}
