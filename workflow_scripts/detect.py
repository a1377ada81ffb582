"""Let detectors judge the training set. What an earlier run left is kept if neither it nor its victim has changed."""

import hashlib
import json
from pathlib import Path

from keyhole import artifacts, rng
from keyhole.running import jobs
from keyhole.types import Poisoned

jobs.begin(snakemake)
cell, given = snakemake.wildcards, snakemake.input
evidence = jobs.evidence(given)
payload = artifacts.load(given["poisoned"], Poisoned)
rows = payload.index[~payload.is_cover].tolist()
truth = {"assumed_rate": len(rows) / len(evidence.labels), "assumed_payload": rows}  # for the word `oracle` alone
victim = "".join(
    hashlib.sha256(Path(given[name]).read_bytes()).hexdigest() for name in ("model", "poisoned", "holdout")
)
for path, (label, (entry, code)) in zip(
    snakemake.output, json.loads(snakemake.params["detectors"]).items(), strict=True
):
    made_from = hashlib.sha256(f"{label} {entry} {code} {victim}".encode()).hexdigest()
    left = artifacts.facts(path) if Path(path).exists() else {}
    if left.get("made_from") == made_from and left["status"] == "ok":  # a failure may have been the machine's
        Path(path).touch()
        continue
    detector, told = jobs.instantiate("detectors", entry, truth)
    stream = rng.stream("detect", cell["dataset"], cell["seed"], label)
    outcome = jobs.attempt(detector.detect, jobs.limited(evidence, detector, entry), stream)
    artifacts.save(
        path,
        outcome.value or {},
        {"told": told, "looks_at": detector.looks_at, "made_from": made_from, **outcome.facts},
    )
