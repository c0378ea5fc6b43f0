"""A trained model in memory: movies in, responses of one mouse's neurons out.

What `sensorium.load` returns, what the registry serves, and what experiments in silico are made on.

L frames of a trial, h w pixels, N neurons of one mouse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sensorium.config import PredictionConfig
from sensorium.data.store import MouseStore
from sensorium.errors import CheckpointError, ConfigError, PredictionError
from sensorium.files import Record
from sensorium.inference.ensemble import Weights, check_weights, combine, in_order
from sensorium.inference.member import Member
from sensorium.inference.sliding import SlidingPredictor, TrialInput, prediction_device
from sensorium.inference.video import read_clip, resample
from sensorium.mice import FRAMES_PER_SECOND, short_name
from sensorium.model import checkpoint
from sensorium.model.checkpoint import ModelInfo

_STATES = ("behavior", "pupil_center")


class MouseInfo(Record):
    """What a user of a model needs to know of a mouse besides the weights."""

    unit_ids: tuple[int, ...]
    """Identifiers (N,) of the neurons, in the order of the readout."""
    frame: tuple[int, int]
    """Rows and columns of the recordings' frames, pixels."""
    behavior: tuple[float, float]
    """Mean pupil dilation and running speed of the training trials, as published."""
    pupil_center: tuple[float, float]
    """Mean position of the pupil in the training trials, as published."""

    @classmethod
    def of(cls, store: MouseStore) -> Self:
        """Read it from the mouse's store."""
        means = {name: np.nanmean(store.statistics(name, "mean"), axis=0).tolist() for name in _STATES}
        return cls(unit_ids=tuple(store.unit_ids.tolist()), frame=store.frame_shape, **means)


