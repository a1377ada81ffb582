"""What every job of the workflow does around its one call: set up, rebuild inputs, time, survive a failing method."""

import importlib
import json
import logging
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from keyhole import artifacts, models, rng
from keyhole.attacks import Attack
from keyhole.learning import recipes
from keyhole.learning.recipes import Recipe
from keyhole.models import Classifier
from keyhole.parameters import ORACLE, told_by_oracle
from keyhole.planning import registry
from keyhole.running.evaluation import answers
from keyhole.running.origin import origin
from keyhole.running.passes import counted
from keyhole.types import Evidence, Images, Labels, Poisoned, Recovered

__all__ = [
    "Outcome",
    "attempt",
    "begin",
    "equipped_attack",
    "evidence",
    "instantiate",
    "limited",
    "load_net",
    "on_device",
    "save_net",
    "untrained",
]

log = logging.getLogger("keyhole")


def begin(snakemake: Any) -> None:
    """Use the threads the rule asked for, and write progress to the rule's log."""
    torch.set_num_threads(snakemake.threads)
    logging.basicConfig(filename=snakemake.log[0], filemode="w", level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("keyhole").info("rule %s, %s", snakemake.rule, dict(snakemake.wildcards))


def on_device(value: Any) -> Any:
    """A tensor or a network on the GPU where there is one."""
    return value.to("cuda") if torch.cuda.is_available() else value


def instantiate(role: str, entry: str, truth: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The method of a configuration entry (its canonical JSON), and what it is told.

    The word `oracle` is replaced by the truth (parameter name -> value) here and nowhere else, and the row says so.
    """
    described = json.loads(entry)
    parameters = described["parameters"]
    given = {name: (truth or {})[name] if value == ORACLE else value for name, value in parameters.items()}
    method = registry.load(role, described["method"], given)
    told = set(getattr(method, "told", ())) | told_by_oracle(parameters)
    return method, "+".join(sorted(told))


def equipped_attack(entry: str, trigger: Any = None) -> Attack:
    """The attack of a configuration entry, with the tensors of a file: what was crafted or learned; perhaps none."""
    attack, _ = instantiate("attacks", entry)
    return attack.equipped(artifacts.load_tensors(str(trigger))) if trigger else attack


def untrained(snakemake: Any, purpose: str) -> tuple[Classifier, Recipe, Generator]:
    """A job's network before training, its recipe, and the stream that both come from.

    Of one purpose, all jobs of a data set, model and seed get the same initial weights and the same batches: victims
    are comparable with each other, and with models trained again.
    """
    cell, known = snakemake.wildcards, artifacts.facts(snakemake.input["train"])
    recipe = recipes.resolve(**json.loads(snakemake.params["recipe"]), flips=known["flips"])
    stream = rng.stream(purpose, cell["dataset"], cell["model"], cell["seed"])
    clean = artifacts.load_tensors(snakemake.input["train"], "images")["images"]
    return on_device(models.build(cell["model"], known["classes"], clean, stream)), recipe, stream


def save_net(path: str | Path, net: Classifier, name: str, shape: tuple[int, ...], facts: Mapping[str, Any]) -> None:
    """Write a network with what is needed to build it again."""
    artifacts.save_model(path, net, {"architecture": name, "classes": net.head.out_features, "shape": shape, **facts})


def load_net(path: str | Path) -> Classifier:
    """Read a network that `save_net` wrote, in eval mode, on the job's device."""
    facts = artifacts.facts(path)
    module = importlib.import_module(f"keyhole.models.{facts['architecture']}")
    net = module.build(facts["classes"], tuple(facts["shape"])).to(memory_format=torch.channels_last)
    return on_device(artifacts.load_model(path, net))


def received(train: str | Path, poisoned: str | Path) -> tuple[Images, Labels]:
    """The training set as the victim received it."""
    clean = artifacts.load_tensors(train)
    return artifacts.load(poisoned, Poisoned).apply(clean["images"], clean["labels"])


def evidence(inputs: Any) -> Evidence:
    """What a defender may look at, from a job's `train`, `poisoned`, `holdout`, `model`, `latents`, `inversion`."""
    images, labels = received(inputs["train"], inputs["poisoned"])
    holdout = artifacts.load_tensors(inputs["holdout"])
    latents = artifacts.load_tensors(inputs["latents"]) if "latents" in inputs.keys() else {}  # noqa: SIM118
    return Evidence(
        net=load_net(inputs["model"]),
        images=on_device(images),
        labels=on_device(labels),
        latents={level: on_device(x) for level, x in latents.items()},
        holdout_images=on_device(holdout["images"]),
        holdout_labels=on_device(holdout["labels"]),
        recovered=_recovered(inputs["inversion"]) if "inversion" in inputs.keys() and inputs["inversion"] else None,  # noqa: SIM118
    )


def _recovered(path: str) -> Recovered | None:
    """What an inverter found; None where it failed or recovers no trigger."""
    found = artifacts.load_tensors(path)
    if "stamped" not in found:
        return None
    target = int(found["anomaly"].argmax())
    return Recovered(on_device(found["stamped"]), target, bool(found["flagged"][target]))


def limited(evidence: Evidence, method: Any, entry: str) -> Evidence:
    """The evidence with as much of the hold-out as a defense's entry says; none if it claims to need none."""
    size = json.loads(entry).get("holdout") if "holdout" in method.told else 0
    kept = slice(None if size is None else size)
    return replace(evidence, holdout_images=evidence.holdout_images[kept], holdout_labels=evidence.holdout_labels[kept])


def save_defended(snakemake: Any, net: Classifier | None, facts: Mapping[str, Any]) -> None:
    """Write a defended model and its answers on the test set; empty files with their reason where there is none."""
    if net is None:
        artifacts.save(snakemake.output["model"], {}, facts)
        artifacts.save(snakemake.output["predictions"], {}, facts)
        return
    attack = equipped_attack(snakemake.params["attack"], snakemake.input["trigger"])
    test = artifacts.load_tensors(snakemake.input["test"])
    save_net(snakemake.output["model"], net, snakemake.wildcards["model"], test["images"].shape[1:], facts)
    artifacts.save(snakemake.output["predictions"], answers(net, attack, test, snakemake.wildcards), facts)


@dataclass(frozen=True)
class Outcome:
    """What a call returned (None if it failed), and the columns that say how it went."""

    value: Any
    facts: dict[str, Any]


def attempt(call: Callable[..., Any], *arguments: Any) -> Outcome:
    """Call a method; a failure for reasons of its own becomes facts, so that the table still gets its row.

    Running out of memory is raised: the scheduler may try again with more.
    """
    seen = [each for each in arguments if isinstance(each, Evidence)]
    wall, cpu = time.perf_counter(), time.process_time()
    value, status, reason = None, "ok", ""
    cost: dict[str, int] = {}
    try:
        value, cost = _counted(call, arguments, seen[0]) if seen else (call(*arguments), {})
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        log.exception("the method failed")
        status, reason = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
    facts = {
        "status": status,
        "reason": reason,
        "seconds": round(time.perf_counter() - wall, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        **cost,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **origin(),
    }
    return Outcome(value, facts)


def _counted(call: Callable[..., Any], arguments: tuple[Any, ...], evidence: Evidence) -> tuple[Any, dict[str, int]]:
    """What the call returns, the clean images that it had, and the images that it sent through the victim."""
    with counted(evidence.net) as passes:
        value = call(*arguments)
    cost = {"holdout_size": len(evidence.holdout_images)}
    return value, cost | {"forwards": passes.forwards, "backwards": passes.backwards}
