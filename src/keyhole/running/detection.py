"""Run detectors on a training set, unless the answer of an earlier run is still valid."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyhole import artifacts, rng
from keyhole.running.inputs import limit_holdout
from keyhole.running.passes import attempt_and_count
from keyhole.running.setup import instantiate
from keyhole.types import Evidence, Poisoned, Suspicion

__all__ = ["Case", "detect", "digest_files", "read_truth"]


@dataclass(frozen=True)
class Case:
    """One victim, as its detectors get it."""

    evidence: Evidence
    truth: dict[str, Any]  # parameter -> value, read only where the configured value is the word `oracle`
    digest: str  # of the files that the evidence comes from
    dataset: str
    seed: int


def digest_files(*paths: str) -> str:
    """Return the digests of what several files hold, joined."""
    return "".join(map(artifacts.content_digest, paths))


def read_truth(poisoned: Poisoned, rows: int) -> dict[str, Any]:
    """Return the poison rate and the payload row numbers of a training set of `rows` rows."""
    payload = poisoned.index[~poisoned.is_cover].tolist()
    return {"assumed_rate": len(payload) / rows, "assumed_payload": payload}


def detect(path: str, case: Case, label: str, entry: str, code: str) -> None:
    """Write a detector's answer to `path`, or keep the file if neither detector nor victim has changed.

    Args:
        entry: the detector's entry in the configuration.
        code: the hash of the code that the detector runs.
    """
    made_from = hashlib.sha256(f"{label} {entry} {code} {case.digest}".encode()).hexdigest()
    previous = artifacts.facts(path) if Path(path).exists() else {}
    # a failure is tried again, since the machine may have caused it
    if previous.get("made_from") == made_from and previous["status"] == "ok":
        Path(path).touch()
        return
    detector, described = instantiate("detectors", entry, case.truth)
    stream = rng.stream("detect", case.dataset, case.seed, label)
    outcome = attempt_and_count(detector.detect, limit_holdout(case.evidence, detector, entry), stream)
    facts = {**described, "looks_at": detector.looks_at, "made_from": made_from, "code": code, **outcome.facts}
    answer: Suspicion | None = outcome.value
    artifacts.save(path, answer or {}, {**facts, **(answer.remarks if answer else {})})
