"""Let detectors judge a training set, unless an earlier run's answer still holds."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyhole import artifacts, rng
from keyhole.running.inputs import limit_holdout
from keyhole.running.passes import attempt_and_count
from keyhole.running.setup import instantiate
from keyhole.types import Evidence, Poisoned

__all__ = ["Case", "detect", "digest_files", "know_truth"]


@dataclass(frozen=True)
class Case:
    """One victim before its detectors."""

    evidence: Evidence
    truth: dict[str, Any]  # for parameters whose value is the word `oracle`, and for nothing else
    digest: str  # of the files that the evidence comes from
    dataset: str
    seed: int


def digest_files(*paths: str) -> str:
    """Return the digests of several files, one after the other."""
    return "".join(hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths)


def know_truth(poisoned: Poisoned, rows: int) -> dict[str, Any]:
    """Return the poison rate and the payload of a training set of so many rows."""
    payload = poisoned.index[~poisoned.is_cover].tolist()
    return {"assumed_rate": len(payload) / rows, "assumed_payload": payload}


def detect(path: str, case: Case, label: str, entry: str, code: str) -> None:
    """Write a detector's answer to `path`; keep what is there if neither detector nor victim has changed.

    Args:
        entry: the detector's entry in the configuration.
        code: the hash of the code that it runs.
    """
    made_from = hashlib.sha256(f"{label} {entry} {code} {case.digest}".encode()).hexdigest()
    left = artifacts.facts(path) if Path(path).exists() else {}
    if left.get("made_from") == made_from and left["status"] == "ok":  # a failure may have been the machine's
        Path(path).touch()
        return
    detector, described = instantiate("detectors", entry, case.truth)
    stream = rng.stream("detect", case.dataset, case.seed, label)
    outcome = attempt_and_count(detector.detect, limit_holdout(case.evidence, detector, entry), stream)
    facts = {**described, "looks_at": detector.looks_at, "made_from": made_from, "code": code, **outcome.facts}
    artifacts.save(path, outcome.value or {}, facts)
