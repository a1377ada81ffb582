"""JPEG compression (against adversarial images: Dziugaite et al., 2016, https://arxiv.org/abs/1608.00853).

Each image is compressed and decompressed; what the coarse quantization of high frequencies drops, a trigger loses too.
Xue et al. (2022, https://arxiv.org/abs/2201.00672) report that common backdoors do not survive it.
The default quality is that of libjpeg. Images of neither 1 nor 3 channels are compressed a channel at a time.
Checked against: the transform and quantization of gray blocks in float64, and Pillow for color.
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
        found = [vision.jpeg(picture, self.quality) for picture in pictures]
        return (torch.stack(found).view(n, c, h, w) if found else images.clone()).to(images.device)
