"""The MLmodel file of a version: `mlflow.pyfunc` with a loader of our own, nothing pickled."""

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sensorium import __version__

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

ENSEMBLE = "ensemble"
"""The mean of teacher and student, as a choice of the parameter `model`."""
LOADER = "sensorium.registry.serving"
_REQUIREMENTS = ("mlflow", "torch", "numpy", "safetensors")
_GREY = 127.0


@dataclass(frozen=True)
class Interface:
    """What a request to the model looks like."""

    mice: Sequence[str]
    canvas: tuple[int, int]
    """Largest frame, pixels; the example has frames of this size."""
    frames: int
    """Frames of the example trial."""
    models: Sequence[str]
    """Choices of the parameter `model`, the default first."""

    def example(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
        """A grey video and a mouse that sits still."""
        video = np.full((*self.canvas, self.frames), _GREY)
        states = {name: np.zeros((2, self.frames)) for name in ("behavior", "pupil_center")}
        return {"video": video, **states}, {"mouse": self.mice[0], "model": self.models[0]}

    def signature(self) -> "ModelSignature":
        """Types and shapes of inputs, parameters and output."""
        from mlflow.models import ModelSignature
        from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

        number = np.dtype(np.float64)
        dimensions = {"video": 3, "behavior": 2, "pupil_center": 2}
        inputs = [TensorSpec(number, (-1,) * count, name) for name, count in dimensions.items()]
        params = [
            ParamSpec("mouse", DataType.string, ""),  # MLflow requires a default; the model refuses this one
            ParamSpec("model", DataType.string, self.models[0]),
            ParamSpec("experiment", DataType.string, ""),
            ParamSpec("neuron", DataType.long, 0),
        ]
        output = TensorSpec(np.dtype(np.float32), (-1, -1))
        return ModelSignature(Schema(inputs), Schema([output]), ParamSchema(params))


def write_model(
    folder: Path, name: str, manifest: dict[str, Any], interface: Interface, location: str, model_id: str | None
) -> None:
    """Write everything of a pyfunc model but its weights.

    Args:
        folder: an existing, empty folder.
        name: name in the registry.
        manifest: what the version consists of; it is repeated as the model's metadata.
        interface: what a request looks like.
        location: where the store will keep the folder.
        model_id: id of MLflow's logged model, where there is one.
    """
    from mlflow.models import Model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*inferred as AnyType")  # MLflow's own agents, at import
        from mlflow.pyfunc import save_model

    with tempfile.TemporaryDirectory() as empty:  # the weights are linked into the folder afterwards
        data = Path(empty) / "model"
        data.mkdir()
        save_model(
            path=str(folder),
            loader_module=LOADER,
            data_path=str(data),
            mlflow_model=Model(artifact_path=location, model_id=model_id, model_uuid=model_id),
            signature=interface.signature(),
            input_example=interface.example(),
            pip_requirements=[
                f"sensorium[train,platform]=={__version__}",
                *(f"{name}=={version(name)}" for name in _REQUIREMENTS),
            ],
            metadata={"registered_name": name, "manifest": manifest},
        )
