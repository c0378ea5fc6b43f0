"""The MLmodel file of a version: `mlflow.pyfunc` with a loader of our own, nothing pickled."""

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sensorium import __version__

LOADER = "sensorium.registry.serving"
_REQUIREMENTS = ("mlflow", "torch", "numpy", "safetensors")


def write_model(folder: Path, name: str, manifest: dict[str, Any], location: str, model_id: str | None) -> None:
    """Write everything of a pyfunc model but its weights.

    Args:
        folder: an existing, empty folder.
        name: name in the registry.
        manifest: what the version consists of; it is repeated as the model's metadata.
        location: where the store will keep the folder.
        model_id: id of MLflow's logged model, where there is one.
    """
    from mlflow.models import Model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*inferred as AnyType")  # MLflow's own agents, at import
        from mlflow.pyfunc import save_model

    seed = folder / ".seed" / "model"
    seed.mkdir(parents=True)
    target = folder / ".saved"
    save_model(
        path=str(target),
        loader_module=LOADER,
        data_path=str(seed),
        mlflow_model=Model(artifact_path=location, model_id=model_id, model_uuid=model_id),
        pip_requirements=[f"sensorium=={__version__}", *(f"{name}=={version(name)}" for name in _REQUIREMENTS)],
        metadata={"registered_name": name, "manifest": manifest},
    )
    seed.rmdir()
    seed.parent.rmdir()
    for path in target.iterdir():
        path.rename(folder / path.name)
    target.rmdir()
