"""Adap-Patch (Qi et al., 2023, https://openreview.net/forum?id=_wSHsgrVali): patches that leave no latent cluster.

Each planted row gets one of four faint patches: the first quarter of the payload in ascending row order the first
patch, and so on; the cover likewise. Twice as many cover rows as payload rows. At test time two patches come together,
opaque.
Differs from the released code: the patches are drawn here with the same place and size (theirs can be given as a
folder), rows of the target class are not drawn (see `Attack`). On GTSRB the authors test with
`test_triggers: [firefox_corner, trojan_square]`.
Checked against: a loop over rows in float64.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from keyhole.attacks import Attack
from keyhole.attacks._triggers import blend, in_parts, patch, patch_files
from keyhole.parameters import Fraction, ParameterError, Share
from keyhole.types import Images

__all__ = ["AdapPatch"]


@dataclass(frozen=True, kw_only=True)
class AdapPatch(Attack):
    triggers: tuple[str, ...] = ("phoenix_corner", "firefox_corner", "badnet_patch4", "trojan_square")
    opacities: tuple[Fraction, ...] = (0.5, 0.2, 0.5, 0.3)
    test_triggers: tuple[str, ...] = ("phoenix_corner2", "badnet_patch4")
    test_opacities: tuple[Fraction, ...] = (1.0, 1.0)
    conservatism: Share = 2 / 3  # eta: cover rows / (payload + cover rows)
    folder: str = ""  # pictures <name>_32.png to use in place of the drawn ones

    def check(self) -> None:
        for names, values in (("triggers", "opacities"), ("test_triggers", "test_opacities")):
            if len(getattr(self, names)) != len(getattr(self, values)):
                got = f"{len(getattr(self, values))} for {len(getattr(self, names))}"
                raise ParameterError(values, f"expected one for each of {names}, got {got}")

    def files(self) -> tuple[str, ...]:
        return patch_files(self.folder, (*self.triggers, *self.test_triggers))

    @property
    def cover_ratio(self) -> float:
        return self.conservatism / (1 - self.conservatism)

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        for name, opacity in zip(self.test_triggers, self.test_opacities, strict=True):
            picture, mask = self._patch(name, images)
            images = blend(images, picture, opacity * mask)
        return images

    def plant(self, images: Images, rng: Generator) -> Images:
        patches = [self._patch(name, images) for name in self.triggers]
        quarter = in_parts(len(images), len(patches), rng).to(images.device)
        pictures = torch.stack([picture for picture, _ in patches])[quarter]
        weights = torch.stack([o * mask for o, (_, mask) in zip(self.opacities, patches, strict=True)])[quarter]
        return blend(images, pictures, weights[:, None])

    def _patch(self, name: str, images: Images) -> tuple[Tensor, Tensor]:
        picture, mask = patch(name, self.folder, tuple(images.shape[1:]))
        return picture.to(images.device), mask.to(images.device)
