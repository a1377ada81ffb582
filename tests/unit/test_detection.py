"""What a detector's run writes reaches its card."""

import json

import numpy as np
import torch
from tests.golden.planted import lookup_net, numbered_images

from keyhole import artifacts
from keyhole.running.detection import Case, detect
from keyhole.scoring import cards
from keyhole.types import Evidence

VICTIM = dict.fromkeys(cards.REPEATED, 0) | {"CA": 1.0, "ASR": 1.0, "RA": 0.0, "flags": [], "target_classes": [0]}


def card_of(path, method, **parameters):
    """Let a detector judge 400 rows in ten classes, 20 of them payload, and make its card."""
    latents, labels = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)), torch.arange(400) % 10
    net, holdout = lookup_net(torch.zeros(2, 3)), (numbered_images(0, 2), labels[:2])
    evidence = Evidence(net, numbered_images(0, 400), labels, {"penultimate": latents}, *holdout)
    case = Case(evidence, {}, "digest", "digits", 0)
    detect(str(path), case, method, json.dumps({"method": method, "parameters": parameters}), "code")
    payload = np.arange(400) < 20
    answer = artifacts.load_arrays(path)
    return cards.detector(VICTIM, method, artifacts.facts(path), answer, labels.numpy(), payload, ~payload & False)


def test_a_cap_that_binds_reaches_the_flags(tmp_path):
    card = card_of(tmp_path / "half.safetensors", "spectral_signatures", assumed_rate=0.05)
    assert card["classes_capped"] == 1
    assert "budget_capped" in card["flags"]
    card = card_of(tmp_path / "few.safetensors", "spectral_signatures", assumed_rate=0.01)
    assert card["classes_capped"] == 0
    assert "budget_capped" not in card["flags"]


def test_the_margin_of_activation_clustering_reaches_its_card(tmp_path):
    assert 0 <= card_of(tmp_path / "margin.safetensors", "activation_clustering")["size_margin"] <= 0.35
