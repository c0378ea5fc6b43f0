"""Sliding-window prediction: every position of the window, averaged where windows overlap.

As published: the window is placed at every frame at which it fits into the trial; each prediction is added
at the window's frames, and a frame's sum is divided by the number of windows that cover it. Frames near
the ends are covered by fewer windows, none is extrapolated.

L frames of a trial, T frames of a window, B windows, N neurons of one mouse.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from sensorium.config import Precision, WindowConfig
from sensorium.data.inputs import frame_indices, sliding_starts, starts_count, trial_windows
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, PredictionError
from sensorium.inference.member import Member

_AUTOCAST: dict[Precision, torch.dtype] = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}

_CPU_ROOM = 1 << 27
"""Bytes of the widest tensor at which a processor is fastest: larger ones are neither cached nor reused."""
_GPU_SHARE = 8
"""A GPU's memory over that of the widest tensor: a block holds three of its size, models lie there as well."""
_SLOW = (
    "prediction.precision: 16-mixed is right but slow without a GPU: most processors have no fp16 arithmetic, "
    "and take ten times as long as for 32-true. bf16-mixed is the fast choice."
)


def prediction_device(accelerator: str, precision: Precision) -> str:
    """The type of device that `runtime.accelerator` asks for; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: a GPU is asked for and none is there.
    """
    gpu = torch.cuda.is_available()
    if accelerator == "cuda" and not gpu:
        raise ConfigError(
            "runtime.accelerator: cuda is asked for, but PyTorch sees no GPU.",
            "Set runtime.accelerator to auto or cpu, or make the GPU visible (nvidia-smi, `make GPUS=all`).",
        )
    if accelerator != "cpu" and gpu:
        return "cuda"
    if precision == "16-mixed":
        Console(stderr=True).print(_SLOW, highlight=False, soft_wrap=True)
    return "cpu"


@dataclass(frozen=True)
class TrialInput:
    """What the model sees of one trial, read once for all models."""

    name: str
    """Mouse and trial, for messages."""
    video: torch.Tensor
    """(L, h, w) grey levels."""
    states: torch.Tensor
    """(L, 4) float32: behavior and pupil centre."""

    @classmethod
    def read(cls, store: MouseStore, trial: int) -> Self:
        """Read the valid frames of a trial."""
        video, states = torch.from_numpy(store.video(trial)), torch.from_numpy(store.states(trial))
        return cls(f"{store.name}, trial {trial}", video, states)

    def to(self, device: torch.device) -> Self:
        """The trial on another device."""
        return type(self)(self.name, self.video.to(device), self.states.to(device))


class _Span(NamedTuple):
    """Windows of one trial: those that start at frames `first` to `last` - 1."""

    trial: int
    first: int
    last: int


def coverage(length: int, window: WindowConfig) -> NDArray[np.int64]:
    """(L,) number of windows that cover each frame of a trial."""
    covered = np.zeros(length, np.int64)
    for start in sliding_starts(length, window):
        covered[frame_indices(int(start), window)] += 1
    return covered


def trial_groups(lengths: Sequence[int], window: WindowConfig, batch_size: int) -> list[list[int]]:
    """Split trials into groups that are predicted together: the fewest in a row that fill a batch.

    A function of the lengths alone, so that a resumed prediction meets the same batches.

    Args:
        lengths: valid frames of each trial.
        window: the stretch of frames that the model sees.
        batch_size: windows in one forward pass.

    Returns:
        Positions in `lengths`.
    """
    groups: list[list[int]] = []
    windows = batch_size
    for position, length in enumerate(lengths):
        if windows >= batch_size:
            groups.append([])
            windows = 0
        groups[-1].append(position)
        windows += starts_count(length, window)
    return groups


def check_length(length: int, name: str, window: WindowConfig) -> None:
    """Refuse a trial in which some frame is covered by no window.

    Raises:
        PredictionError: the trial is too short; the published code divides zero by zero there.
    """
    if length < window.shortest_trial:
        raise PredictionError(
            f"{name}: {length} frames are too short, the window needs {window.shortest_trial} to cover every frame.",
            "Give the trial the tier `none`, or choose a shorter window in params.yaml and train with it.",
        )


