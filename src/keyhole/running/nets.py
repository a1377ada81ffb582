"""Write networks to files and read them."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from keyhole import artifacts
from keyhole.running.devices import on_device
from keyhole.types import Classifier

__all__ = ["load_net", "save_net"]


def save_net(path: str | Path, net: Classifier, name: str, shape: tuple[int, ...], facts: Mapping[str, Any]) -> None:
    """Write a network and what is needed to build it again.

    Args:
        name: its architecture.
        shape: the shape of an image.
    """
    artifacts.save_model(path, net, {"architecture": name, "classes": net.head.out_features, "shape": shape, **facts})


def load_net(path: str | Path) -> Classifier:
    """Read a network that `save_net` wrote, in eval mode, on the job's device."""
    facts = artifacts.facts(path)
    module = importlib.import_module(f"keyhole.models.{facts['architecture']}")
    net = module.build(facts["classes"], tuple(facts["shape"])).to(memory_format=torch.channels_last)
    return on_device(artifacts.load_model(path, net))
