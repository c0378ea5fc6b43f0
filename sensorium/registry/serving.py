"""The pyfunc of a registered model: one trial in, its predicted responses out.

`mlflow.pyfunc.load_model("models:/sensorium-pair@champion")` and `mlflow models serve` end here. Only
safetensors and JSON are read, and every file of a pair is verified against the pair's manifest.

L frames of a trial, h w pixels, N neurons of one mouse.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from numpy.typing import NDArray

from sensorium.errors import SensoriumError, TrackingError
from sensorium.files import read_json
from sensorium.gratings import grating
from sensorium.inference.encoding_model import EncodingModel
from sensorium.registry.flavor import ENSEMBLE
from sensorium.registry.manifest import RESTORE, ModelManifest, PairManifest
from sensorium.registry.model_registry import MANIFEST
from sensorium.registry.registered import mlflow_registry, pair_content

_TUNING = "tuning"
_DIRECTIONS = tuple(range(0, 360, 45))
_SPATIAL, _TEMPORAL = (0.7, 1.4), (2.0, 4.0)
"""Cycles per frame height, and Hz: the gratings of a request, a tenth of those of `sensorium insilico tuning`."""
_FRAMES, _ONSET = 45, 15
"""Frames of each, and how many from the start are left out of the mean."""


class TrialPredictor:
    """Answers MLflow's requests with the predictions of a loaded model."""

    def __init__(self, model: EncodingModel, roles: Mapping[str, str]) -> None:
        """Take a model.

        Args:
            model: the loaded model.
            roles: experiment of it by role: `teacher`, `student`, or both.
        """
        self._model = model
        self._roles = roles
        self._default = ENSEMBLE if len(roles) > 1 else next(iter(roles))

    def predict(self, data: Mapping[str, NDArray[Any]], params: Mapping[str, Any] | None = None) -> NDArray[np.float32]:
        """Predict a trial, or measure the tuning of one neuron.

        Args:
            data: `video` (h, w, L) grey levels, `behavior` (2, L) and `pupil_center` (2, L), as in the
                published files but without their NaN tails.
            params: `mouse`, its name; `model`: `teacher`, `student` or, the default, `ensemble`; `experiment`: empty,
                or `tuning` for gratings of the size of the video at the mean of the states, shown to `neuron`.

        Returns:
            (N, L) responses, as published. Of `tuning`, a row per grating: direction, degrees; spatial frequency,
            cycles per frame height; temporal frequency, Hz; mean response.

        Raises:
            MlflowException: the request is not of this form; a server answers it with status 400.
        """
        options = dict(params or {})
        mouse, role = options.get("mouse"), options.get("model") or self._default
        if mouse not in self._model.readouts:
            raise _refusal(f"params.mouse: {mouse!r} is unknown. Choose one of: {', '.join(self._model.readouts)}.")
        known = dict.fromkeys([self._default, *self._roles])
        if role not in known:
            raise _refusal(f"params.model: {role!r} is unknown. Choose one of: {', '.join(known)}.")
        experiment = options.get("experiment") or None
        if experiment not in (None, _TUNING):
            raise _refusal(f"params.experiment: {experiment!r} is unknown. Choose one of: {_TUNING}, or leave it out.")
        try:
            if experiment is not None:
                return self._tuning(data, mouse, self._roles.get(role), options.get("neuron", 0))
            video = np.asarray(data["video"]).transpose(2, 0, 1)
            predicted = self._model.predict(video, mouse, data["behavior"], data["pupil_center"], self._roles.get(role))
        except SensoriumError as fault:
            raise _refusal(str(fault)) from fault
        return predicted.values

    def _tuning(
        self, data: Mapping[str, NDArray[Any]], mouse: str, experiment: str | None, neuron: Any
    ) -> NDArray[np.float32]:
        count, frames = self._model.neurons[mouse], max(_FRAMES, self._model.shortest_video)
        if not isinstance(neuron, int | np.integer):
            raise _refusal(f"params.neuron: {neuron!r} is no whole number. Give a number from 0 to {count - 1}.")
        if not 0 <= neuron < count:
            raise _refusal(f"params.neuron: {neuron}, but {mouse} has {count} neurons, counted from 0.")
        height, width = np.asarray(data["video"]).shape[:2]
        self._model.require_fit(height, width)
        behavior, pupil_center = (
            np.repeat(np.asarray(data[name]).mean(axis=1, keepdims=True), frames, axis=1)
            for name in ("behavior", "pupil_center")
        )
        rows = []
        for condition in itertools.product(_DIRECTIONS, _SPATIAL, _TEMPORAL):
            shown = grating((*condition, 1.0), frames, (height, width)).numpy()
            responses = self._model.predict(shown, mouse, behavior, pupil_center, experiment).values[neuron]
            rows.append([*condition, responses[_ONSET:].mean()])
        return np.array(rows, np.float32)


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
        found = pair_content(mlflow_registry(), pair)
        roles = {role: model.experiment for role, model in pair.models.items()}
        return TrialPredictor(EncodingModel(found.folds, found.prediction, weights=found.weights), roles)
    model = ModelManifest.load(file, TrackingError, RESTORE)
    faults = model.faults(file.parent)
    if faults:
        raise TrackingError(f"{model.name} in {file.parent}: {'; '.join(faults)}.", RESTORE)
    folds = {model.experiment: [file.parent / fold for fold in model.folds]}
    return TrialPredictor(EncodingModel(folds, model.prediction), {model.role: model.experiment})
