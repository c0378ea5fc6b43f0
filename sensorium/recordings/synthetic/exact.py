"""Arithmetic that gives the same bits on every processor.

IEEE 754 asks for correctly rounded + - * / and square root, so elementwise ufuncs of NumPy that do one of them
agree everywhere. Three things do not: sums whose order a library chooses (BLAS, pairwise summation, einsum), functions
such as exp and sin, whose last digits differ between vector units and C libraries, and draws that are made
with them (normal, gamma). The simulation therefore adds integers or adds in a loop, and takes such functions from
tables whose entries are rounded far above the digits that differ. See `numpy.show_runtime` for what NumPy chooses.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv

Float64Array = npt.NDArray[np.float64]

_STEPS = 4096  # entries of a table
_TURN_BITS, _DECAY_BITS, _NOISE_BITS = 14, 20, 12  # binary digits after the point of the entries
_DECAY_RANGE = 16.0  # largest argument of `decay` that differs from infinity
_TERMS = 12  # uniform draws in a normal one; their sum has variance 1


def on_grid(values: Float64Array, bits: int) -> Float64Array:
    """Round to multiples of 2 ** -bits; sums of such values are exact, in any order, below 2 ** (53 - bits)."""
    return np.rint(values * 2.0**bits) / 2.0**bits


@cache
def _sines() -> Float64Array:
    return on_grid(np.sin(2 * np.pi * np.arange(_STEPS) / _STEPS), _TURN_BITS)


@cache
def _decays() -> Float64Array:
    return np.append(on_grid(np.exp(-_DECAY_RANGE * np.arange(_STEPS) / _STEPS), _DECAY_BITS), 0.0)


@cache
def _gamma_quantiles(shape: float) -> Float64Array:
    return on_grid(gammaincinv(shape, (np.arange(_STEPS) + 0.5) / _STEPS) / shape, _NOISE_BITS)


def sine(turns: npt.ArrayLike) -> Float64Array:
    """Sine of an angle in turns, to 1/4096 turn."""
    steps = np.rint(np.multiply(turns, _STEPS)).astype(np.int64)
    return _sines()[steps % _STEPS]


def cosine(turns: npt.ArrayLike) -> Float64Array:
    """Cosine of an angle in turns, to 1/4096 turn."""
    return sine(np.add(turns, 0.25))


def decay(values: npt.ArrayLike) -> Float64Array:
    """exp(-values) for values that are not negative, to 1/256 of the argument."""
    steps = np.rint(np.multiply(values, _STEPS / _DECAY_RANGE))
    return _decays()[np.minimum(steps, _STEPS).astype(np.int64)]


def squareplus(values: Float64Array) -> Float64Array:
    """A softplus without exponential, (x + sqrt(x^2 + 1)) / 2 (arXiv:2112.11687)."""
    return (values + np.sqrt(values * values + 1)) / 2


def uniform(
    rng: np.random.Generator, low: npt.ArrayLike, high: npt.ArrayLike, size: tuple[int, ...] = ()
) -> Float64Array:
    """Uniform draws; `Generator.uniform` may contract its product and sum into one rounding, these never do."""
    return np.add(low, np.multiply(np.subtract(high, low), rng.random(size)))


def normal(rng: np.random.Generator, *shape: int) -> Float64Array:
    """Nearly normal draws of mean 0 and variance 1: the sum of twelve uniform ones (Irwin-Hall)."""
    draws = rng.integers(0, 1 << 16, (_TERMS, *shape)).sum(axis=0)
    centred: Float64Array = (draws - _TERMS * (1 << 15)) / 2.0**16
    return centred


def gamma_noise(rng: np.random.Generator, shape: float, *size: int) -> Float64Array:
    """Draws of mean 1 from a gamma law, out of 4096 equally likely quantiles.

    Args:
        rng: where all is drawn from.
        shape: the law's shape; its coefficient of variation is shape ** -0.5.
        size: shape of the array.
    """
    return _gamma_quantiles(shape)[rng.integers(0, _STEPS, size)]


def product(left: Float64Array, right: Float64Array) -> Float64Array:
    """Matrix product of whole numbers, exact whatever the order in which BLAS adds.

    Args:
        left: (..., M, K) whole numbers.
        right: (K, N) whole numbers; all sums of |left| * |right| must stay below 2 ** 53.
    """
    return left @ right