class SlidingPredictor:
    """Mean prediction of several models for trials of one mouse."""

    def __init__(self, members: Sequence[Member], batch_size: int, precision: Precision, device: torch.device) -> None:
        """Prepare the prediction.

        Args:
            members: models of one mouse, all of the same weight, their windows and canvases
                equal; those that do not lie on `device` are moved there for their turn.
            batch_size: most windows in one forward pass; fewer are taken where they do not fit, or in those parts of it
                where they do not.
            precision: arithmetic of the forward pass; sums are float32 in any case.
            device: where to compute.
        """
        self.members = members
        self.window = members[0].window
        self.canvas = members[0].canvas
        memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
        room = _CPU_ROOM if memory is None else int(memory) // _GPU_SHARE
        at_once = min(batch_size, max(1, room // members[0].window_bytes))
        self.device = device
        self._autocast = _AUTOCAST.get(precision)
        forwards = [member.cpu_forward(self._autocast, at_once) if memory is None else None for member in members]
        self.batch_size = at_once if None in forwards else batch_size
        self._forwards = [forward or member for forward, member in zip(forwards, members, strict=True)]

    @torch.inference_mode()
    def predict(self, trials: Sequence[TrialInput]) -> list[NDArray[np.float32]]:
        """Predict a group of trials.

        Args:
            trials: of one mouse; their windows share batches.

        Returns:
            (N, L) of each trial.

        Raises:
            PredictionError: a trial is shorter than `WindowConfig.shortest_trial`.
        """
        for trial in trials:
            check_length(len(trial.video), trial.name, self.window)
        inputs = [trial.to(self.device) for trial in trials]
        sums = [torch.zeros((self.members[0].neurons, len(trial.video)), device=self.device) for trial in trials]
        for member, forward in zip(self.members, self._forwards, strict=True):
            with member.resident(self.device):
                for batch in self._batches([len(trial.video) for trial in trials]):
                    self._predict_batch(forward, batch, inputs, sums)
        return [self._mean(total) for total in sums]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[_Span]]:
        """The windows of all trials in batches of nearly one size."""
        counts = [starts_count(length, self.window) for length in lengths]
        ends = list(itertools.accumulate(counts))
        batches = -(-ends[-1] // self.batch_size)
        edges = [ends[-1] * number // batches for number in range(batches + 1)]
        for low, high in itertools.pairwise(edges):
            spans = [
                _Span(trial, max(low, end - count) - (end - count), min(high, end) - (end - count))
                for trial, (count, end) in enumerate(zip(counts, ends, strict=True))
            ]
            yield [span for span in spans if span.first < span.last]

    def _predict_batch(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor],
        batch: Sequence[_Span],
        inputs: Sequence[TrialInput],
        sums: Sequence[torch.Tensor],
    ) -> None:
        """Add one model's prediction of one batch to the sums (N, L) of its trials."""
        windows = torch.cat([self._assemble(inputs[span.trial], span) for span in batch])
        with torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None):
            predicted = forward(windows)
        parts = torch.split(predicted.float(), [span.last - span.first for span in batch])
        for span, part in zip(batch, parts, strict=True):
            self._add(sums[span.trial], part, span)

    def _assemble(self, trial: TrialInput, span: _Span) -> torch.Tensor:
        starts = torch.arange(span.first, span.last, device=self.device)
        return trial_windows(trial.video, trial.states, starts, self.window, self.canvas)

    def _add(self, total: torch.Tensor, predicted: torch.Tensor, span: _Span) -> None:
        """Add predictions (B, N, T) of the windows of a span to the sums (N, L).

        One slice per frame of the window: no frame is written twice at once, hence no atomics, hence the
        same bits every time on a device.
        """
        for position in range(self.window.frames):
            offset = position * self.window.step
            total[:, span.first + offset : span.last + offset] += predicted[:, :, position].T

    def _mean(self, total: torch.Tensor) -> NDArray[np.float32]:
        covered = torch.from_numpy(coverage(total.shape[1], self.window)).to(total)
        mean: NDArray[np.float32] = (total / (covered * len(self.members))).cpu().numpy()
        return mean
