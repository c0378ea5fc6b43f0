"""The link from a trained fold to its MLflow run: data/runs/<experiment>/fold_<k>.json.

It is an output of its own and travels with the weights, to people who have another store or none at
all. So it names no path of a machine, and whoever reads it asks first whether the run is at hand.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field

from sensorium.errors import TrackingError
from sensorium.files import Record, digest_json, read_json
from sensorium.paths import Paths
from sensorium.recovery import later_remedy
from sensorium.tracking.event_log import FINISHED
from sensorium.tracking.runs import EXPERIMENT, FINGERPRINT, FOLD, ROLE, everywhere, is_alive, search

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRAINED, HERE, ELSEWHERE = "sensorium.trained", "here", "elsewhere"
"""Tag of what is made of trained folds: whether the store has the runs of all their trainings."""
RUNS = "sensorium.runs"
"""Tag: the runs of the folds, also those that the store does not have."""


class RunLink(Record):
    """Where a fold's training was recorded."""

    tracking_uri: str | None = None
    """The store as `TrackingStore.portable` names it; None where nothing was recorded."""
    experiment_id: str | None = None
    run_id: Annotated[str, Field(pattern="^[a-zA-Z0-9][a-zA-Z0-9_-]*$")] | None = None
    """As MLflow allows it. None where the store had not given it one yet, or nothing was recorded."""
    journal: str | None = None
    """Name of the event log that is to become the run, where the store had not given it an id."""
    source: str | None = None
    """Where the weights come from, when they were not trained here."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a link; raises a TrackingError where it is missing or damaged."""
        remedy = later_remedy(path, "Type `dvc checkout`, or `dvc pull` where it was pushed.")
        return cls.load(path, TrackingError, remedy)

    def as_json(self) -> dict[str, Any]:
        """The content of the file of a training, with the keys that have no value."""
        return self.model_dump(exclude={"source"})


def run_links(paths: Paths, experiment: str) -> dict[int, RunLink]:
    """The links of an experiment's folds on disk, by fold; folds without one are left out."""
    found = {}
    for path in paths.run_link(experiment, 0).parent.glob("fold_*.json"):
        found[int(path.stem.removeprefix("fold_"))] = RunLink.read(path)
    return dict(sorted(found.items()))


def find_run(client: "MlflowClient", paths: Paths, experiment: str, fold: int) -> str | None:
    """The run of a fold on disk: the linked one, or one of the same fingerprint; None where the store has neither."""
    link = RunLink.read(paths.run_link(experiment, fold))
    if link.run_id is not None and is_alive(client, link.run_id):
        return link.run_id
    folder = paths.fold(experiment, fold)
    if link.tracking_uri is None or not folder.is_dir():
        return None
    tags = {EXPERIMENT: experiment, FOLD: str(fold), ROLE: "fold"}
    finished = [run for run in search(client, everywhere(client), tags) if run.info.status == FINISHED]
    if not finished:
        return None
    known = trained_fingerprint(folder)
    runs = [run for run in finished if run.data.tags.get(FINGERPRINT) == known]
    return str(runs[-1].info.run_id) if runs else None


def trained_fingerprint(folder: Path) -> str:
    """`lineage.fingerprint` of a trained fold, without PyTorch."""
    path = folder / "config.json"
    document = read_json(path, TrackingError, later_remedy(path, "Train the fold again."))
    return digest_json(document["info"]["provenance"])


def origin(client: "MlflowClient", paths: Paths, experiment: str) -> dict[str, str]:
    """Tags that say where an experiment's folds were trained; folds that were pulled have runs in another store."""
    links = run_links(paths, experiment)
    runs = {fold: find_run(client, paths, experiment, fold) for fold in links}
    names = {fold: runs[fold] or link.run_id or link.source or "unknown" for fold, link in links.items()}
    listed = ", ".join(f"fold_{fold}: {name}" for fold, name in names.items())
    return {TRAINED: HERE if links and all(runs.values()) else ELSEWHERE, **({RUNS: listed} if listed else {})}
