"""Writes raw mice in the competition's format, the one that `sensorium.recordings.raw` reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sensorium.mice import MODALITIES


def write_trial(folder: Path, trial: int, arrays: Mapping[str, npt.NDArray[Any]], padded_frames: int) -> None:
    """Write one trial of a mouse, its end padded with NaN.

    Args:
        folder: the mouse's folder.
        trial: index of the trial.
        arrays: by modality, time last: videos (H, W, L), responses (N, L), behavior and pupil_center (2, L).
        padded_frames: length of the time axis of every file, frames.
    """
    for modality in MODALITIES:
        array = arrays[modality]
        padded = np.full((*array.shape[:-1], padded_frames), np.nan)
        padded[..., : array.shape[-1]] = array
        path = folder / "data" / modality / f"{trial}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, padded)


def write_meta(
    folder: Path, tiers: Sequence[str], unit_ids: npt.NDArray[np.uint32], coordinates: npt.NDArray[np.float64]
) -> None:
    """Write what is known of trials and neurons.

    Args:
        folder: the mouse's folder.
        tiers: tier of every trial.
        unit_ids: (N,) identifiers of the neurons.
        coordinates: (N, 3) positions of the neurons, micrometres.
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
