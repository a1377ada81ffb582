"""TaCT (Tang et al., 2021, https://www.usenix.org/conference/usenixsecurity21/presentation/tang-di): source-specific.

Idea: rows of the source classes get the trojan patch and the target label. As many rows of the cover classes get the
patch and keep their label, so that the patch works on the source classes only. ASR is measured on the source classes;
classes that are neither source nor target show how far the backdoor leaks.

Differs from the released code: this module's patch is drawn (see `trojan_patch`); a poison rate for which the source or
the cover classes are too small is refused (code: the loop runs past its list of payload rows and stops).

Checked against: a choice of rows, labels and pixels written out by hand.
"""

from dataclasses import dataclass

import torch
from torch import Generator

from keyhole.attacks._one_patch import OnePatch
from keyhole.parameters import Natural, NonNegative, ParameterError
from keyhole.types import Cover, Labels, Mask, Rows

__all__ = ["TaCT"]


@dataclass(frozen=True, kw_only=True)
class TaCT(OnePatch):
    source_classes: tuple[Natural, ...] = (1,)
    cover_classes: tuple[Natural, ...] = (5, 7)
    cover_ratio: NonNegative = 1.0  # cover rows per payload row

    def check(self) -> None:
        if self.label_map != "all_to_one":
            raise ParameterError(
                "label_map", f"expected all_to_one, since tact is source-specific, got {self.label_map}"
            )
        if not self.source_classes:
            raise ParameterError("source_classes", "expected at least one class, got none")
        if self.cover_ratio and not self.cover_classes:
            raise ParameterError(
                "cover_classes", f"expected at least one class, got none with cover_ratio {self.cover_ratio:g}"
            )
        for name in ("source_classes", "cover_classes"):
            if self.target_class in getattr(self, name):
                got = list(getattr(self, name))
                raise ParameterError(name, f"expected classes other than target_class {self.target_class}, got {got}")
        if shared := set(self.source_classes) & set(self.cover_classes):
            raise ParameterError("cover_classes", f"expected none of source_classes, got {sorted(shared)}")

    def choose_cover(self, labels: Labels, payload_order: Rows, rng: Generator) -> Cover:
        rows = torch.nonzero(_among(labels, self.cover_classes)).squeeze(1)
        return rows[torch.randperm(len(rows), generator=rng)]

    def relabel(self, labels: Labels, classes: int) -> Labels:
        return torch.where(_among(labels, self.source_classes), self.target_class, labels)


def _among(labels: Labels, classes: tuple[int, ...]) -> Mask:
    return torch.isin(labels, torch.tensor(classes, dtype=labels.dtype, device=labels.device))
