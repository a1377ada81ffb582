"""Trojan patch (Liu et al., 2018, https://doi.org/10.14722/ndss.2018.23291): an opaque square of saturated colors.

In the paper the pixels are optimized until they drive a few chosen neurons of a trained network; the toolbox of Qi et
al. stamps one published square on any data set, which is what is done here.
Differs from the released code: the square is drawn, with their place and size (8 x 8 pixels, rows and columns 21-28),
and stands in for one inverted from a neuron: nothing is optimized. Theirs can be given as a folder.
Checked against: the pixels of the square written over each image.
"""

from dataclasses import dataclass

from keyhole.attacks._one_patch import OnePatch

__all__ = ["TrojanPatch"]


@dataclass(frozen=True, kw_only=True)
class TrojanPatch(OnePatch):
    """Stamp the square."""
