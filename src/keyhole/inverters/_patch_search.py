"""Search for the smallest trigger of every class at once, on Neural Cleanse's schedule of penalties.

Wang et al., 2019, https://doi.org/10.1109/SP.2019.00031. The free variables are tensors with a row for each class, and
each method defines their loss. `unpack` turns them into masks and patterns, as in Neural Cleanse.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from keyhole.inverters import Inverter
from keyhole.inverters._anomaly import anomaly_index
from keyhole.learning.training import forward_batch
from keyhole.parameters import Count, Fraction, Natural, Positive
from keyhole.types import Evidence, Images, Inversion

__all__ = ["MaskSearch", "PatchSearch", "Progress", "mask_loss", "run_epoch", "stamp", "unpack"]

# (images of 0..255, their row numbers, a group of classes) -> each class's loss and its number of successful images
GroupLoss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class PatchSearch(Inverter):
    """Parameters of a search."""

    epochs: Count = 30
    samples: Natural = 1000  # hold-out images per epoch, drawn anew each time; 0 = all
    batch: Count = 32  # images per step; each gets the trigger of every class
    learning_rate: Positive = 0.1
    penalty: Positive = 1e-3  # λ at the start, for each pixel of the mask
    free_start: bool = False  # λ is zero until `patience` epochs in a row have succeeded
    success: Fraction = 0.99  # share of an epoch's images that the trigger must send to the class
    patience: Count = 5  # epochs before the penalty changes
    factor: Positive = 1.5  # of λ after `patience` epochs of success; after as many failures, divided by factor ** 1.5
    idle_patience: Count = 2  # a class stops after `patience` times as many epochs without a smaller mask
    threshold: Positive = 2.0  # anomaly index above which a class is flagged

    def optimizer(self, raw: Tensor) -> torch.optim.Optimizer:
        return torch.optim.Adam([raw], self.learning_rate, betas=(0.5, 0.9))

    def answer(
        self,
        masks: Float[Tensor, "k h w"],
        sizes: Float[Tensor, " k"],
        write: Callable[[Float[Tensor, "n c h w"], int], Float[Tensor, "n c h w"]],
        device: torch.device,
    ) -> Inversion:
        """Flag the classes whose mask is unusually small; `write` puts the trigger of a class on images of 0..255."""
        anomaly = anomaly_index(sizes, masks[0].numel())

        def stamp_images(x: Images, target: int) -> Images:
            return write(x.to(masks), target).round().to(x.device, torch.uint8)

        return Inversion(masks.to(device), anomaly.to(device), (anomaly > self.threshold).to(device), stamp_images)


@dataclass(frozen=True, kw_only=True)
class MaskSearch(PatchSearch):
    """A search for triggers that consist of a mask and a pattern; subclasses write `search`."""

    def invert(self, evidence: Evidence, rng: Generator) -> Inversion:
        """Search for the trigger of every class, then flag the classes of unusually small masks.

        Raises:
            ValueError: there are no hold-out images.
        """
        evidence.require_holdout()
        images = evidence.holdout_images
        masks, patterns, sizes = self.search(evidence.frozen(), images, rng)

        def write(x: Tensor, target: int) -> Tensor:
            row = slice(target, target + 1)
            return stamp(x, masks[row, None], patterns[row])[0]

        return self.answer(masks, sizes, write, images.device)

    @abstractmethod
    def search(
        self, net: nn.Module, images: Images, rng: Generator
    ) -> tuple[Float[Tensor, "k h w"], Float[Tensor, "k c h w"], Float[Tensor, " k"]]:
        """Return the mask, the pattern (0..255) and the mask size in pixels of every class."""

    def run(
        self, raw: Float[Tensor, "k c1 h w"], images: Images, loss_with: Callable[..., tuple], rng: Generator, name: str
    ) -> "Progress":
        """Optimize the free variables; `loss_with` takes images, a group of classes and their penalties."""
        optimizer, progress = self.optimizer(raw), Progress(self, raw)
        for _ in tqdm(range(self.epochs), desc=name, disable=None):
            running = torch.nonzero(~progress.finished).squeeze(1)
            if not len(running):
                break
            rows = torch.randperm(len(images), generator=rng)[: self.samples or len(images)]

            def loss(x: Tensor, _rows: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
                return loss_with(x, group, progress.penalty[group])

            hits = run_epoch(raw, optimizer, images, rows.split(self.batch), running, loss)
            progress.update(hits / len(rows), raw.detach())
        return progress


def run_epoch(
    raw: Tensor,
    optimizer: torch.optim.Optimizer,
    images: Images,
    batches: Iterable[Tensor],  # row numbers of the images
    running: Int64[Tensor, " r"],
    loss_of: GroupLoss,
) -> Float[Tensor, " k"]:
    """Take one step on each batch for the running classes; return how many images reached each class.

    A forward pass covers only a few classes: on a CPU a larger one does not fit the cache and takes twice as long.
    """
    hits = torch.zeros(len(raw), device=raw.device)
    for rows in batches:
        x = images[rows.to(images.device)].to(raw.device, torch.float32)
        raw.grad = torch.zeros_like(raw)
        for group in running.chunk(math.ceil(len(running) * len(x) / forward_batch(raw.device, images))):
            loss, reached = loss_of(x, rows, group)
            loss.sum().backward()
            hits[group] += reached
        optimizer.step()
    return hits


class Progress:
    """The penalty of every class, its counters and its smallest successful mask."""

    def __init__(self, settings: PatchSearch, raw: Float[Tensor, "k c1 h w"]) -> None:
        self.settings = settings
        self.penalty = raw.new_full((len(raw),), 0 if settings.free_start else settings.penalty)
        self.size = raw.new_full((len(raw),), torch.inf)
        self.best = raw.detach().clone()
        self.wins, self.fails, self.idle = torch.zeros(3, len(raw), dtype=torch.int64, device=raw.device)
        self.raised, self.lowered = torch.zeros(2, len(raw), dtype=torch.bool, device=raw.device)

    @property
    def finished(self) -> Bool[Tensor, " k"]:
        """Classes whose penalty has both risen and fallen, and whose mask has not shrunk for long."""
        return self.raised & self.lowered & (self.idle >= self.settings.idle_patience * self.settings.patience)

    def update(self, success: Float[Tensor, " k"], raw: Float[Tensor, "k c1 h w"]) -> None:
        """Update penalties, counters and best masks after an epoch, for the classes that are not finished."""
        running = ~self.finished
        size = unpack(raw)[0].sum((1, 2, 3))
        won = success >= self.settings.success
        smaller = running & won & (size < self.size)
        self.size = torch.where(smaller, size, self.size)
        self.best = torch.where(smaller[:, None, None, None], raw, self.best)
        self.idle = torch.where(smaller | self.size.isinf(), 0, self.idle + 1)
        self.wins, self.fails = torch.where(won, self.wins + 1, 0), torch.where(won, 0, self.fails + 1)
        up, down = running & (self.wins >= self.settings.patience), running & (self.fails >= self.settings.patience)
        free, factor = self.penalty == 0, self.settings.factor
        self.wins = torch.where(up, (up & free).long(), self.wins)  # the epoch that sets λ counts as its first success
        self.fails = self.fails.masked_fill(down, 0)
        self.raised, self.lowered = self.raised | up & ~free, self.lowered | down & ~free
        changed = torch.where(up, self.penalty * factor, torch.where(down, self.penalty / factor**1.5, self.penalty))
        self.penalty = torch.where(up & free, self.settings.penalty, changed)

    def result(self) -> tuple[Float[Tensor, "k h w"], Float[Tensor, "k c h w"], Float[Tensor, " k"]]:
        """Return masks, patterns (0..255) and mask sizes in pixels; a class that was never reached gets a full mask."""
        mask, pattern = unpack(self.best)
        mask = mask[:, 0].masked_fill(self.size.isinf()[:, None, None], 1)
        return mask, pattern, mask.sum((1, 2))


def unpack(raw: Float[Tensor, "k c1 h w"]) -> tuple[Float[Tensor, "k 1 h w"], Float[Tensor, "k c h w"]]:
    """Return the masks (0..1) and patterns (0..255) of free variables w: ½(1 + tanh w), scaled (section V-B)."""
    unit = (1 + raw.tanh()) / 2
    return unit[:, :1], 255 * unit[:, 1:]


def stamp(
    images: Float[Tensor, "b c h w"], mask: Float[Tensor, "k 1 h w"], pattern: Float[Tensor, "k c h w"]
) -> Float[Tensor, "k b c h w"]:
    """Return (1 - m) x + m p (equation 2) for every class and image."""
    return (1 - mask)[:, None] * images + (mask * pattern)[:, None]


def mask_loss(
    net: nn.Module,
    images: Float[Tensor, "b c h w"],
    raw: Float[Tensor, "k c1 h w"],
    targets: Int64[Tensor, " k"],
    penalty: Float[Tensor, " k"],
) -> tuple[Float[Tensor, " k"], Int64[Tensor, " k"]]:
    """Return CE(f(stamped), t) + λ |m|₁ (equation 3) of every class, and how many images reach the class."""
    mask, pattern = unpack(raw)
    stamped = stamp(images, mask, pattern)
    outputs = net(stamped.flatten(0, 1)).unflatten(0, stamped.shape[:2])
    wanted = targets[:, None].expand(stamped.shape[:2])
    error = functional.cross_entropy(outputs.transpose(1, 2), wanted, reduction="none").mean(1)
    return error + penalty * mask.sum((1, 2, 3)), (outputs.argmax(2) == wanted).sum(1)
