"""Adap-Patch (Qi et al., 2023, https://openreview.net/forum?id=_wSHsgrVali): patches that leave no latent cluster.

Idea: each planted row gets one of four faint patches: in ascending row order, the first quarter of the payload gets the
first patch, and so on (of fewer than 16 rows, which quarter gets which patch is drawn). There are twice as many cover
rows, treated alike, which keep their label. At test time two patches are put on together, opaque.

Differs from the released code: this module draws the patches, with the place and size of the authors' patches (which
can be given as a folder); rows of the target class are not drawn (see `Attack`). For GTSRB the authors use
`test_triggers: [firefox_corner, trojan_square]`.

Checked against: a loop over rows in float64.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from keyhole.attacks import Attack
from keyhole.attacks._triggers import assign_parts, blend, load_patch, patch_files
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
    folder: str = ""  # with pictures <name>_32.png, to use instead of the drawn patches

    def check(self) -> None:
        for names, values in (("triggers", "opacities"), ("test_triggers", "test_opacities")):
            if len(getattr(self, names)) != len(getattr(self, values)):
                got = f"{len(getattr(self, values))} for {len(getattr(self, names))}"
                raise ParameterError(values, f"expected one opacity for each of {names}, got {got}")

    def files(self) -> tuple[str, ...]:
        return patch_files(self.folder, (*self.triggers, *self.test_triggers))

    @property
    def cover_ratio(self) -> float:
        return self.conservatism / (1 - self.conservatism)

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        for name, opacity in zip(self.test_triggers, self.test_opacities, strict=True):
            picture, mask = self._load_patch(name, images, "test_triggers")
            images = blend(images, picture, opacity * mask)
        return images

    def plant(self, images: Images, rng: Generator) -> Images:
        patches = [self._load_patch(name, images, "triggers") for name in self.triggers]
        quarter = assign_parts(len(images), len(patches), rng).to(images.device)
        pictures = torch.stack([picture for picture, _ in patches])[quarter]
        weights = torch.stack([o * mask for o, (_, mask) in zip(self.opacities, patches, strict=True)])[quarter]
        return blend(images, pictures, weights[:, None])

    def _load_patch(self, name: str, images: Images, parameter: str) -> tuple[Tensor, Tensor]:
        picture, mask = load_patch(name, self.folder, tuple(images.shape[1:]), parameter)
        return picture.to(images.device), mask.to(images.device)
