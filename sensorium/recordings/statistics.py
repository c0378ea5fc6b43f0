"""Statistics over the training trials, per frame: meta/statistics/<modality>/all/<name>.npy."""

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from sensorium.mice import MODALITIES, STATISTICS

Float64Array = npt.NDArray[np.float64]

_BLOCK_BYTES = 1 << 24  # memory for the stacked trials, of which several copies are made


def summarise(stacked: Float64Array) -> dict[str, Float64Array]:
    """Statistics over the first axis, NaN left out; NaN where no trial has a value.

    Args:
        stacked: (trials, ...).

    Returns:
        The arrays (...) by name of `STATISTICS`.
    """
    ranked = np.sort(stacked, axis=0)  # NaN sorts to the end
    valid = np.isfinite(ranked)
    count = valid.sum(axis=0)
    shown = np.maximum(count, 1)
    mean = _sum(np.where(valid, ranked, 0)) / shown
    variance = _sum(np.where(valid, np.square(ranked - mean), 0)) / shown
    places = {"min": np.zeros_like(count), "max": shown - 1, "low": (shown - 1) // 2, "high": shown // 2}
    picked = {name: np.take_along_axis(ranked, place[None], axis=0)[0] for name, place in places.items()}
    results = {
        "mean": mean,
        "std": np.sqrt(variance),
        "min": picked["min"],
        "max": picked["max"],
        "median": (picked["low"] + picked["high"]) / 2,
    }
    return {name: np.where(count > 0, results[name], np.nan) for name in STATISTICS}


def _sum(stacked: Float64Array) -> Float64Array:
    """Sum over the first axis, row after row: `np.sum` may add in another order on another processor."""
    return functools.reduce(np.add, stacked)


def _block(files: list[Path], first: int, count: int, header: int) -> Float64Array:
    """Values (trials, count) of every file, flat; read, as pages of a mapped file would count as memory.

    Args:
        files: float64 arrays of one shape.
        first: position of the first value.
        count: number of values, fewer at the end.
        header: bytes before the values.
    """
    return np.stack([np.fromfile(file, np.float64, count, offset=header + 8 * first) for file in files])


def write_statistics(folder: Path, trials: list[int]) -> None:
    """Summarise the training trials of a written mouse, in memory that does not grow with their number."""
    for modality in MODALITIES:
        files = [folder / "data" / modality / f"{trial}.npy" for trial in trials]
        shown = open_memmap(files[0], mode="r")
        count = max(1, _BLOCK_BYTES // (shown.itemsize * len(files)))
        blocks = [summarise(_block(files, first, count, shown.offset)) for first in range(0, shown.size, count)]
        target = folder / "meta" / "statistics" / modality / "all"
        target.mkdir(parents=True)
        for name in STATISTICS:
            np.save(target / f"{name}.npy", np.concatenate([block[name] for block in blocks]).reshape(shown.shape))
