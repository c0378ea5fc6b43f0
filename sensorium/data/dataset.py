"""Windows for training and validation, read straight from the stores.

A sample is a few hundred kilobytes: uint8 frames, the animal's state, the responses of its own mouse.
The model's input is put together from it on the device (`sensorium.data.inputs`).
B windows, T frames of a window, h w pixels, N neurons of one mouse.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from sensorium import seeding
from sensorium.config import WindowConfig
from sensorium.data.augmentation import NO_BOX, Augmentation
from sensorium.data.folds import UNLABELLED, Folds
from sensorium.data.inputs import Batch, separate_starts
from sensorium.data.plan import EpochPlan, TrialPool, plan_epoch
from sensorium.data.reader import Place, Sample, WindowReader
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, DataError

PREFETCH = 4
"""Batches that each worker keeps ready."""


def _pool(store: MouseStore, trials: npt.NDArray[np.int64], window: WindowConfig, what: str) -> TrialPool:
    """The trials that are long enough, one at least."""
    if not len(trials):
        raise DataError(f"{store.path}: no {what}.", "Lower folds.count in params.yaml, or leave the mouse out.")
    pool = TrialPool.of(trials, store.lengths, window)
    if not len(pool.trials):
        raise DataError(
            f"{store.path}: every {what} is shorter than a window of {window.width} frames "
            f"(longest: {store.lengths[trials].max()}).",
            "Shorten window.frames or window.step in params.yaml, or leave the mouse out.",
        )
    return pool


class _BatchDataset(Dataset[Batch]):
    """Batches by index, as a DataLoader wants them."""

    def __init__(self, source: Callable[[int], Batch]) -> None:
        self._source = source

    def __getitem__(self, index: int) -> Batch:
        return self._source(index)


def _iterate(source: Callable[[int], Batch], indices: range, workers: int) -> Iterable[Batch]:
    """Batches in order, prepared by worker processes where there are any."""
    return DataLoader(
        _BatchDataset(source),
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=torch.cuda.is_available(),
        # A generator of its own: the loader must not draw from the global one, which the model's dropout uses.
        generator=torch.Generator(),
    )


class TrainingData:
    """Random windows of all mice, an equal share each, from all folds but one."""

    def __init__(
        self,
        stores: Sequence[MouseStore],
        folds: Folds,
        fold: int,
        window: WindowConfig,
        canvas: tuple[int, int],
        augmentation: Augmentation | None,
        samples_per_epoch: int,
        seed: int,
        most_trials: int | None = None,
    ) -> None:
        """Choose the trials; nothing is read yet.

        Args:
            stores: the mice, in the order of the model's readouts.
            folds: fold of every trial.
            fold: the fold left out.
            window: the stretch of frames that the model sees.
            canvas: height and width of the model's input, pixels.
            augmentation: draws which windows are mixed; None mixes none.
            samples_per_epoch: number of windows.
            seed: source of all draws.
            most_trials: trials per mouse that are drawn from all; None takes all.

        Raises:
            DataError: a mouse has no trial to train on that is as long as a window, frames differ in size
                between mice or do not fit the canvas.
        """
        self._reader = WindowReader(stores, window, canvas)
        self._canvas = canvas
        self._augmentation = augmentation
        self._samples = samples_per_epoch
        self._seed = seed
        self._pools = []
        for store in stores:
            assigned = folds.of(store.name, store.trials)
            trials = np.flatnonzero((assigned != fold) & (assigned != UNLABELLED))
            if most_trials is not None:
                order = seeding.generator(seed, "trials", crc32(store.name.encode()), fold).permutation(trials)
                trials = np.sort(order[:most_trials])
            self._pools.append(_pool(store, trials, window, f"training trial outside fold {fold}"))
        self._plans: dict[int, EpochPlan] = {}

    def _plan(self, epoch: int) -> EpochPlan:
        """The epoch's plan; the last one is kept."""
        if epoch not in self._plans:
            plan = plan_epoch(self._seed, epoch, self._samples, self._pools, self._augmentation, self._canvas)
            self._plans = {epoch: plan}
        return self._plans[epoch]

    def batches(self, batch_size: int) -> int:
        """Whole batches of an epoch; samples that do not fill one are left out.

        Raises:
            ConfigError: not even one batch.
        """
        if batch_size > self._samples:
            raise ConfigError(
                f"training.batch_size: {batch_size} is more than samples_per_epoch, {self._samples}.",
                "Lower batch_size or raise samples_per_epoch in params.yaml.",
            )
        return self._samples // batch_size

    def _sample(self, plan: EpochPlan, index: int) -> Sample:
        own, partner = (Place(int(plan.trials[i, index]), int(plan.starts[i, index])) for i in (0, 1))
        box = plan.box(index, self._canvas)
        return Sample(int(plan.mice[index]), own, own if box == NO_BOX else partner, box)

    def batch(self, epoch: int, index: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Batch:
        """One batch, a pure function of the seed and the arguments.

        Args:
            epoch: counted from 0.
            index: position of the batch in the epoch.
            batch_size: windows of the batch, over all ranks.
            rank: which process asks.
            world_size: number of processes; each gets a contiguous share of the batch.

        Raises:
            DataError: a chunk of a store is missing or damaged.
        """
        first, last = (index * batch_size + batch_size * part // world_size for part in (rank, rank + 1))
        plan = self._plan(epoch)
        return self._reader.read([self._sample(plan, sample) for sample in range(first, last)])

    def loader(
        self, epoch: int, first: int, batch_size: int, workers: int, rank: int = 0, world_size: int = 1
    ) -> Iterable[Batch]:
        """The batches of an epoch from `first` on, in order and the same whatever the workers.

        Args:
            epoch: counted from 0.
            first: position of the first batch wanted.
            batch_size: windows of a batch, over all ranks.
            workers: processes that read ahead; 0 reads in this one.
            rank: which process asks.
            world_size: number of processes.

        Raises:
            ConfigError: the epoch holds no whole batch, or a process would get no window.
        """
        count = self.batches(batch_size)
        if batch_size < world_size:
            raise ConfigError(
                f"training.batch_size: {batch_size} windows cannot be shared by {world_size} processes.",
                "Raise batch_size, or lower runtime.devices, in params.yaml.",
            )
        source = functools.partial(self.batch, epoch, batch_size=batch_size, rank=rank, world_size=world_size)
        return _iterate(source, range(first, count), workers)


class ValidationData:
    """Windows side by side over all trials of one fold, mouse by mouse."""

    def __init__(self, stores: Sequence[MouseStore], folds: Folds, fold: int, window: WindowConfig) -> None:
        """Choose the windows; nothing is read yet.

        Args:
            stores: the mice, in the order of the model's readouts.
            folds: fold of every trial.
            fold: the fold to validate on.
            window: the stretch of frames that the model sees.

        Raises:
            DataError: a mouse has no trial in the fold that is as long as a window.
        """
        self._reader = WindowReader(stores, window, None)
        self._samples: list[list[Sample]] = []
        for mouse, store in enumerate(stores):
            trials = np.flatnonzero(folds.of(store.name, store.trials) == fold)
            pool = _pool(store, trials, window, f"labelled trial in fold {fold}")
            self._samples.append(list(self._windows(mouse, store, pool, window)))

    @staticmethod
    def _windows(mouse: int, store: MouseStore, pool: TrialPool, window: WindowConfig) -> Iterator[Sample]:
        for trial in pool.trials.tolist():
            for start in separate_starts(int(store.lengths[trial]), window).tolist():
                place = Place(trial, start)
                yield Sample(mouse, place, place, NO_BOX)

    def windows(self, mouse: int) -> int:
        """Number of windows of a mouse."""
        return len(self._samples[mouse])

    def loader(self, batch_size: int, workers: int) -> Iterable[Batch]:
        """Batches in the order of mice, trials and time; each holds one mouse's windows only.

        Args:
            batch_size: most windows of a batch.
            workers: processes that read ahead; 0 reads in this one.
        """
        batches = [own[i : i + batch_size] for own in self._samples for i in range(0, len(own), batch_size)]
        return _iterate(functools.partial(self._read, batches), range(len(batches)), workers)

    def _read(self, batches: list[list[Sample]], index: int) -> Batch:
        return self._reader.read(batches[index])
