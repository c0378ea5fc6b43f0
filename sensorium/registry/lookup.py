"""Registered weights, found by what they are."""

from pathlib import Path

from sensorium.errors import TrackingError
from sensorium.paths import Paths
from sensorium.registry.catalog import Catalog
from sensorium.registry.manifest import STUDENT, TEACHER, WEIGHTS, ModelContent
from sensorium.tracking.store import mlflow_errors


def find_weights(paths: Paths, experiment: str, fold: int, digest: str) -> Path | None:
    """File of a fold's weights in the model registry, verified; None where no version holds them.

    Args:
        paths: the project.
        experiment: what was trained.
        fold: fold that was held out.
        digest: SHA-256 of the file.
    """
    name = f"fold_{fold}/{WEIGHTS}"
    with mlflow_errors(paths):
        catalog = Catalog(paths)
        for model in (TEACHER, STUDENT):
            for version in catalog.client.search_model_versions(f"name = '{model}'"):
                try:
                    manifest = catalog.manifest(version)
                    content = ModelContent(model, manifest["experiment"], dict(manifest["files"]))
                    if content.experiment == experiment and content.files.get(name) == digest:
                        return catalog.folder(version, content) / name
                except TrackingError:  # a version that is damaged or gone holds nothing to compare with
                    continue
    return None
