"""Raw recordings as the competition publishes them: one folder per mouse, one .npy per trial and modality.

    <mouse>/data/{videos,responses,behavior,pupil_center}/<trial>.npy
    <mouse>/meta/neurons/{unit_ids,cell_motor_coordinates}.npy
    <mouse>/meta/trials/tiers.npy
    <mouse>/meta/statistics/<modality>/all/{mean,std,min,max,median}.npy

Everything is float64 with time as the last axis; after a trial's last frame it is NaN
(format: https://gin.g-node.org/pollytur/sensorium_2023_dataset, arXiv:2305.19654).
H W pixels, L frames with the padding, N neurons.
"""

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sensorium.errors import DataError
from sensorium.files import map_npy, read_npy
from sensorium.mice import MODALITIES, STATISTICS, TIERS

Float64Array = npt.NDArray[np.float64]

BEHAVIOR_CHANNELS = ("pupil dilation", "running speed")
"""Rows of `behavior`."""
RESTORE = "Restore the file, or remove the mouse's folder and run the command that provides it again."


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what NumPy raises on a damaged file into one message that names it."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: the file does not exist.", RESTORE) from None
    except PermissionError:
        raise DataError(f"{path}: your user may not read it.", "Give your user the right to read the file.") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, expected a .npy file.", RESTORE) from None
    except (ValueError, EOFError, OSError) as fault:
        raise DataError(f"{path}: truncated, or not a .npy file ({fault}).", RESTORE) from fault


