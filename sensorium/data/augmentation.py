"""Augmentations: a box of a window's frames shows another window of the same mouse.

The box is the same in every frame and channel; the targets are mixed by the share of the canvas that it covers.
S samples of an epoch.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sensorium.config import CutMixConfig


class Box(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right` of the canvas, the ends excluded, pixels."""

    top: int
    left: int
    bottom: int
    right: int

    def share(self, canvas: tuple[int, int]) -> float:
        """Part of the canvas that the box covers: the weight of the partner's targets."""
        return (self.bottom - self.top) * (self.right - self.left) / (canvas[0] * canvas[1])


NO_BOX = Box(0, 0, 0, 0)


def cut_box(share: float, row: int, column: int, canvas: tuple[int, int]) -> Box:
    """The box around a centre, clipped at the canvas's edges.

    Args:
        share: part of the canvas to cover before clipping, 0 to 1; its sides are sqrt(share) of the canvas's.
        row: centre, pixels from the top.
        column: centre, pixels from the left.
        canvas: height and width, pixels.
    """
    sides = np.sqrt(share) * np.array(canvas)
    reach = sides.astype(np.int64) // 2
    top, left = np.maximum(np.array((row, column)) - reach, 0)
    bottom, right = np.minimum(np.array((row, column)) + reach, canvas)
    return Box(int(top), int(left), int(bottom), int(right))


class Draws(NamedTuple):
    """Boxes of all samples of an epoch, before they are clipped at the canvas's edges."""

    mixed: npt.NDArray[np.bool_]
    """(S,) whether the sample is mixed with its partner."""
    shares: npt.NDArray[np.float64]
    """(S,) part of the canvas that the box covers, 0 to 1."""
    centres: npt.NDArray[np.int64]
    """(2, S) row and column of the box's centre, pixels."""


class Augmentation(Protocol):
    """Draws which samples of an epoch are mixed, and where.

    An augmentation is a function of the generator that it is given, so that an epoch is the same whoever asks for it.
    To add one, write a class with this method, and choose it in `make_augmentation`:

    Examples:
        >>> class MiddleQuarter:
        ...     def draw(self, generator, samples, canvas):
        ...         centre = np.array(canvas)[:, None] // 2
        ...         mixed = generator.random(samples) < 0.5
        ...         return Draws(mixed, np.full(samples, 0.25), centre.repeat(samples, axis=1))
        >>> augmentation: Augmentation = MiddleQuarter()
        >>> draws = augmentation.draw(np.random.default_rng(0), samples=3, canvas=(64, 64))
        >>> cut_box(draws.shares[0], *draws.centres[:, 0], canvas=(64, 64))
        Box(top=16, left=16, bottom=48, right=48)
    """

    def draw(self, generator: np.random.Generator, samples: int, canvas: tuple[int, int]) -> Draws:
        """Draw an epoch.

        Args:
            generator: belongs to the epoch.
            samples: number of samples, S.
            canvas: height and width, pixels.
        """
        ...


@dataclass(frozen=True)
class CutMix:
    """Boxes of Beta-distributed area at uniform places (arXiv:1905.04899)."""

    alpha: float
    """Parameter of the Beta(alpha, alpha) distribution of the share."""
    probability: float
    """Part of the samples that are mixed."""

    def draw(self, generator: np.random.Generator, samples: int, canvas: tuple[int, int]) -> Draws:
        """See `Augmentation`."""
        mixed = generator.random(samples) < self.probability
        shares = generator.beta(self.alpha, self.alpha, samples)
        return Draws(mixed, shares, generator.integers(0, np.array(canvas), (samples, 2)).T)


def make_augmentation(cutmix: CutMixConfig | None) -> Augmentation | None:
    """The augmentation that an experiment's settings choose; None leaves windows as they were recorded."""
    return None if cutmix is None else CutMix(cutmix.alpha, cutmix.probability)
