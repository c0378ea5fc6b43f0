"""Which windows an epoch shows, as a pure function of (seed, epoch).

All draws of an epoch are made at once, so that sample i is the same whoever asks for it: whatever the
number of workers, of processes, or the batch from which a training continues.
S samples of an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sensorium import seeding
from sensorium.config import WindowConfig
from sensorium.data.augmentation import NO_BOX, Augmentation, Box, Draws, cut_box
from sensorium.data.inputs import starts_count

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TrialPool:
    """Trials of one mouse from which windows are drawn."""

    trials: Integers
    """(n,) indices of the trials."""
    starts: Integers
    """(n,) positions of the window in each."""

    @classmethod
    def of(cls, trials: Integers, lengths: Integers, window: WindowConfig) -> "TrialPool":
        """Those of the trials that are long enough.

        Args:
            trials: candidates.
            lengths: valid frames (trials,) of all trials of the mouse.
            window: the stretch of frames that the model sees.
        """
        starts = np.array([starts_count(int(lengths[trial]), window) for trial in trials], dtype=np.int64)
        return cls(trials[starts > 0], starts[starts > 0])

    def draw(self, trial: Reals, start: Reals) -> tuple[Integers, Integers]:
        """Trials and starts chosen by uniform numbers in [0, 1)."""
        chosen = _floor(trial * len(self.trials))
        return self.trials[chosen], _floor(start * self.starts[chosen])


def _floor(values: Reals) -> Integers:
    return np.floor(values).astype(np.int64)


@dataclass(frozen=True)
class EpochPlan:
    """Every sample of one epoch."""

    mice: Integers
    """(S,) index of the mouse; every mouse has an equal share."""
    trials: Integers
    """(2, S) trial of the window and of its CutMix partner."""
    starts: Integers
    """(2, S) first frame of either."""
    boxes: Draws | None
    """None where no sample is mixed."""

    def box(self, index: int, canvas: tuple[int, int]) -> Box:
        """The box of one sample, empty where it is not mixed."""
        if self.boxes is None or not self.boxes.mixed[index]:
            return NO_BOX
        row, column = self.boxes.centres[:, index]
        return cut_box(float(self.boxes.shares[index]), int(row), int(column), canvas)


def plan_epoch(
    seed: int,
    epoch: int,
    samples: int,
    pools: Sequence[TrialPool],
    augmentation: Augmentation | None,
    canvas: tuple[int, int],
) -> EpochPlan:
    """Draw an epoch.

    Args:
        seed: the training's seed.
        epoch: counted from 0.
        samples: number of samples, S.
        pools: trials to draw from, by mouse; none is empty.
        augmentation: draws the boxes, where samples are mixed.
        canvas: height and width, pixels.
    """
    order = seeding.generator(seed, "mice", epoch).permutation(samples)
    mice = order % len(pools)
    draws = seeding.generator(seed, "windows", epoch).random((2, 2, samples))
    trials, starts = np.empty((2, samples), dtype=np.int64), np.empty((2, samples), dtype=np.int64)
    for mouse, pool in enumerate(pools):
        own = mice == mouse
        trials[:, own], starts[:, own] = pool.draw(draws[0][:, own], draws[1][:, own])
    random = seeding.generator(seed, "cutmix", epoch)
    boxes = None if augmentation is None else augmentation.draw(random, samples, canvas)
    return EpochPlan(mice, trials, starts, boxes)
