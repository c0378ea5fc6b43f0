"""The out-of-fold scores in MLflow: a run per experiment and one for the registered pair, and a card per version.

Scores are known only when all folds are predicted, so they are logged when the pair is registered. They are
logged on the experiments' parent runs as well, the rows of the leaderboard.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sensorium.errors import TrackingError
from sensorium.evaluation.comparison import Scores, compare
from sensorium.evaluation.scores import ALL
from sensorium.evaluation.sources import DERIVED, ENSEMBLE
from sensorium.evaluation.tables import SINGLE_TRIAL
from sensorium.files import digest_json, waiting_lock
from sensorium.mice import short_names
from sensorium.paths import Paths
from sensorium.recovery import remedy
from sensorium.registry.card import attach, model_card
from sensorium.registry.manifest import PAIR, PairPin
from sensorium.registry.model_registry import DIGEST, ModelRegistry, model_id
from sensorium.tracking.descriptions import rounded, run_name
from sensorium.tracking.event_log import FINISHED
from sensorium.tracking.leaderboard import HEADLINE, describe_row
from sensorium.tracking.provenance import DVC_EXPERIMENT
from sensorium.tracking.run_links import RUNS, TRAINED, find_run, run_links
from sensorium.tracking.runs import (
    DIFFERENCE,
    DIFFERS,
    EXPERIMENT,
    PARENT,
    ROLE,
    is_alive,
    search,
    student_t,
    update_metrics,
    validation_scores,
)
from sensorium.tracking.store import TrackingStore, mlflow_errors

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_SCORES = "sensorium.scores"
"""Tag: digest of what an evaluation run records."""
_PREFIX = "oof"
"""Before the names of out-of-fold metrics: out of fold, by all trials of all mice."""
EVALUATE = "Type `dvc repro evaluate`."


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation found, and where the registered pair is in it."""

    metrics: Mapping[str, Any]
    """Content of metrics.json."""
    table: Mapping[str, Scores]
    """Single-trial correlation by source, from scores.csv; the mouse `all` pools the neurons of all."""
    pair: Mapping[str, Any]
    """What metrics.json holds of the pair, by role."""
    mean: str
    """Source of the mean of the pair."""


@dataclass(frozen=True)
class _Result:
    """The scores of one source of the evaluation."""

    experiment: str
    """Experiment, or several joined by commas."""
    metrics: dict[str, float]
    version: "ModelVersion | None" = None
    """Version in the registry, where the experiment is one of the pair, or its mean."""


