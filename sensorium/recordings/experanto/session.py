"""Turns an Experanto session into a raw mouse: trial by trial, in memory that does not grow with the session.

L frames of a trial at 30 Hz, H W pixels, N neurons.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sensorium.errors import DataError
from sensorium.mice import TIERS
from sensorium.recordings.experanto import sequence
from sensorium.recordings.experanto.screen import ScreenTrial, read_screen
from sensorium.recordings.raw import read_array
from sensorium.recordings.raw_writer import write_meta, write_trial
from sensorium.recordings.statistics import write_statistics

Float64Array = npt.NDArray[np.float64]

TIER_NAMES: dict[str, str] = {
    **{tier: tier for tier in TIERS},
    "": "none",
    "validation": "oracle",
    "val": "oracle",
    "test": "final_test_main",
    "live_test": "live_test_main",
    "final_test": "final_test_main",
}
"""Tier of the competition by the name that a session gives it; no name at all is an unusable trial."""


@dataclass(frozen=True)
class Choice:
    """What is taken from a session."""

    kinds: Sequence[str]
    """Modalities of the trials."""
    eye: tuple[int, int, int]
    """Columns of pupil dilation, pupil centre x and y in eye_tracker."""
    treadmill: int
    """Column of the running speed in treadmill."""
    tiers: Mapping[str, str]
    """Tier by the session's name, beside `TIER_NAMES`."""
    frame_size: tuple[int, int] | None
    """Rows and columns; those of the first trial where None."""


def find_sessions(folder: Path) -> list[Path]:
    """The session in `folder`, or those in folders directly below it.

    Raises:
        DataError: there is none.
    """
    if (folder / "screen").is_dir():
        return [folder]
    found = sorted(path.parent for path in folder.glob("*/screen") if path.is_dir())
    if not found:
        raise DataError(
            f"{folder}: no Experanto session in it.",
            "Name a folder with screen/ and responses/, or one of such folders.",
        )
    return found


class Session:
    """A session ready to be converted: everything but frames and signals has been read and checked."""

    def __init__(self, folder: Path, choice: Choice) -> None:
        """Read the metadata.

        Raises:
            DataError: a file is missing or unsound, a tier unknown, a signal not there, or there is no training trial.
        """
        self.folder = folder
        self.choice = choice
        meta, trials = read_screen(folder / "screen")
        self.trials = [trial for trial in trials if trial.kind in choice.kinds]
        self.left_out = len(trials) - len(self.trials)
        self.mouse_set = str(meta.get("mouse_set", "old"))
        self._responses = sequence.Sequence(folder / "responses")
        self._eye = self._device("eye_tracker", choice.eye)
        self._treadmill = self._device("treadmill", (choice.treadmill,))
        self.missing = [
            name for name, device in (("eye_tracker", self._eye), ("treadmill", self._treadmill)) if device is None
        ]
        self.tiers = [self._tier(trial) for trial in self.trials]
        if "train" not in self.tiers:
            raise DataError(
                f"{folder / 'screen' / 'meta'}: no usable trial of the tier train among {len(self.trials)}.",
                "Check that the signals cover the screen's times, or name the training tier with --tiers NAME=train.",
            )
        longest = max(len(trial.times) for trial in self.trials)
        padded = meta.get("padded_frames", longest)
        self.padded_frames = max(longest, padded if isinstance(padded, int) else longest)
        self.frame_size = choice.frame_size or self.trials[0].size

    @property
    def neurons(self) -> int:
        """Number of neurons, N."""
        return self._responses.signals

    @property
    def uncovered(self) -> int:
        """Trials that some signal does not cover; they are of the tier none."""
        return sum(not self._is_covered(trial) for trial in self.trials)

    def _device(self, name: str, columns: tuple[int, ...]) -> sequence.Sequence | None:
        if not (self.folder / name).is_dir():
            return None
        device = sequence.Sequence(self.folder / name)
        for column in columns:
            if not 0 <= column < device.signals:
                option = "--eye" if name == "eye_tracker" else "--treadmill"
                raise DataError(
                    f"{self.folder / name / 'meta.yml'}: n_signals: {device.signals}, there is no column {column}.",
                    f"Name the columns with {option}; the first is 0.",
                )
        return device

    def _is_covered(self, trial: ScreenTrial) -> bool:
        devices = [device for device in (self._responses, self._eye, self._treadmill) if device is not None]
        return not len(trial.times) or all(device.covers(trial.times) for device in devices)

    def _tier(self, trial: ScreenTrial) -> str:
        names = {**TIER_NAMES, **self.choice.tiers}
        if trial.tier not in names:
            raise DataError(
                f"{trial.meta.path}: tier: {trial.tier!r} is unknown.",
                f"Give `--tiers {trial.tier}=TIER` with one of: {', '.join(TIERS)}.",
            )
        usable = trial.kind != "invalid" and self._is_covered(trial)
        return names[trial.tier] if usable else "none"

    def _states(self, times: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Behavior and pupil centre, (2, L) each; zero where nothing was recorded."""
        zeros = np.zeros((3, len(times)))
        dilation, x, y = zeros if self._eye is None else self._eye.at(times)[:, list(self.choice.eye)].T
        speed = zeros[0] if self._treadmill is None else self._treadmill.at(times)[:, self.choice.treadmill]
        return np.stack([dilation, speed]), np.stack([x, y])

    def _neurons(self) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
        """Identifiers (N,) and positions (N, 3): numbers from 0 and zero where the session has none."""
        meta = self.folder / "responses" / "meta"
        tables: list[npt.NDArray[np.generic]] = []
        defaults = {"unit_ids": np.arange(self.neurons), "cell_motor_coordinates": np.zeros((self.neurons, 3))}
        for name, default in defaults.items():
            path = meta / f"{name}.npy"
            table = read_array(path) if path.exists() else default
            if table.shape != default.shape:
                raise DataError(
                    f"{path}: shape {table.shape}, expected {default.shape}.", "Correct the file, or remove it."
                )
            tables.append(table)
        return tables[0], tables[1]

    def write(self, folder: Path, advance: Callable[[], None]) -> None:
        """Fill a folder with the raw mouse.

        Args:
            folder: an existing, empty folder.
            advance: called once per trial.

        Raises:
            DataError: a file is missing or unsound; the folder is then incomplete.
        """
        for index, trial in enumerate(self.trials):
            times = trial.times
            behavior, pupil = self._states(times)
            arrays = {
                "videos": np.moveaxis(trial.frames(self.frame_size), 0, -1),
                "responses": self._responses.at(times).T,
                "behavior": behavior,
                "pupil_center": pupil,
            }
            write_trial(folder, index, arrays, self.padded_frames)
            advance()
        write_meta(folder, self.tiers, *self._neurons())
        write_statistics(folder, [index for index, tier in enumerate(self.tiers) if tier == "train"])
