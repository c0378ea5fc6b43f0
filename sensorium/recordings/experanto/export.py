"""Writes a mouse's store as one Experanto session, trial by trial, in memory that one trial needs.

All signals are sampled at 30 Hz; the trials follow each other without a pause, since a store does not know
when they were shown. What other readers do not need is in keys and files that they ignore: `padded_frames`,
`mouse` and `mouse_set` of screen/meta.yml, `labelled` of a trial, responses/meta/unit_ids.npy and
cell_motor_coordinates.npy. L frames of a trial, H W pixels, N neurons.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from sensorium.data.store import MouseStore
from sensorium.mice import FRAMES_PER_SECOND

SIGNALS = {
    "eye_tracker": ["pupil dilation", "pupil centre x", "pupil centre y"],
    "treadmill": ["running speed"],
}
"""Names of the signals of a session's behaviour, in the order of their columns."""


class _Moments:
    """Mean and standard deviation over the first axis of blocks that come one after another (Chan et al. 1979)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: Any = 0.0
        self._squares: Any = 0.0

    def add(self, block: npt.NDArray[Any]) -> None:
        if not len(block):
            return
        values = block.astype(np.float64)
        mean = values.mean(axis=0)
        total = self._count + len(values)
        delta = mean - self._mean
        self._squares = (
            self._squares + np.square(values - mean).sum(axis=0) + delta**2 * (self._count * len(values) / total)
        )
        self._mean = self._mean + delta * (len(values) / total)
        self._count = total

    def save(self, folder: Path, shape: tuple[int, ...]) -> None:
        """Write means.npy and stds.npy; mean 0 and deviation 1 where there was no value."""
        none = self._count == 0
        np.save(folder / "means.npy", np.zeros(shape) if none else self._mean)
        np.save(folder / "stds.npy", np.ones(shape) if none else np.sqrt(self._squares / self._count))


def export_session(store: MouseStore, folder: Path, advance: Callable[[], None]) -> None:
    """Write a store as one session.

    Args:
        store: the mouse.
        folder: an existing, empty folder.
        advance: called once per trial.

    Raises:
        DataError: a chunk of the store is missing or damaged.
    """
    signals = {"responses": store.neurons, **{device: len(names) for device, names in SIGNALS.items()}}
    frames = int(store.lengths.sum())
    timestamps = np.arange(frames) / FRAMES_PER_SECOND
    for device in ("screen", *signals):
        (folder / device / "meta").mkdir(parents=True)
        np.save(folder / device / "timestamps.npy", timestamps)
    (folder / "screen" / "data").mkdir()
    moments = {device: _Moments() for device in ("screen", *signals)}
    with ExitStack() as stack:
        streams = {device: stack.enter_context((folder / device / "data.mem").open("wb")) for device in signals}
        first = 0
        for trial in range(store.trials):
            video = store.video(trial)
            _write_trial(folder / "screen", store, trial, first, video)
            first += len(video)
            blocks = {"screen": video, **_signals(store, trial)}
            for device, stream in streams.items():
                stream.write(np.ascontiguousarray(blocks[device], "<f4").tobytes())
            for device, block in blocks.items():
                if store.tiers[trial] == "train" and (device != "responses" or store.labels[trial]):
                    moments[device].add(block)
            advance()
    for device, count in signals.items():
        moments[device].save(folder / device / "meta", (count,))
        _write_meta(folder / device, timestamps, count)
    moments["screen"].save(folder / "screen" / "meta", store.frame_shape)
    np.save(folder / "responses" / "meta" / "unit_ids.npy", store.unit_ids)
    np.save(folder / "responses" / "meta" / "cell_motor_coordinates.npy", store.coordinates)
    _write_yaml(
        folder / "screen" / "meta.yml",
        {
            "modality": "screen",
            "frame_rate": FRAMES_PER_SECOND,
            "mouse": store.name,
            "mouse_set": store.mouse_set,
            "padded_frames": len(store.statistics("behavior", "mean")),
        },
    )


def _signals(store: MouseStore, trial: int) -> dict[str, npt.NDArray[np.float32]]:
    """Time-major signals (L, signals) by device; responses that are no data are zero, as in the competition."""
    dilation, speed, x, y = store.states(trial).T
    return {
        "responses": store.responses(trial),
        "eye_tracker": np.stack([dilation, x, y], axis=1),
        "treadmill": speed[:, None],
    }


def _write_trial(screen: Path, store: MouseStore, trial: int, first: int, video: npt.NDArray[Any]) -> None:
    np.save(screen / "data" / f"{trial:05d}.npy", video)
    _write_yaml(
        screen / "meta" / f"{trial:05d}.yml",
        {
            "modality": "video",
            "first_frame_idx": first,
            "num_frames": len(video),
            "image_size": list(store.frame_shape),
            "tier": str(store.tiers[trial]),
            "labelled": bool(store.labels[trial]),
            "file_format": ".npy",
            "encoded": False,
        },
    )


def _write_meta(folder: Path, timestamps: npt.NDArray[np.float64], signals: int) -> None:
    meta: dict[str, Any] = {
        "modality": "sequence",
        "start_time": float(timestamps[0]),
        "end_time": float(timestamps[-1]),
        "sampling_rate": FRAMES_PER_SECOND,
        "n_signals": signals,
        "n_timestamps": len(timestamps),
        "dtype": "float32",
        "is_mem_mapped": True,
        "phase_shift_per_signal": False,
    }
    if folder.name in SIGNALS:
        meta["signals"] = SIGNALS[folder.name]
    _write_yaml(folder / "meta.yml", meta)


def _write_yaml(path: Path, value: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