def read_scores(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Single-trial correlation by source, mouse and fold, from scores.csv; the pool over folds is left out.

    Raises:
        TrackingError: the file is missing or lacks a column.
    """
    scores: dict[str, dict[str, dict[str, float]]] = {}
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        rows = table[(table["tier"] == ALL) & (table["fold"] != ALL)]
        for source, mouse, fold, score in rows[["source", "mouse", "fold", SINGLE_TRIAL]].itertuples(index=False):
            scores.setdefault(source, {}).setdefault(mouse, {})[fold] = float(score)
    except FileNotFoundError:
        raise TrackingError(f"{path}: the file does not exist.", remedy(path, EVALUATE)) from None
    except (KeyError, ValueError) as fault:
        raise TrackingError(f"{path}: not a table of scores ({fault}).", remedy(path, EVALUATE)) from fault
    return scores


def log_results(
    registry: ModelRegistry, paths: Paths, pin: PairPin, found: Evaluation, tags: Mapping[str, str], leaderboard: str
) -> None:
    """Record the scores of all experiments and of a registered pair; what is recorded already stays as it is.

    Args:
        registry: the registry, and its tracking store.
        paths: where the tables of the evaluation lie.
        pin: the registered pair.
        found: the scores.
        tags: tags of a new run.
        leaderboard: name of the MLflow experiment.
    """
    results = _results(registry, pin, found)
    card = model_card(pin, found.pair)
    runs = _Runs(registry, paths, pin, found.pair, tags, leaderboard)
    with waiting_lock(registry.store.state / "runs.lock"):
        rows = {source: runs.log(result) for source, result in results.items()}
        for source, run_id in rows.items():
            _update_row(registry, run_id, source, found.table, pin.models["teacher"].experiment)
    for version in (result.version for result in results.values() if result.version is not None):
        if version.description != card:
            registry.client.update_model_version(version.name, version.version, card)


def _results(registry: ModelRegistry, pin: PairPin, found: Evaluation) -> dict[str, _Result]:
    """By source: the models of the pair, their mean, the other experiments."""
    results = {
        model.experiment: _Result(model.experiment, _metrics_of(found.pair, role), registry.resolve(model))
        for role, model in pin.models.items()
    }
    others = sorted(set(found.metrics[SINGLE_TRIAL]) - {*results, *DERIVED})
    mean = _Result(",".join(sorted(results)), _metrics_of(found.pair, ENSEMBLE), registry.resolve(pin.pair))
    return results | {found.mean: mean} | {name: _Result(name, _metrics_of(found.metrics, name)) for name in others}


def _metrics_of(scores: Mapping[str, Any], source: str) -> dict[str, float]:
    """Metrics of one source, over all mice and by mouse, from the tree of metrics.json."""
    found: dict[str, float] = {}
    mice = scores.get("mice", {})
    names = short_names(mice)
    for suffix, tree in [("", scores), *((f"/{names[mouse]}", tree) for mouse, tree in mice.items())]:
        for metric, by_source in tree.items():
            if isinstance(by_source, Mapping) and isinstance(by_source.get(source), float):
                found[f"{_PREFIX}/{metric}{suffix}"] = rounded(by_source[source])
    return found


def _update_row(registry: ModelRegistry, run_id: str, source: str, table: Mapping[str, Scores], reference: str) -> None:
    """Bring the row of a source up to date: its score, and how far it is from the reference's."""
    value = registry.client.get_run(run_id).data.metrics.get(f"{_PREFIX}/{SINGLE_TRIAL}")
    scores = table.get(source, {})
    folds = list(scores.get(ALL, {}).values())
    metrics = {} if value is None else {HEADLINE: value}
    if value is not None and len(folds) > 1:  # the 95% interval over folds, by Student's t
        half = student_t(len(folds) - 1) * statistics.stdev(folds) / math.sqrt(len(folds))
        metrics |= {f"{HEADLINE}/ci_low": value - half, f"{HEADLINE}/ci_high": value + half}
    found = compare(without_pool(scores), without_pool(table.get(reference, {})))
    if source != reference and found is not None:  # as `sensorium compare` has it
        key = f"{DIFFERENCE}{reference}"
        metrics |= {key: found.mean, f"{key}/ci_low": found.low, f"{key}/ci_high": found.high}
    update_metrics(registry.client, run_id, {key: rounded(number) for key, number in metrics.items()})
    describe_row(registry.client, run_id)


def without_pool(scores: Scores) -> dict[str, dict[str, float]]:
    """The scores without those of all neurons together."""
    return {mouse: dict(folds) for mouse, folds in scores.items() if mouse != ALL}


@dataclass(frozen=True)
class _Runs:
    """The runs that hold the scores of an evaluation."""

    registry: ModelRegistry
    paths: Paths
    pin: PairPin
    scores: Mapping[str, Any]
    """What metrics.json holds of the pair, by role."""
    tags: Mapping[str, str]
    """Tags of a new run."""
    leaderboard: str

    def log(self, result: _Result) -> str:
        """Record the scores of one source; returns the run that is its row: the parent of its folds, or its own."""
        client, parent = self.registry.client, self._parent(result.experiment)
        if parent is None:
            experiment = self.registry.store.experiment_id(client, self.leaderboard)
        else:
            experiment = str(client.get_run(parent).info.experiment_id)
        digest = digest_json([result.metrics, None if result.version is None else result.version.tags.get(DIGEST)])
        found = [run for run in search(client, [experiment], {_SCORES: digest}) if run.info.status == FINISHED]
        run_id = str(found[-1].info.run_id) if found else self._create(result, digest, experiment, parent)
        if parent is not None:
            update_metrics(client, parent, result.metrics)
        return parent or run_id

    def _create(self, result: _Result, digest: str, experiment: str, parent: str | None) -> str:
        """Make the evaluation's run; that of the pair's mean holds card and figures, which are about all sources."""
        client, version = self.registry.client, result.version
        tags = {**self.tags, _SCORES: digest, ROLE: "evaluation", EXPERIMENT: result.experiment}
        tags |= {} if version is None else {key: version.tags[key] for key in (RUNS, TRAINED) if key in version.tags}
        tags |= {} if parent is None else {PARENT: parent}
        name = "evaluation" if parent is not None else self._row_name(experiment, result.experiment)
        run_id = str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)
        for key, value in result.metrics.items():
            client.log_metric(run_id, key, value, model_id=None if version is None else model_id(version.source))
        if version is not None and version.name == PAIR:
            client.log_artifact(run_id, str(self.paths.evaluation / "metrics.json"))
            attach(client, run_id, self.paths, self.pin, self.scores)
        client.set_terminated(run_id, FINISHED)
        return run_id

    def _row_name(self, within: str, scored: str) -> str:
        """Name of an evaluation that is a row: of an ensemble, by what its members' executions are named after."""
        parts, client = scored.split(","), self.registry.client
        rows = [client.get_run(run_id).data.tags for part in parts if (run_id := self._parent(part))]
        differing = dict.fromkeys(item for tags in rows for item in filter(None, tags.get(DIFFERS, "").split(", ")))
        dvc = next((tags[DVC_EXPERIMENT] for tags in rows if DVC_EXPERIMENT in tags), None)
        earlier = search(client, [within], {ROLE: "evaluation", EXPERIMENT: scored})
        label = parts[0] if len(parts) == 1 else ENSEMBLE
        return run_name(label, list(differing), [str(run.info.run_name) for run in earlier], dvc)

    def _parent(self, experiment: str) -> str | None:
        """The parent run of most of the folds on disk, by their runs; None where none has one."""
        found: Counter[str] = Counter()
        client = self.registry.client
        for fold in run_links(self.paths, experiment):
            if run_id := find_run(client, self.paths, experiment, fold):
                found.update(filter(None, [client.get_run(run_id).data.tags.get(PARENT)]))
        return next((parent for parent, _ in found.most_common() if is_alive(client, parent)), None)


def scores_of_run(paths: Paths, run_id: str) -> dict[str, dict[str, float]]:
    """Validation correlation of an experiment's run, or of a fold's, by mouse and fold.

    Raises:
        TrackingError: there is no such run.
    """
    store = TrackingStore.of(paths)
    with mlflow_errors(paths):
        client = store.client()
        if not is_alive(client, run_id):
            raise TrackingError(f"run {run_id}: not at {store.label}.", "Look up its id in the MLflow UI.")
        return validation_scores(client, run_id)
