"""Randomness as a function of where it is used, never of when.

Every draw names its place: a seed, a purpose and integer coordinates such as (epoch, index). The
streams are independent (NumPy's SeedSequence, https://numpy.org/doc/stable/reference/random/parallel.html),
so neither the number of workers nor a restart changes a bit.
"""

import zlib

import numpy as np


def _sequence(seed: int, purpose: str, coordinates: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *coordinates])


def generator(seed: int, purpose: str, *coordinates: int) -> np.random.Generator:
    """A NumPy generator for one place.

    Args:
        seed: the run's seed, non-negative.
        purpose: a fixed word for what is drawn, such as "window".
        coordinates: non-negative integers, such as epoch and index.
    """
    return np.random.Generator(np.random.PCG64(_sequence(seed, purpose, coordinates)))


def torch_seed(seed: int, purpose: str, *coordinates: int) -> int:
    """A 63-bit seed for `torch.manual_seed` at one place; arguments as for `generator`."""
    return int(_sequence(seed, purpose, coordinates).generate_state(1, np.uint64)[0] >> np.uint64(1))
