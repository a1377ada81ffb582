"""JPEG compression (Dziugaite et al., 2016, https://arxiv.org/abs/1608.00853): drop the high frequencies of a trigger.

Idea: Each image is compressed and decompressed. A trigger loses what the coarse quantization of high frequencies drops.
Dziugaite et al. use it against adversarial images; Xue et al. (2022, https://arxiv.org/abs/2201.00672) report that
common backdoors do not survive it. The default quality is that of libjpeg. Images of neither 1 nor 3 channels are
compressed one channel at a time.

Checked against: the transform and the quantization of gray blocks in float64; Pillow for color.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Generator
from torchvision.transforms.v2 import functional as vision
from tqdm import tqdm

from keyhole.purifiers import Purifier
from keyhole.types import Evidence, Images

__all__ = ["JPEG"]

CHUNK = 1024  # images between two steps of the progress bar


@dataclass(frozen=True, kw_only=True)
class JPEG(Purifier):
    quality: Annotated[int, Interval(ge=1, le=100)] = 75

    def purify(self, evidence: Evidence, images: Images, rng: Generator) -> Images:
        return torch.cat([self._compress(x) for x in tqdm(images.split(CHUNK), desc="jpeg", disable=None)])

    def _compress(self, images: Images) -> Images:
        n, c, h, w = images.shape
        pictures = images.cpu() if c in (1, 3) else images.cpu().reshape(n * c, 1, h, w)
        compressed = [vision.jpeg(picture, self.quality) for picture in pictures]
        return (torch.stack(compressed).view(n, c, h, w) if compressed else images.clone()).to(images.device)
