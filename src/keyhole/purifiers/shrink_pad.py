"""ShrinkPad (Li et al., 2021, https://arxiv.org/abs/2104.02361): move the trigger from its place.

Idea: Each image is shrunk by a few pixels and put at a random place on a black image of the old size. A trigger that
has moved no longer acts.

Differs from the released code (BackdoorBox): A place is drawn for each image, not for each batch.

Checked against: torch's bilinear interpolation and a loop that pads one image at a time.
"""

from dataclasses import dataclass

import torch
from torch import Generator
from torch.nn import functional

from keyhole.learning.crops import crop_windows
from keyhole.parameters import Count, ParameterError, Setting
from keyhole.purifiers import Purifier
from keyhole.types import Evidence, Images

__all__ = ["ShrinkPad"]

CHUNK = 1024  # images that are in floating point at a time


@dataclass(frozen=True, kw_only=True)
class ShrinkPad(Purifier):
    pixels: Count = 4  # by which height and width shrink

    def check_setting(self, setting: Setting) -> None:
        self._require_room(setting.shape[1:])

    def _require_room(self, size: tuple[int, ...]) -> None:
        if min(size) <= self.pixels:
            raise ParameterError("pixels", f"expected fewer than the {min(size)} pixels of an image, got {self.pixels}")

    def purify(self, evidence: Evidence, images: Images, rng: Generator) -> Images:
        """Shrink each image and put it at a random place.

        Raises:
            ValueError: the images are not larger than `pixels`.
        """
        self._require_room(tuple(images.shape[2:]))
        places = torch.randint(self.pixels + 1, (len(images), 2), generator=rng).to(images.device)
        chunks = zip(images.split(CHUNK), places.split(CHUNK), strict=True)
        return torch.cat([self._shrink_and_pad(x, place) for x, place in chunks])

    def _shrink_and_pad(self, images: Images, places: torch.Tensor) -> Images:
        h, w = images.shape[2:]
        small = (h - self.pixels, w - self.pixels)
        shrunk = functional.interpolate(images.float(), small, mode="bilinear", align_corners=False)
        padded = functional.pad(shrunk, (self.pixels,) * 4).round().to(torch.uint8)
        # the border is `pixels` wide, so a window that starts at `pixels - place` shows the image at `place`
        start = self.pixels - places
        return crop_windows(padded, start.mT, (h, w))