def open_array(path: Path) -> npt.NDArray[Any]:
    """Map a .npy file: its dtype, shape and size are checked, its values not yet read.

    Raises:
        DataError: the file is missing, truncated, or no .npy file.
    """
    with _readable(path):
        return map_npy(path)  # np.load also takes archives and pickles


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read a .npy file whole, in one sequential read.

    Raises:
        DataError: the file is missing, truncated, or no .npy file.
    """
    with _readable(path):
        return read_npy(path)


def read_tiers(folder: Path) -> list[str]:
    """Tier of every trial of the mouse in `folder`; a trial's position is its file name.

    Raises:
        DataError: the file is missing or damaged, or names a tier that does not exist.
    """
    path = folder / "meta" / "trials" / "tiers.npy"
    array = read_array(path)
    if array.ndim != 1 or array.dtype.kind != "U" or array.size == 0:
        raise DataError(f"{path}: {array.dtype} of shape {array.shape}, expected one string per trial.", RESTORE)
    tiers = [str(tier) for tier in array]
    for trial, tier in enumerate(tiers):
        if tier not in TIERS:
            raise DataError(f"{path}: unknown tier {tier!r} of trial {trial}.", f"Known tiers: {', '.join(TIERS)}.")
    return tiers


def read_unit_ids(folder: Path) -> npt.NDArray[np.uint32]:
    """Identifiers (N,) of the neurons, in the order of the responses' rows.

    Raises:
        DataError: the file is missing or damaged, or is no list of unique unsigned integers.
    """
    path = folder / "meta" / "neurons" / "unit_ids.npy"
    array = read_array(path)
    if array.ndim != 1 or array.dtype.kind not in "ui" or array.size == 0:
        raise DataError(f"{path}: {array.dtype} of shape {array.shape}, expected one integer per neuron.", RESTORE)
    if int(array.min()) < 0 or int(array.max()) > np.iinfo(np.uint32).max:
        raise DataError(f"{path}: identifiers from {array.min()} to {array.max()} are no 32-bit integers.", RESTORE)
    if np.unique(array).size != array.size:
        raise DataError(f"{path}: identifiers occur more than once.", RESTORE)
    return array.astype(np.uint32)


def read_coordinates(folder: Path, neurons: int) -> Float64Array:
    """Positions (N, 3) of the neurons in motor coordinates, micrometres.

    Raises:
        DataError: the file is missing or damaged, or does not match the neurons.
    """
    path = folder / "meta" / "neurons" / "cell_motor_coordinates.npy"
    array = read_array(path)
    if array.shape != (neurons, 3) or array.dtype.kind not in "uif":
        raise DataError(
            f"{path}: {array.dtype} of shape {array.shape}, but unit_ids.npy lists {neurons} neurons: "
            f"expected shape {(neurons, 3)}.",
            RESTORE,
        )
    return array.astype(np.float64)


def first_nan(row: npt.NDArray[Any]) -> int:
    """Position of the first NaN, or the length where there is none."""
    missing = np.isnan(row)
    return int(missing.argmax()) if missing.any() else len(row)


def require_linked(folder: Path) -> None:
    """Refuse a folder that is, or lies in, a link to nowhere: most likely to a disk that is not mounted.

    Raises:
        DataError: naming the link and where it points.
    """
    for place in (folder, *folder.parents):
        if place.is_symlink() and not place.exists():
            raise DataError(
                f"{place}: a link to {place.readlink()}, which does not exist.",
                "Mount the disk that it points to, or remove the link.",
            )


def is_too_deep(folder: Path) -> bool:
    """Whether a mouse's folder holds the mouse's folder, as some programs unpack a zip."""
    return (folder / folder.name / "data").is_dir() and not (folder / "data").exists()


class RawMouse:
    """One mouse's raw recordings, read on demand; making one reads the meta files only."""

    def __init__(self, folder: Path, video_shape: tuple[int, int, int] | None = None) -> None:
        """Open a mouse.

        Args:
            folder: the mouse's folder; its name is the mouse's.
            video_shape: (H, W, L) that every video must have; that of trial 0 by default.

        Raises:
            DataError: the folder or a meta file is missing, damaged, or contradicts another.
        """
        self.folder = folder
        self.name = folder.name
        self._require_folders()
        self.tiers = read_tiers(folder)
        self.unit_ids = read_unit_ids(folder)
        self.coordinates = read_coordinates(folder, len(self.unit_ids))
        if video_shape is not None:
            self.video_shape = video_shape

    def _require_folders(self) -> None:
        require_linked(self.folder)
        if is_too_deep(self.folder):
            inner = self.folder / self.folder.name
            raise DataError(
                f"{inner}: the recordings lie one folder too deep.", f"Move what is in there to {self.folder}."
            )
        if not self.folder.is_dir():
            raise DataError(
                f"{self.folder}: the mouse's folder does not exist.",
                "Put the raw mouse there, point dataset.raw to where it lies, or provide it with "
                "`sensorium download` or `sensorium synthesize`.",
            )
        for modality in MODALITIES:
            if not self.modality(modality).is_dir():
                raise DataError(f"{self.modality(modality)}: the folder does not exist.", RESTORE)

    def modality(self, modality: str) -> Path:
        """Folder of one modality's trials."""
        assert modality in MODALITIES, modality
        return self.folder / "data" / modality

    def file(self, modality: str, trial: int) -> Path:
        """File of one trial."""
        return self.modality(modality) / f"{trial}.npy"

    @property
    def trials(self) -> int:
        """Number of trials."""
        return len(self.tiers)

    @property
    def neurons(self) -> int:
        """Number of neurons, N."""
        return len(self.unit_ids)

    @cached_property
    def video_shape(self) -> tuple[int, int, int]:
        """Rows, columns and padded frames (H, W, L) of every video.

        Raises:
            DataError: the first video cannot be read or has no three axes.
        """
        path = self.file("videos", 0)
        shape = open_array(path).shape
        if len(shape) != 3 or 0 in shape:
            raise DataError(f"{path}: shape {shape}, expected (height, width, frames).", RESTORE)
        return shape[0], shape[1], shape[2]

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns (H, W) of a frame, pixels."""
        return self.video_shape[:2]

    @property
    def padded_frames(self) -> int:
        """Length L of the time axis of every file, frames."""
        return self.video_shape[2]

    def shape(self, modality: str) -> tuple[int, ...]:
        """The shape that every trial of a modality must have."""
        if modality == "videos":
            return self.video_shape
        rows = self.neurons if modality == "responses" else 2
        return rows, self.padded_frames

    def _check(self, path: Path, array: npt.NDArray[Any], modality: str) -> None:
        expected = self.shape(modality)
        if array.shape != expected:
            reason = f"; unit_ids.npy lists {self.neurons} neurons" if modality == "responses" else ""
            raise DataError(f"{path}: shape {array.shape}, expected {expected}{reason}.", RESTORE)
        if array.dtype != np.float64:
            raise DataError(f"{path}: dtype {array.dtype}, expected float64.", RESTORE)

    def open(self, modality: str, trial: int) -> Float64Array:
        """One trial, mapped: shape, dtype and size on disk are checked, values are read when used.

        Raises:
            DataError: as `load`.
        """
        path = self.file(modality, trial)
        array = open_array(path)
        self._check(path, array, modality)
        return array

    def load(self, modality: str, trial: int) -> Float64Array:
        """One trial with its NaN tail: videos (H, W, L), responses (N, L), the others (2, L).

        Raises:
            DataError: the file is missing, truncated, of another dtype or shape, or does not match the neurons.
        """
        self.open(modality, trial)
        return read_array(self.file(modality, trial))

    def lengths(self, trial: int, labelled: bool) -> dict[str, int]:
        """Frames before the first NaN in the first row of each modality; withheld responses are left out."""
        modalities = [m for m in MODALITIES if labelled or m != "responses"]
        arrays = {modality: self.open(modality, trial) for modality in modalities}
        return {modality: first_nan(array[(0,) * (array.ndim - 1)]) for modality, array in arrays.items()}

    def valid_length(self, trial: int, labelled: bool) -> int:
        """Frames before the NaN tail: the shortest modality's, so that neither hash nor input sees a NaN.

        The modalities of a sound recording agree (`sensorium verify` checks it); the official tooling
        takes the shortest as well.

        Args:
            trial: index of the trial.
            labelled: whether its responses are data; withheld ones do not count.

        Raises:
            DataError: a file is unsound, or holds nothing but NaN.
        """
        lengths = self.lengths(trial, labelled)
        shortest = min(lengths, key=lambda modality: lengths[modality])
        if lengths[shortest] == 0:
            raise DataError(f"{self.file(shortest, trial)}: not one valid frame, all values are NaN.", RESTORE)
        return lengths[shortest]

    def statistics(self, modality: str, name: str) -> Float64Array:
        """A statistic over the training trials, per frame, in the shape of a trial.

        Raises:
            DataError: the file is missing, truncated, or of another dtype or shape.
        """
        assert name in STATISTICS, name
        path = self.folder / "meta" / "statistics" / modality / "all" / f"{name}.npy"
        array = read_array(path)
        self._check(path, array, modality)
        return array
