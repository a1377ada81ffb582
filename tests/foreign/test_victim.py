"""The loader gives the checkpoint's accuracy and ASR as measured elsewhere."""

import pytest
import torch
from safetensors.torch import save_file
from tests.foreign import victim

needs_checkpoint = pytest.mark.skipif(bool(victim.missing()), reason=victim.missing())


@needs_checkpoint
def test_accuracy_and_attack_success_are_the_checkpoints():
    clean, fooled = victim.load().rates()
    assert clean == pytest.approx(0.845, abs=0.01)
    assert fooled == pytest.approx(0.979, abs=0.01)


@needs_checkpoint
def test_a_larger_holdout_contains_a_smaller_one_and_no_scored_image():
    small, large = victim.load(250), victim.load(500)
    assert torch.equal(large.evidence.holdout_images[:250], small.evidence.holdout_images)
    assert len(large.images) == 9500
    held = {bytes(x.numpy()) for x in large.evidence.holdout_images.flatten(1)}
    assert not any(bytes(x.numpy()) in held for x in large.images.flatten(1))


def test_every_weight_of_the_architecture_is_read(tmp_path):
    net = victim.build(10)
    for value in net.state_dict().values():
        value.copy_(torch.rand(value.shape) if value.is_floating_point() else value + 3)
    released = {}
    for name, value in net.state_dict().items():
        parts = name.split(".")
        if parts[0] == "stages":
            released[f"features.{8 * (int(parts[1][-1]) - 1) + int(parts[2])}.{parts[3]}"] = value.clone()
        elif parts[0] == "head":
            released[f"classifier.{parts[1]}"] = value.clone()
    save_file(released, tmp_path / "net.safetensors")
    found = victim.read_net(tmp_path / "net.safetensors").state_dict()
    for name in found.keys() - {"mean", "std"}:
        torch.testing.assert_close(found[name], net.state_dict()[name])
    assert found["mean"].abs().sum() == 0
    assert (found["std"] == 1).all()
