"""Muon against singular values in float64 NumPy, and two of its steps by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from keyhole.learning.muon import HEAD_RATE, SHIFT_RATE, Muon, orthogonal
from keyhole.rng import stream
from keyhole.types import Classifier


def pushed(matrix: np.ndarray) -> np.ndarray:
    """The same singular vectors; singular values, at first of length 1 together, three times through the polynomial."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ np.diag(s) @ v


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_singular_values_are_pushed_and_vectors_stay(shape):
    matrix = torch.randn(shape, generator=stream("matrix"))
    np.testing.assert_allclose(orthogonal(matrix).numpy(), pushed(matrix.double().numpy()), atol=1e-4)


def test_values_of_a_random_matrix_end_near_one():
    matrix = torch.randn(16, 144, generator=stream("random"))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3


def tiny() -> Classifier:
    body = nn.Sequential(nn.Conv2d(1, 3, 2, bias=False), nn.BatchNorm2d(3), nn.Flatten())
    body[1].weight.requires_grad_(False)
    return Classifier({"penultimate": body}, nn.Linear(27, 2), 1)


def test_two_steps_are_those_of_the_released_code():
    """Its loss is a sum over 250 images, its logits are divided by 256, and its decay is 2e-6 times the batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = tiny()
    optimizer = Muon(net, 0.12, 5e-4)
    x = torch.randint(0, 256, (6, 1, 4, 4), generator=stream("x"), dtype=torch.uint8)
    y = torch.arange(6) % 2
    named = dict(net.named_parameters())
    conv, shift, head = "stages.penultimate.0.weight", "stages.penultimate.1.bias", "head.weight"
    w = {name: p.detach().double().numpy().copy() for name, p in named.items()}
    v = {name: np.zeros_like(value) for name, value in w.items()}
    for _ in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        g = {name: p.grad.double().numpy() for name, p in named.items() if p.grad is not None}
        optimizer.step()
        v[conv] = 0.6 * v[conv] + g[conv]
        w[conv] = w[conv] * np.sqrt(3) / np.sqrt((w[conv] ** 2).sum())
        w[conv] = w[conv] - 0.12 * pushed((g[conv] + 0.6 * v[conv]).reshape(3, 4)).reshape(3, 1, 2, 2)
        for name, rate in ((shift, SHIFT_RATE), (head, HEAD_RATE), ("head.bias", HEAD_RATE)):
            slope = g[name] + 5e-4 / rate * w[name]
            v[name] = 0.85 * v[name] + slope
            w[name] = w[name] - rate * (slope + 0.85 * v[name])
        for name in (conv, shift, head, "head.bias"):
            np.testing.assert_allclose(named[name].detach().numpy(), w[name], rtol=1e-3, atol=1e-5)
    assert pytest.approx(13.25) == SHIFT_RATE
    assert pytest.approx(0.67 * 250 / 65536) == HEAD_RATE
