"""Compact training samples: what the device needs to build the model's input, and nothing else.

B windows, T frames of a window, h w pixels, N neurons of one mouse. No target stands for a mouse that
a window does not belong to.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch


class Targets(NamedTuple):
    """Responses of one mouse's windows."""

    rows: torch.Tensor
    """Positions (b,) int64 of these windows in the batch."""
    responses: torch.Tensor
    """(b, N, T) float32, negative values cut off, mixed where the frames are."""


@dataclass(frozen=True)
class Batch:
    """Windows of any mice, grouped by mouse where it matters."""

    frames: torch.Tensor
    """(B, T, h, w) uint8 or float32 grey levels; inside the box already the partner's."""
    states: torch.Tensor
    """(B, 2, 4, T) float32: behavior and pupil centre of the window and of its CutMix partner."""
    boxes: torch.Tensor
    """(B, 4) int64: top, left, bottom, right of the mixed area on the canvas; zeros without CutMix."""
    mice: torch.Tensor
    """(B,) int64: the readout of each window."""
    targets: dict[int, Targets]
    """By mouse, for the mice present."""

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.mice)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        targets = {m: Targets(change(t.rows), change(t.responses)) for m, t in self.targets.items()}
        return type(self)(change(self.frames), change(self.states), change(self.boxes), change(self.mice), targets)

    def to(self, device: torch.device | str) -> Self:
        """The batch on another device; from pinned memory the copy does not wait."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, as `torch.utils.data.DataLoader` asks for it."""
        return self._map(lambda tensor: tensor.pin_memory())

    def split(self, chunks: int) -> Iterator[Self]:
        """Consecutive parts of the batch, for gradient accumulation; fewer where windows run out.

        Args:
            chunks: number of parts, their sizes as equal as can be.
        """
        bounds = [len(self) * part // chunks for part in range(chunks + 1)]
        for first, last in itertools.pairwise(bounds):
            if first < last:
                yield self._part(first, last)

    def _part(self, first: int, last: int) -> Self:
        targets = {}
        for mouse, own in self.targets.items():
            inside = (own.rows >= first) & (own.rows < last)
            if inside.any():
                targets[mouse] = Targets(own.rows[inside] - first, own.responses[inside])
        return type(self)(
            self.frames[first:last], self.states[first:last], self.boxes[first:last], self.mice[first:last], targets
        )
