"""Scores that MLflow holds, by mouse and fold: of runs and of registered pairs."""

from sensorium.errors import TrackingError
from sensorium.paths import Paths
from sensorium.registry.catalog import Catalog
from sensorium.registry.manifest import PAIR
from sensorium.registry.promotion import CHAMPION, champion, find_pair
from sensorium.tracking.runs import is_alive, validation_scores
from sensorium.tracking.store import TrackingStore, mlflow_errors

Scores = dict[str, dict[str, float]]


def scores_of_run(paths: Paths, run_id: str) -> Scores:
    """Validation correlation of an experiment's run, or of a fold's.

    Raises:
        TrackingError: there is no such run.
    """
    store = TrackingStore.of(paths)
    with mlflow_errors(paths):
        client = store.client()
        if not is_alive(client, run_id):
            raise TrackingError(f"run {run_id}: not at {store.label}.", "Look up its id in the MLflow UI.")
        return validation_scores(client, run_id)


def scores_of_pair(paths: Paths, version: str) -> Scores:
    """Out-of-fold correlation of a registered pair.

    Args:
        paths: the project.
        version: a number, or `champion`.

    Raises:
        TrackingError: there is no such version, or no champion yet.
    """
    with mlflow_errors(paths):
        catalog = Catalog(paths)
        found = champion(catalog) if version == CHAMPION else find_pair(catalog, int(version))
        if found is None:
            raise TrackingError(f"{PAIR}: there is no champion yet.", "Type `sensorium promote` to name one.")
        return dict(catalog.manifest(found).get("paired", {}))
