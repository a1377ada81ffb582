"""Run inverters, repairers and purifiers at their defaults on the foreign victim: `python -m tests.foreign.table OUT`.

Each method writes `OUT/<role>.<name>.json`; one that is there is not run again. At the end `OUT/table.md` is written.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.foreign import victim

from keyhole.learning.training import predict
from keyhole.planning import registry
from keyhole.rng import stream
from keyhole.types import Recovered

ROLES = ("inverters", "repairers", "purifiers")
HEAD = {
    "inverters": "| inverter | names | flags | anomaly of the target, highest other | seconds |\n|---|---|---|---|---|",
    "repairers": "| repairer | CA | ASR | seconds |\n|---|---|---|---|",
    "purifiers": "| purifier | CA | ASR | seconds |\n|---|---|---|---|",
}


def invert(method: Any, foreign: victim.Foreign) -> dict[str, Any]:
    """Return what an inverter says of each class, and the ASR of what it recovers for the class that it names."""
    inversion = method.invert(foreign.evidence, stream("foreign", "invert"))
    named, anomaly = int(inversion.anomaly.argmax()), inversion.anomaly.cpu()
    found = {"named": named, "flagged": torch.nonzero(inversion.flagged.cpu()).flatten().tolist()}
    found["anomaly"] = [round(value, 3) for value in anomaly.tolist()]
    if inversion.stamp is not None:
        others = foreign.images[foreign.labels != named]
        found["sent"] = float((predict(foreign.evidence.net, inversion.stamp(others, named)) == named).double().mean())
    return found


def repair(method: Any, foreign: victim.Foreign) -> dict[str, Any]:
    """Return CA and ASR of the repaired network; a repairer that starts from an inverter gets what that one finds."""
    evidence = foreign.evidence
    if hasattr(method, "inverter"):
        inversion = registry.load("inverters", method.inverter).invert(evidence, stream("foreign", "invert"))
        target = int(inversion.anomaly.argmax())
        stamped = inversion.stamp(evidence.holdout_images, target)
        evidence = replace(evidence, recovered=Recovered(stamped, target, bool(inversion.flagged[target])))
    ca, asr = foreign.rates(method.repair(evidence, stream("foreign", "repair")))
    return {"CA": ca, "ASR": asr}


def purify(method: Any, foreign: victim.Foreign) -> dict[str, Any]:
    """Return CA and ASR on purified images, clean and triggered ones purified in one call."""
    others = foreign.images[foreign.labels != foreign.target]
    both = torch.cat([foreign.images, victim.stamp(others)])
    answers = predict(foreign.evidence.net, method.purify(foreign.evidence, both, stream("foreign", "purify")))
    clean, triggered = answers.split([len(foreign.images), len(others)])
    return {
        "CA": float((clean == foreign.labels).double().mean()),
        "ASR": float((triggered == foreign.target).double().mean()),
    }


CALLS: dict[str, Callable[[Any, victim.Foreign], dict[str, Any]]] = dict(
    zip(ROLES, (invert, repair, purify), strict=True)
)


def run(role: str, name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run a method, and say what it needs if it fails."""
    foreign = victim.load(given.holdout, given.draw, given.device)
    start, cpu = time.perf_counter(), time.process_time()
    try:
        found = CALLS[role](registry.load(role, name), foreign)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    cost = {"seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    return {"holdout": given.holdout, "device": given.device, "draw": given.draw, **found, **cost}


def lines(role: str, found: dict[str, dict[str, Any]], target: int) -> list[str]:
    """Return the Markdown lines of a role's methods."""
    rows = [HEAD[role]]
    for name, row in found.items():
        if "error" in row:
            rows.append(f"| `{name}` | {row['error']} |")
        elif role == "inverters":
            own, others = row["anomaly"][target], max(a for k, a in enumerate(row["anomaly"]) if k != target)
            flags = ", ".join(map(str, row["flagged"])) or "none"
            rows.append(f"| `{name}` | {row['named']} | {flags} | {own:.2f}, {others:.2f} | {row['seconds']:.0f} |")
        else:
            rows.append(f"| `{name}` | {100 * row['CA']:.1f} | {100 * row['ASR']:.1f} | {row['seconds']:.0f} |")
    return rows


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("methods", nargs="*", help="role.name; all by default")
    parser.add_argument("--holdout", type=int, default=2500)
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    if reason := victim.missing():
        raise SystemExit(reason)
    given.out.mkdir(parents=True, exist_ok=True)
    everything = [f"{role}.{name}" for role in ROLES for name in registry.names(role)]
    for each in given.methods or everything:
        path = given.out / f"{each}.json"
        if not path.exists():
            path.write_text(json.dumps(run(*each.split("."), given)) + "\n")
            print(each, path.read_text().strip(), flush=True)
    if given.methods:
        return
    ca, asr = victim.load(given.holdout, given.draw).rates()
    text = [f"Without a defense: CA {100 * ca:.1f}, ASR {100 * asr:.1f}."]
    for role in ROLES:
        names = {name: given.out / f"{role}.{name}.json" for name in registry.names(role)}
        found = {name: json.loads(path.read_text()) for name, path in names.items() if path.exists()}
        text += ["", *lines(role, found, victim.TARGET)]
    (given.out / "table.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
