"""Every kind of job runs on a GPU from loading to saving: tried on a pretended one, which refuses to mix devices."""

import os
from pathlib import Path

from keyhole import artifacts

ROOT = Path(__file__).parents[2]
SHORT = {"mask_steps": 4, "invert_steps": 4, "starts": 2}
GRID = {
    "attacks": {"badnets": {}, "label_consistent": {"steps": 2}, "wanet": {}},
    "detectors": {"spectral_signatures": {}},
    "retrain": True,
    "inverters": {"bti_dbf": SHORT},
    "repairers": {"nc_unlearning": {"inverter": "bti_dbf", "when": "always", "epochs": 1}},
    "trainers": {"abl": {}},
    "filters": {"strip": {"overlays": 4}},
    "purifiers": {"bti_dbf_p": {**SHORT, "rounds": 1, "purify_steps": 4}},
    "recipe": {"name": "cpu", "epochs": 1},
}


def test_every_kind_of_job_runs_on_one_device(fresh, monkeypatch):
    fresh.write(**GRID)
    environment = fresh.environment()
    path = os.pathsep.join([str(Path(__file__).parent / "pretended"), str(ROOT), environment["PYTHONPATH"]])
    monkeypatch.setattr(fresh, "environment", lambda: {**environment, "PYTHONPATH": path, "KEYHOLE_DEVICE": "pretend"})
    fresh.snakemake()
    cards = [card for file in fresh.root.rglob("cards.json") for card in artifacts.load_cards(file)]
    ran = {card.get("defense") for card in cards}
    assert ran >= {
        name for role in ("detectors", "repairers", "trainers", "filters", "purifiers") for name in GRID[role]
    }
    assert {(card.get("defense"), card.get("reason")) for card in cards if card["status"] != "ok"} == set()
