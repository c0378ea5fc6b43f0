"""Windows: where they start in a trial, their compact samples, and the model's input, put together on the device.

B windows, T frames of a window, L frames of a trial, h w pixels of a frame, H W of the canvas, N neurons of one mouse.
No target stands for a mouse that a window does not belong to.
Channels: 0 the video, zero-padded and centred; 1-2 behavior, 3-4 pupil centre, each filling its plane
with the value at that frame. Nothing is normalised.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from sensorium.config import WindowConfig
from sensorium.errors import DataError

CHANNELS = 5
"""Channels of the input: one for the video, four planes of the animal's state."""


def frame_indices(start: int, window: WindowConfig) -> npt.NDArray[np.int64]:
    """Frames (T,) of the recording that a window starting at `start` takes."""
    return start + window.step * np.arange(window.frames, dtype=np.int64)


def starts_count(length: int, window: WindowConfig) -> int:
    """Number of positions of the window in a trial of `length` frames; 0 where it is too short."""
    return max(0, length - window.width + 1)


def sliding_starts(length: int, window: WindowConfig) -> npt.NDArray[np.int64]:
    """Every position of the window in a trial of `length` frames."""
    return np.arange(starts_count(length, window), dtype=np.int64)


def separate_starts(length: int, window: WindowConfig) -> npt.NDArray[np.int64]:
    """Positions of windows side by side from frame 0 on; a remainder shorter than a window is left out."""
    return np.arange(0, starts_count(length, window), window.width, dtype=np.int64)


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


def frame_offset(frame: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the canvas where a centred frame begins.

    Raises:
        DataError: the frame is larger than the canvas.
    """
    if frame[0] > canvas[0] or frame[1] > canvas[1]:
        raise DataError(
            f"model.canvas: frames of {frame[0]} x {frame[1]} pixels do not fit on {canvas[0]} x {canvas[1]}.",
            "Enlarge model.canvas in params.yaml.",
        )
    return (canvas[0] - frame[0]) // 2, (canvas[1] - frame[1]) // 2


def _stack(frames: torch.Tensor, planes: torch.Tensor, canvas: tuple[int, int]) -> torch.Tensor:
    """Stack frames (B, T, h, w) and planes that broadcast to (B, 4, T, H, W)."""
    windows, length, height, width = frames.shape
    top, left = frame_offset((height, width), canvas)
    stack = torch.zeros((windows, CHANNELS, length, *canvas), dtype=torch.float32, device=frames.device)
    stack[:, 0, :, top : top + height, left : left + width] = frames
    stack[:, 1:] = planes
    return stack


def _box_masks(boxes: torch.Tensor, canvas: tuple[int, int]) -> torch.Tensor:
    """Where each window shows its partner: (B, H, W) of truth values from boxes (B, 4)."""
    rows = torch.arange(canvas[0], device=boxes.device)[None, :, None]
    columns = torch.arange(canvas[1], device=boxes.device)[None, None, :]
    top, left, bottom, right = boxes[:, :, None, None].unbind(1)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def assemble(batch: Batch, canvas: tuple[int, int]) -> torch.Tensor:
    """The input (B, 5, T, H, W) float32 of a batch, on the batch's device.

    Args:
        batch: compact samples, their frames mixed already; inside a window's box the planes take the
            partner's values.
        canvas: H and W, pixels.

    Raises:
        DataError: the frames are larger than the canvas.
    """
    own, partner = batch.states[:, :, :, :, None, None].unbind(1)
    mask = _box_masks(batch.boxes, canvas)[:, None, None]
    return _stack(batch.frames, torch.where(mask, partner, own), canvas)


def trial_windows(
    video: torch.Tensor, states: torch.Tensor, starts: torch.Tensor, window: WindowConfig, canvas: tuple[int, int]
) -> torch.Tensor:
    """The inputs (B, 5, T, H, W) float32 of one trial's windows, gathered on the trial's device.

    Args:
        video: (L, h, w), grey levels.
        states: (L, 4), behavior and pupil centre.
        starts: (B,) first frame of each window.
        window: the stretch of frames that the model sees.
        canvas: H and W, pixels.

    Raises:
        DataError: the frames are larger than the canvas.
    """
    frames = starts.to(video.device)[:, None] + window.step * torch.arange(window.frames, device=video.device)
    planes = states[frames].transpose(1, 2)[..., None, None]
    return _stack(video[frames], planes, canvas)
