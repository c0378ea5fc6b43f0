"""`sensorium sync`: upload the tracking events that wait on disk."""

from rich.console import Console

from sensorium.errors import TrackingError
from sensorium.paths import Paths
from sensorium.tracking.store import TrackingStore
from sensorium.tracking.uploader import upload_remaining


def run(paths: Paths) -> None:
    """Upload what MLflow has not received yet, because the server was away or a training was killed.

    Raises:
        TrackingError: the server refused some of it, or cannot be reached; it stays on disk.
    """
    store = TrackingStore.of(paths)
    results = upload_remaining(store)
    failed = {name: fault for name, fault in results.items() if fault is not None}
    Console().print(f"{len(results) - len(failed)} of {len(results)} waiting runs are now at {store.label}.")
    if failed:
        lines = "\n".join(f"  {name}: {fault}" for name, fault in failed.items())
        raise TrackingError(
            f"{store.label}: {len(failed)} runs could not be delivered:\n{lines}",
            "Start the server or correct MLFLOW_TRACKING_URI, then type `sensorium sync` again; nothing is lost.",
        )
