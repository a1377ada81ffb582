"""Trojan patch (Liu et al., 2018, https://doi.org/10.14722/ndss.2018.23291): an opaque square of colored blocks.

Idea: payload rows get a square of 8 x 8 pixels (rows and columns 21-28 of 32 x 32) and the target label.

Differs from the paper: there the pixels are optimized until they drive a few chosen neurons of a trained network. The
toolbox of Qi et al. puts one published square on every data set, and so does this attack; nothing is optimized.

Differs from the released code: this module draws a square in the place, size and strength of the published one, which
can be given as a folder.

Checked against: the pixels of the square written over each image.
"""

from dataclasses import dataclass

from keyhole.attacks._one_patch import OnePatch

__all__ = ["TrojanPatch"]


@dataclass(frozen=True, kw_only=True)
class TrojanPatch(OnePatch):
    """The attack with one opaque patch, by default the square."""
