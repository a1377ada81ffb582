"""One independent random stream per purpose.

Streams are keyed, not seeded in sequence, so that comparisons stay paired: the poison stream omits the rate (a larger
rate contains the smaller one's rows), the training stream omits the attack (all victims of a seed share initial
weights and batch order). Nobody touches torch's or NumPy's global generators.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator

from keyhole.types import Labels, Rows


def stream(*key: str | int) -> Generator:
    """A CPU generator whose state depends on the whole key and on nothing else."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def forked(rng: Generator) -> Generator:
    """An independent stream from where `rng` stands, which stays there."""
    return stream("forked", integer(rng.clone_state()))


def integer(rng: Generator) -> int:
    """The next seed, below 2^31, for a library that takes an integer (`random_state` in scikit-learn)."""
    return int(torch.randint(2**31 - 1, (), generator=rng))


@contextmanager
def seeded(rng: Generator) -> Iterator[None]:
    """Let torch's global CPU generator draw from `rng` inside, for layers that know no other; then restore it."""
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed: it would also set the generators of every GPU, which the fork does not restore
        torch.default_generator.manual_seed(int(torch.randint(2**63 - 1, (), generator=rng)))
        yield


def stratified(labels: Labels, seats: Sequence[int], rng: Generator) -> Rows:
    """Rows in random order, `seats[k]` of class k; one stream gives nested draws of a class."""
    order = torch.randperm(len(labels), generator=rng)
    rows = torch.cat([order[labels[order] == label][:seat] for label, seat in enumerate(seats)])
    return rows[torch.randperm(len(rows), generator=rng)]
