"""Run detectors on the training set; keep answers of an earlier run whose detector and victim have not changed."""

import json

from keyhole import artifacts
from keyhole.running.detection import Case, detect, digest_files, read_truth
from keyhole.running.inputs import load_evidence
from keyhole.running.setup import begin
from keyhole.types import Poisoned

begin(snakemake)
cell, given = snakemake.wildcards, snakemake.input
evidence = load_evidence(**{name: given[name] for name in ("model", "holdout", "train", "poisoned", "latents")})
truth = read_truth(artifacts.load(given["poisoned"], Poisoned), len(evidence.labels))
digest = digest_files(given["model"], given["poisoned"], given["holdout"])
case = Case(evidence, truth, digest, cell["dataset"], int(cell["seed"]))
detectors = json.loads(snakemake.params["detectors"])
for path, (label, (entry, code)) in zip(snakemake.output, detectors.items(), strict=True):
    detect(path, case, label, entry, code)
