"""Writes a raw mouse in the competition's format, as `sensorium.recordings.raw` describes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def write_trial(folder: Path, trial: int, arrays: Mapping[str, npt.NDArray[Any]], padded_frames: int) -> None:
    """Write one trial as float64, NaN after its last frame.

    Args:
        folder: the mouse's folder.
        trial: index of the trial, its file name.
        arrays: valid frames by modality, time last: videos (H, W, L), responses (N, L), the others (2, L).
        padded_frames: length of the time axis on disk, frames.
    """
    for modality, array in arrays.items():
        padded = np.full((*array.shape[:-1], padded_frames), np.nan)
        padded[..., : array.shape[-1]] = array
        path = folder / "data" / modality / f"{trial}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, padded)


def write_meta(folder: Path, tiers: Sequence[str], unit_ids: npt.NDArray[Any], coordinates: npt.NDArray[Any]) -> None:
    """Write the tables of trials and neurons.

    Args:
        folder: the mouse's folder.
        tiers: tier of every trial.
        unit_ids: identifiers (N,) of the neurons.
        coordinates: their positions (N, 3), micrometres.
    """
    tables = {
        "meta/trials/tiers": np.array(tiers),
        "meta/trials/trial_idx": np.arange(len(tiers)),
        "meta/neurons/unit_ids": unit_ids,
        "meta/neurons/cell_motor_coordinates": coordinates,
    }
    for name, table in tables.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, table)
