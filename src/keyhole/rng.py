"""One independent random stream for each purpose.

A stream is made from a key of words and numbers, not seeded in sequence, so that comparisons stay paired. The key of
the poison stream leaves out the rate, so a larger rate contains the rows of a smaller one. The key of the training
stream leaves out the attack, so all victims of a seed share initial weights and batch order. No result depends on the
state of torch's or NumPy's global generators.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator

from keyhole.types import Labels, Rows


def stream(*key: str | int) -> Generator:
    """Return a CPU generator whose state depends on the whole key and on nothing else."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def forked(rng: Generator) -> Generator:
    """Return an independent stream that depends on the state of `rng`, which does not change."""
    return stream("forked", integer(rng.clone_state()))


def integer(rng: Generator) -> int:
    """Draw a seed below 2^31 for a library that takes an integer (`random_state` in scikit-learn)."""
    return int(torch.randint(2**31 - 1, (), generator=rng))


@contextmanager
def seeded(rng: Generator) -> Iterator[None]:
    """Let torch's global CPU generator draw from `rng` inside, for layers that know no other; then restore it."""
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed: it would also set the generators of every GPU, which the fork does not restore
        torch.default_generator.manual_seed(int(torch.randint(2**63 - 1, (), generator=rng)))
        yield


def stratified(labels: Labels, seats: Sequence[int], rng: Generator) -> Rows:
    """Draw `seats[k]` rows of each class k, in random order.

    With the same stream, the draw of a class with more seats contains the draw with fewer.
    """
    order = torch.randperm(len(labels), generator=rng)
    rows = torch.cat([order[labels[order] == label][:seat] for label, seat in enumerate(seats)])
    return rows[torch.randperm(len(rows), generator=rng)]
