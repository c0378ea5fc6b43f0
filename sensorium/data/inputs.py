"""The model's input tensor, put together on the device from compact samples.

B windows, T frames of a window, L frames of a trial, h w pixels of a frame, H W of the canvas.
Channels: 0 the video, zero-padded and centred; 1-2 behavior, 3-4 pupil centre, each filling its plane
with the value at that frame. Nothing is normalised.
"""

import torch

from sensorium.config import WindowConfig
from sensorium.data.batch import Batch
from sensorium.errors import DataError

CHANNELS = 5
"""Channels of the input: one for the video, four planes of the animal's state."""


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
