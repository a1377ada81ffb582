"""Build the attack of a configuration entry, with the tensors that it has learned."""

from keyhole import artifacts
from keyhole.attacks import Attack
from keyhole.running.setup import instantiate

__all__ = ["load_attack"]


def load_attack(entry: str, trigger: str | None = None) -> Attack:
    """Build an attack; `trigger` is the file of the tensors that it crafted or learned, None if there are none."""
    attack, _ = instantiate("attacks", entry)
    return attack.equipped(artifacts.load_tensors(trigger)) if trigger else attack