@dataclass(frozen=True)
class Responses:
    """Predicted responses of one mouse to one video; `numpy.asarray` gives the values."""

    values: NDArray[np.float32]
    """(N, L) in the units of the published recordings."""
    unit_ids: NDArray[np.uint32] | None
    """(N,) identifiers of the neurons in the recordings; None where neither model nor project knows them."""
    mouse: str
    dims: tuple[str, str] = ("neuron", "time")

    @property
    def seconds(self) -> NDArray[np.float64]:
        """(L,) time of every frame."""
        seconds: NDArray[np.float64] = np.arange(self.values.shape[1]) / FRAMES_PER_SECOND
        return seconds

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, L)."""
        return self.values.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype, copy=copy)


class EncodingModel:
    """The trained folds of one experiment or several; its prediction is their mean."""

    def __init__(
        self,
        folds: Mapping[str, Sequence[Path]],
        settings: PredictionConfig,
        *,
        weights: Weights | None = None,
        mice: Mapping[str, MouseInfo] | None = None,
        card: str = "",
        accelerator: str = "auto",
    ) -> None:
        """Read the descriptions of the folds; weights are read and verified with the first use of a mouse.

        Args:
            folds: folders of trained folds by experiment.
            settings: batch size and precision of the forward passes.
            weights: weight of each experiment; None for equal weights.
            mice: what is known of the mice.
            card: what a user should know of the model, in Markdown.
            accelerator: `cpu`, `cuda`, or `auto`, a GPU where there is one.

        Raises:
            CheckpointError: a fold cannot be read, or the folds do not belong together.
            PredictionError: the weights are no average of the experiments.
        """
        self._folds = dict(sorted(folds.items()))  # the order in which `sensorium ensemble` sums up
        infos = {folder: checkpoint.read_info(folder) for part in self._folds.values() for folder in part}
        self._info = _common(infos)
        if weights is not None:
            if set(weights) != set(folds):
                raise PredictionError(f"weights of {', '.join(weights)}, not of {', '.join(self._folds)}.")
            check_weights(weights, "weights", "Give weights of sum one.")
        self._weights = weights
        self._settings = settings
        self._device = torch.device(prediction_device(accelerator, settings.precision))
        self._predictors = lru_cache(maxsize=len(self._info.mice) * len(folds))(self._load)
        self.mice = dict(mice or {})
        """What is known of the mice, by name; it may lack some."""
        self.card = card
        """What a user should know of the model, in Markdown."""

    @property
    def readouts(self) -> tuple[str, ...]:
        """Names of the mice whose neurons the model predicts, in the order of its readouts."""
        return tuple(self._info.mice)

    @property
    def neurons(self) -> dict[str, int]:
        """Number of neurons, N, by mouse."""
        return dict(self._info.mice)

    @property
    def folds(self) -> dict[str, tuple[Path, ...]]:
        """Folders of the trained folds by experiment."""
        return {name: tuple(folders) for name, folders in self._folds.items()}

    @property
    def settings(self) -> PredictionConfig:
        """Batch size and precision of the forward passes."""
        return self._settings

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each experiment in the mean."""
        return {name: (self._weights or {}).get(name, 1 / len(self._folds)) for name in self._folds}

    @property
    def canvas(self) -> tuple[int, int]:
        """Rows and columns of the largest frame, pixels."""
        return self._info.model.canvas

    @property
    def shortest_video(self) -> int:
        """Fewest frames of a video."""
        return self._info.window.shortest_trial

    def mouse(self, name: str) -> str:
        """Whole name of a mouse, also by its short name such as 29515-10-12.

        Raises:
            ConfigError: the model has no readout for it.
        """
        found = [mouse for mouse in self._info.mice if name in (mouse, short_name(mouse))]
        if len(found) != 1:
            known = ", ".join(self._info.mice)
            raise ConfigError(f"mouse {name!r}: the model has no readout for it.", f"Choose one of: {known}.")
        return found[0]

    def require_fit(self, height: int, width: int) -> None:
        """Refuse frames that are larger than the canvas.

        Raises:
            PredictionError: naming both sizes.
        """
        if height > self.canvas[0] or width > self.canvas[1]:
            raise PredictionError(
                f"video: frames of {height, width} pixels are larger than the canvas, {self.canvas}.",
                "Scale it to the size of the recordings; a file (.npy, .gif, .mp4) is scaled where it is read.",
            )

    def members(self, mouse: str) -> list[tuple[Member, float]]:
        """The models of one mouse and the weight of each in the mean; the weights add up to one.

        The models are those that `predict` uses: whoever trains or moves them takes a copy.

        Raises:
            ConfigError: the model has no readout for the mouse.
            CheckpointError: weights are damaged, or of other neurons.
        """
        teams = {name: self._predictors(name, self.mouse(mouse)).members for name in self._folds}
        return [(member, self.weights[name] / len(team)) for name, team in teams.items() for member in team]

    def predict(
        self,
        video: ArrayLike | str | Path,
        mouse: str,
        behavior: ArrayLike | None = None,
        pupil_center: ArrayLike | None = None,
        experiment: str | None = None,
    ) -> Responses:
        """Predict one mouse's responses to a video.

        Bit for bit what `sensorium predict` writes, for trials that fill a batch by themselves.

        Args:
            video: (L, h, w) grey levels from 0 to 255, 30 frames a second, in the size of the recordings; or a file
                (.npy, .gif, .mp4) of any size and rate.
            mouse: its name, or its short name such as 29515-10-12.
            behavior: (2, L) pupil dilation and running speed; by default the mouse's means.
            pupil_center: (2, L) position of the pupil; by default the mouse's mean.
            experiment: predict with this experiment alone, not with the mean.

        Raises:
            ConfigError: the model has no readout for the mouse, or no such experiment.
            PredictionError: the video or the behaviour cannot be used.
            CheckpointError: weights are damaged, or of other neurons.
        """
        mouse = self.mouse(mouse)
        if experiment not in (None, *self._folds):
            raise ConfigError(f"experiment {experiment!r}: not in the model.", f"Choose of: {', '.join(self._folds)}.")
        names = list(self._folds) if experiment is None else [experiment]
        known = self.mice.get(mouse)
        frames = self._frames(video, known)
        states = [
            self._state(name, value, len(frames), known)
            for name, value in zip(_STATES, (behavior, pupil_center), strict=True)
        ]
        trial = TrialInput(mouse, torch.from_numpy(frames), torch.from_numpy(np.concatenate(states).T.copy()))
        parts = [self._predictors(name, mouse).predict([trial])[0] for name in names]
        values = combine(parts, in_order(self._weights, names))
        return Responses(values, None if known is None else np.array(known.unit_ids, np.uint32), mouse)

    def _frames(self, video: ArrayLike | str | Path, known: MouseInfo | None) -> NDArray[np.float32]:
        if isinstance(video, str | Path):
            frames = _read(Path(video), known.frame if known else self.canvas)
        else:
            frames = _numbers("video", video, 3)
        self.require_fit(*frames.shape[1:])
        if len(frames) < self.shortest_video:
            raise PredictionError(f"video: {len(frames)} frames, at least {self.shortest_video} are needed.")
        return np.ascontiguousarray(frames)

    def _state(self, name: str, value: ArrayLike | None, length: int, known: MouseInfo | None) -> NDArray[np.float32]:
        """(2, L) values of one of the mouse's states."""
        if value is None:
            if known is None:
                raise PredictionError(
                    f"{name}: not given, and nothing is known of the mouse's mean.",
                    f"Give an array of shape (2, {length}), or load a published model or one inside of its project.",
                )
            return np.repeat(np.array(getattr(known, name), np.float32)[:, None], length, axis=1)
        values = _numbers(name, value, 2)
        if values.shape != (2, length):
            raise PredictionError(f"{name}: shape {values.shape}, expected {(2, length)} for {length} frames.")
        return values

    def _load(self, experiment: str, mouse: str) -> SlidingPredictor:
        known, members = self.mice.get(mouse), []
        units = {} if known is None else {mouse: checkpoint.digest_units(np.array(known.unit_ids))}
        for folder in self._folds[experiment]:
            trained = checkpoint.load(folder, units=units)
            if known is not None and len(known.unit_ids) != trained.info.mice[mouse]:
                raise CheckpointError(
                    f"{folder}: {trained.info.mice[mouse]} neurons of {mouse}, the recordings have "
                    f"{len(known.unit_ids)}.",
                    "Use the recordings that the model was trained on.",
                )
            members.append(Member(trained.model, list(trained.info.mice).index(mouse), trained.info.window))
        return SlidingPredictor(members, self._settings.batch_size, self._settings.precision, self._device)


