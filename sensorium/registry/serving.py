"""The pyfunc of a registered model: one trial in, its predicted responses out.

`mlflow.pyfunc.load_model("models:/sensorium-pair@champion")` and `mlflow models serve` end here. Only
safetensors and JSON are read, and every file of a pair is verified against the pair's manifest.

L frames of a trial, h w pixels, N neurons of one mouse.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from numpy.typing import NDArray

from sensorium.config import PredictionConfig
from sensorium.errors import SensoriumError, TrackingError
from sensorium.files import read_json
from sensorium.inference.ensemble import Weights, combine, in_order
from sensorium.inference.member import Member
from sensorium.inference.sliding import SlidingPredictor, TrialInput
from sensorium.model import checkpoint
from sensorium.model.checkpoint import ModelInfo
from sensorium.paths import Paths
from sensorium.registry.flavor import ENSEMBLE
from sensorium.registry.manifest import RESTORE, ModelManifest, PairManifest
from sensorium.registry.model_registry import MANIFEST, ModelRegistry
from sensorium.tracking.store import TrackingStore


class TrialPredictor:
    """Predicts the responses of one mouse to one trial."""

    def __init__(
        self, folds: Mapping[str, Sequence[Path]], settings: PredictionConfig, weights: Weights | None = None
    ) -> None:
        """Read the descriptions of the models; weights are loaded with the first trial of a mouse.

        Args:
            folds: verified fold folders by role: `teacher`, `student`, or both.
            settings: batch size and precision of the forward passes.
            weights: weight of each experiment in the ensemble; None for equal weights.
        """
        self._weights = weights
        self._folds = folds
        self._default = ENSEMBLE if len(folds) > 1 else next(iter(folds))
        self._settings = settings
        infos = {role: checkpoint.read_info(folders[0]) for role, folders in folds.items()}
        self._info: ModelInfo = next(iter(infos.values()))
        self._experiments = {role: info.experiment for role, info in infos.items()}
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._predictors = lru_cache(maxsize=len(self._info.mice) * len(folds))(self._load)

    def predict(self, data: Mapping[str, NDArray[Any]], params: Mapping[str, Any] | None = None) -> NDArray[np.float32]:
        """Predict a trial.

        Args:
            data: `video` (h, w, L) grey levels, `behavior` (2, L) and `pupil_center` (2, L), as in the
                published files but without their NaN tails.
            params: `mouse`, its name; `model`: `teacher`, `student` or, the default, `ensemble`.

        Returns:
            (N, L) responses, as published.

        Raises:
            MlflowException: the request is not of this form; a server answers it with status 400.
        """
        options = dict(params or {})
        mouse = options.get("mouse")
        if mouse not in self._info.mice:
            raise _refusal(f"params.mouse: {mouse!r} is unknown. Choose one of: {', '.join(self._info.mice)}.")
        roles, trial = self._roles(options.get("model") or self._default), self._trial(mouse, data)
        try:
            parts = [self._predictors(role, mouse).predict([trial])[0] for role in roles]
        except SensoriumError as fault:
            raise _refusal(str(fault)) from fault
        return combine(parts, in_order(self._weights, map(self._experiments.__getitem__, roles)))

    def _roles(self, model: str) -> list[str]:
        known = dict.fromkeys([self._default, *self._folds])
        if model not in known:
            raise _refusal(f"params.model: {model!r} is unknown. Choose one of: {', '.join(known)}.")
        if model != ENSEMBLE:
            return [model]
        # The order in which `sensorium ensemble` sums up, so that the numbers are the same to the last bit.
        return sorted(self._folds, key=self._experiments.__getitem__)

    def _trial(self, mouse: str, data: Mapping[str, NDArray[Any]]) -> TrialInput:
        video = _array(data, "video")
        length, (height, width) = video.shape[2], self._info.model.canvas
        if video.shape[0] > height or video.shape[1] > width:
            raise _refusal(f"video: frames of {video.shape[:2]} pixels are larger than the canvas, {height, width}.")
        if length < self._info.window.shortest_trial:
            raise _refusal(f"video: {length} frames, at least {self._info.window.shortest_trial} are needed.")
        states = {name: _array(data, name) for name in ("behavior", "pupil_center")}
        for name, values in states.items():
            if values.shape != (2, length):
                raise _refusal(f"{name}: shape {values.shape}, expected {(2, length)} for {length} frames.")
        frames, values = np.ascontiguousarray(video.transpose(2, 0, 1)), np.concatenate([*states.values()]).T.copy()
        return TrialInput(mouse, torch.from_numpy(frames), torch.from_numpy(values))

    def _load(self, role: str, mouse: str) -> SlidingPredictor:
        members = []
        for folder in self._folds[role]:
            trained = checkpoint.load(folder)
            members.append(Member(trained.model, list(trained.info.mice).index(mouse), trained.info.window))
        return SlidingPredictor(members, self._settings.batch_size, self._settings.precision, self._device)


def _array(data: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    """An input of the request, whose names, types and dimensions MLflow has compared with the signature."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused below
        values = np.asarray(data[name]).astype(np.float32)
    if not values.size:
        raise _refusal(f"{name}: shape {values.shape} holds no value.")
    if not np.isfinite(values).all():
        raise _refusal(
            f"{name}: holds NaN, infinity, or a number that is too large for float32. "
            "Give the valid frames alone, without the NaN tail."
        )
    return values


def _refusal(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


def _load_pyfunc(path: str) -> TrialPredictor:
    """What MLflow calls to load a model.

    Args:
        path: the version's data folder.

    Raises:
        TrackingError: files are missing or damaged, or the registry lacks a model of the pair.
    """
    file = Path(path) / MANIFEST
    if "models" in read_json(file, TrackingError, RESTORE):
        pair = PairManifest.load(file, TrackingError, RESTORE)
        registry = _registry()
        folds = {role: registry.folds(model) for role, model in pair.models.items()}
        return TrialPredictor(folds, pair.prediction, pair.weights)
    model = ModelManifest.load(file, TrackingError, RESTORE)
    faults = model.faults(file.parent)
    if faults:
        raise TrackingError(f"{model.name} in {file.parent}: {'; '.join(faults)}.", RESTORE)
    return TrialPredictor({model.role: [file.parent / fold for fold in model.folds]}, model.prediction)


def _registry() -> ModelRegistry:
    """The registry that MLflow itself uses; what has to be fetched is kept in a folder of the user's."""
    import mlflow

    uri = mlflow.get_registry_uri()
    database = Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir()) / f"sensorium-{os.getuid()}"
    root = database.parent if database is not None else cache
    return ModelRegistry(Paths(root), TrackingStore(uri, root, root))
