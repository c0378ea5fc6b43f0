"""Reads windows from stores and collates them: what both training and validation data stand on.

B windows, T frames of a window, h w pixels, N neurons of one mouse.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sensorium.config import WindowConfig
from sensorium.data.augmentation import NO_BOX, Box
from sensorium.data.inputs import Batch, Targets, frame_offset
from sensorium.data.store import MouseStore, common_frame

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """Where a window lies."""

    trial: int
    start: int


@dataclass(frozen=True)
class Sample:
    """One window, its partner (itself without CutMix), and the box that shows the partner."""

    mouse: int
    own: Place
    partner: Place
    box: Box


class WindowReader:
    """Reads samples of several mice into batches."""

    def __init__(self, stores: Sequence[MouseStore], window: WindowConfig, canvas: tuple[int, int] | None) -> None:
        self._stores = list(stores)
        self._window = window
        self._frame = common_frame(stores)
        self._canvas = canvas or self._frame
        self._dtype = np.result_type(*(store.frame_dtype for store in stores))
        self._offset = frame_offset(self._frame, self._canvas)

    def _view(self, name: str, mouse: int, place: Place) -> npt.NDArray[np.generic]:
        """Every step-th frame of a window, without a copy."""
        stop = place.start + self._window.width
        return self._stores[mouse].view(name, place.trial, place.start, stop)[:: self._window.step]

    def _state(self, mouse: int, place: Place, out: Float32Array) -> None:
        """Fill (4, T)."""
        for rows, name in ((slice(0, 2), "behavior"), (slice(2, 4), "pupil_center")):
            out[rows] = self._view(name, mouse, place).T

    def _frames(self, sample: Sample, out: npt.NDArray[np.generic]) -> None:
        """Fill (T, h, w); the box shows the partner."""
        out[...] = self._view("videos", sample.mouse, sample.own)
        if sample.box != NO_BOX:
            rows, columns = (
                slice(max(first - offset, 0), max(last - offset, 0))
                for first, last, offset in zip(sample.box[:2], sample.box[2:], self._offset, strict=True)
            )
            out[:, rows, columns] = self._view("videos", sample.mouse, sample.partner)[:, rows, columns]

    def _responses(self, sample: Sample, out: Float32Array) -> None:
        """Fill (T, N): relu, mixed by area."""
        share = np.float32(sample.box.share(self._canvas))
        self._weighted(sample.mouse, sample.own, np.float32(1) - share, out)
        if share > 0:
            partner = np.empty_like(out)
            self._weighted(sample.mouse, sample.partner, share, partner)
            np.add(out, partner, out=out)

    def _weighted(self, mouse: int, place: Place, weight: np.float32, out: Float32Array) -> None:
        view = self._view("responses", mouse, place)
        if weight == 1:
            out[...] = view
        else:
            np.multiply(view, weight, out=out)
        if not self._stores[mouse].non_negative:
            np.maximum(out, 0, out=out)

    def _targets(self, samples: Sequence[Sample]) -> dict[int, Targets]:
        mice = np.array([sample.mouse for sample in samples])
        sizes = [self._window.frames * self._stores[sample.mouse].neurons for sample in samples]
        # One piece of memory for all mice: it is mapped in huge pages, and crosses to another process as one.
        buffer = np.empty(sum(sizes), dtype=np.float32)
        shared, first, targets = torch.from_numpy(buffer), 0, {}
        for mouse in np.unique(mice).tolist():
            rows = np.flatnonzero(mice == mouse)
            shape = (len(rows), self._window.frames, self._stores[mouse].neurons)
            last = first + math.prod(shape)
            for row, out in zip(rows.tolist(), buffer[first:last].reshape(shape), strict=True):
                self._responses(samples[row], out)
            # Time-major as in the store; the transpose is a view, so nothing is shuffled in memory.
            responses = shared[first:last].view(shape).transpose(1, 2)
            targets[mouse] = Targets(torch.from_numpy(rows), responses)
            first = last
        return targets

    def read(self, samples: Sequence[Sample]) -> Batch:
        """Collate samples.

        Raises:
            DataError: a chunk of a store is missing or damaged.
        """
        frames = np.empty((len(samples), self._window.frames, *self._frame), dtype=self._dtype)
        states = np.empty((len(samples), 2, 4, self._window.frames), dtype=np.float32)
        for position, sample in enumerate(samples):
            self._frames(sample, frames[position])
            self._state(sample.mouse, sample.own, states[position, 0])
            states[position, 1] = states[position, 0]
            if sample.box != NO_BOX:
                self._state(sample.mouse, sample.partner, states[position, 1])
        return Batch(
            torch.from_numpy(frames),
            torch.from_numpy(states),
            torch.tensor([sample.box for sample in samples], dtype=torch.int64),
            torch.tensor([sample.mouse for sample in samples], dtype=torch.int64),
            self._targets(samples),
        )