def _common(infos: Mapping[Path, ModelInfo]) -> ModelInfo:
    """Description of the first fold, which all others must agree with."""
    (first, info), *others = infos.items()
    for folder, other in others:
        for name, (ours, theirs) in {
            "mice": (info.mice, other.mice),
            "window": (info.window, other.window),
            "model.canvas": (info.model.canvas, other.model.canvas),
        }.items():
            if ours != theirs:
                raise CheckpointError(
                    f"{folder}: {name} differs from that of {first}, their predictions have no mean.",
                    "Load folds that were trained on the same mice with the same window.",
                )
    return info


def _read(path: Path, frame: tuple[int, int]) -> NDArray[np.float32]:
    """Frames (L, h, w) of a file, in the size and at the rate of the recordings."""
    try:
        return resample(read_clip(path, None), frame)
    except ModuleNotFoundError as fault:
        raise PredictionError(
            f"{path}: reading and scaling videos needs {fault.name}, which is not installed.",
            "Type `pip install 'sensorium[video]'`, or give an array in the size of the recordings.",
        ) from fault


def _numbers(name: str, value: ArrayLike, dimensions: int) -> NDArray[np.float32]:
    """An input as finite float32 numbers."""
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused below
            values = np.asarray(value).astype(np.float32)
    except (TypeError, ValueError) as fault:
        raise PredictionError(f"{name}: no array of numbers ({fault}).") from fault
    if values.ndim != dimensions:
        raise PredictionError(f"{name}: shape {values.shape}, expected {dimensions} dimensions.")
    if not values.size:
        raise PredictionError(f"{name}: holds no value.")
    if not np.isfinite(values).all():
        raise PredictionError(
            f"{name}: holds NaN, infinity, or a number that is too large for float32.",
            "Give the valid frames alone, without the NaN tail.",
        )
    return values
