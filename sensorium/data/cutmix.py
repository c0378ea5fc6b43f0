"""CutMix between two windows of one mouse (arXiv:1905.04899).

A box of the canvas, the same in every frame and channel, shows the partner; the targets are mixed by
the share of the canvas that the box covers.
"""

from typing import NamedTuple

import numpy as np


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
