"""Predictions on disk: <folder>/<mouse>/<trial>.npy, float32 or float16 (neurons, frames), and what made them.

A folder is written trial by trial in a working place outside every stage's outputs, named after all
that decides its content, and published at once when complete: a killed run goes on where it was.
"""

import io
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sensorium import files
from sensorium.config import Storage
from sensorium.errors import PredictionError
from sensorium.recovery import later_remedy, remedy

PROVENANCE_FILE = "provenance.json"
"""What made the predictions: digests of weights and stores, window, precision, code; never a date or run."""
_CHECKSUMS = "checksums"
"""Key of that file: CRC-32 of every trial's file, by mouse and trial; predictions of earlier versions have none."""
_REMEDY = "Predict again: `sensorium predict -e <experiment> -s <split>`, or `dvc repro`."

Float32Array = NDArray[np.float32]


class Predictions:
    """A published folder of predictions, read trial by trial."""

    def __init__(
        self, folder: Path, provenance: dict[str, Any], checksums: Mapping[str, Mapping[str, int]] | None = None
    ) -> None:
        self.folder = folder
        self.provenance = provenance
        self._checksums = checksums or {}

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a folder.

        Raises:
            PredictionError: there is no such folder, or nothing says what made it.
        """
        if not folder.is_dir():
            raise PredictionError(f"{folder}: there are no predictions.", remedy(folder, _REMEDY))
        provenance = files.read_json(folder / PROVENANCE_FILE, PredictionError, later_remedy(folder, _REMEDY))
        if not isinstance(provenance, dict):
            raise PredictionError(f"{folder / PROVENANCE_FILE}: not a JSON object.", remedy(folder, _REMEDY))
        checksums = provenance.pop(_CHECKSUMS, {})
        if not isinstance(checksums, dict) or not all(isinstance(trials, dict) for trials in checksums.values()):
            raise PredictionError(f"{folder / PROVENANCE_FILE}: {_CHECKSUMS} is damaged.", remedy(folder, _REMEDY))
        return cls(folder, provenance, checksums)

    def trials(self, mouse: str) -> list[int]:
        """Predicted trials of a mouse, ascending; none for an unknown mouse."""
        return sorted(int(path.stem) for path in (self.folder / mouse).glob("*.npy") if path.stem.isdigit())

    def load(self, mouse: str, trial: int, shape: tuple[int, int]) -> Float32Array:
        """Read one trial.

        Args:
            mouse: its name.
            trial: its index in the mouse.
            shape: the neurons and valid frames that the trial has.

        Returns:
            (N, L) responses as published, not normalised.

        Raises:
            PredictionError: the trial is missing, damaged, of another shape or type, or not finite.
        """
        path = _trial_file(self.folder, mouse, trial)
        try:
            files.map_npy(path)
            content = path.read_bytes()
            prediction = np.load(io.BytesIO(content), allow_pickle=False)
        except FileNotFoundError:
            raise PredictionError(f"{path}: the prediction of this trial is missing.", remedy(path, _REMEDY)) from None
        except (ValueError, EOFError, OSError) as fault:
            raise PredictionError(f"{path}: not a readable .npy file ({fault}).", remedy(path, _REMEDY)) from fault
        checked = _check(prediction, shape, str(path))
        checksum = zlib.crc32(content)
        if self._checksums.get(mouse, {}).get(str(trial), checksum) != checksum:
            raise PredictionError(f"{path}: changed since it was predicted, or damaged.", remedy(path, _REMEDY))
        return checked


def _trial_file(folder: Path, mouse: str, trial: int) -> Path:
    return folder / mouse / f"{trial}.npy"


def _check(prediction: NDArray[Any], shape: tuple[int, int], place: str) -> Float32Array:
    if prediction.shape != shape:
        raise PredictionError(
            f"{place}: shape {prediction.shape}, but the trial has {shape[0]} neurons and {shape[1]} frames.",
            f"The prediction is of another mouse, trial or version of the data. {_REMEDY}",
        )
    if prediction.dtype not in (np.float32, np.float16):
        raise PredictionError(f"{place}: type {prediction.dtype} instead of float32 or float16.", _REMEDY)
    if not np.isfinite(prediction).all():
        raise PredictionError(
            f"{place}: {np.count_nonzero(~np.isfinite(prediction))} values are NaN or infinite.",
            f"Check the weights and `prediction.precision`. {_REMEDY}",
        )
    return prediction.astype(np.float32, copy=False)


def write_prediction(
    work: Path, mouse: str, trial: int, prediction: Float32Array, storage: Storage = "float32"
) -> None:
    """Write one trial atomically.

    Args:
        work: a folder that stands for exactly one content, such as one named after `files.digest_json`.
        mouse: its name.
        trial: its index in the mouse.
        prediction: (N, L).
        storage: type on disk.

    Raises:
        PredictionError: values are NaN or infinite, or too large for the type on disk.
    """
    neurons, frames = prediction.shape
    checked = _check(prediction, (neurons, frames), f"{mouse}, trial {trial}")
    if np.abs(checked).max(initial=0) > np.finfo(storage).max:
        raise PredictionError(
            f"{mouse}, trial {trial}: a value of {np.abs(checked).max():g} does not fit into {storage}.",
            "Set prediction.storage to float32.",
        )
    with files.atomic_file(_trial_file(work, mouse, trial)) as partial, partial.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(checked, dtype=storage), allow_pickle=False)


def write_provenance(folder: Path, provenance: dict[str, Any]) -> None:
    """Write what made the predictions, and the checksum of each of them, into a folder that holds them all.

    Args:
        folder: holds <mouse>/<trial>.npy.
        provenance: plain JSON.
    """
    checksums = {
        mouse.name: {trial.stem: zlib.crc32(trial.read_bytes()) for trial in sorted(mouse.glob("*.npy"))}
        for mouse in sorted(path for path in folder.iterdir() if path.is_dir())
    }
    files.write_json(folder / PROVENANCE_FILE, provenance | {_CHECKSUMS: checksums})


def publish_predictions(work: Path, folder: Path, provenance: dict[str, Any]) -> None:
    """Move all trials to their final folder at once, and remove the working folder.

    Args:
        work: the folder in which they were written.
        folder: the final name; what is there is replaced.
        provenance: content of `PROVENANCE_FILE`; plain JSON.
    """
    for unfinished in work.rglob(f"*{files.PARTIAL_SUFFIX}"):  # of writers that were killed
        unfinished.unlink()
    with files.atomic_folder(folder) as partial:
        for mouse in sorted(path for path in work.iterdir() if path.is_dir()):
            shutil.move(mouse, partial / mouse.name)
        write_provenance(partial, provenance)
    shutil.rmtree(work)
