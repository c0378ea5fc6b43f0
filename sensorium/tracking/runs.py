"""The runs of an experiment in MLflow: a parent per execution, a child per fold, found again by tags."""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sensorium.files import waiting_lock
from sensorium.mice import short_name
from sensorium.paths import Paths
from sensorium.tracking.descriptions import differences, rounded, run_name
from sensorium.tracking.event_log import FINISHED, now
from sensorium.tracking.provenance import DVC_EXPERIMENT, STAGE
from sensorium.tracking.store import TrackingStore, mlflow_errors
from sensorium.tracking.system import PREFIX as SYSTEM

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FINGERPRINT = "sensorium.fingerprint"
"""Tag: digest of everything that a training depends on."""
GROUP = "sensorium.group"
"""Tag: digest of an experiment's settings; its folds share it."""
ROLE = "sensorium.role"
"""Tag: `experiment` on a parent, `fold` on a child, `record` on a copy of a child."""
RECORD = "record"
FOLD = "sensorium.fold"
EXPERIMENT = "sensorium.experiment"
ARCHITECTURE, TEACHER, START = "sensorium.architecture", "sensorium.teacher", "sensorium.start"
DIFFERS = "sensorium.differs"
"""Tag of a parent: what differs from the experiment's first execution, as its name says in short."""
FOLDS = "sensorium.folds"
"""Tag: number of folds that the experiment trains."""
RECORDED, REBUILT = "sensorium.recorded_from", "sensorium.rebuilt_from"
"""Tags: the run that held the training, on a record of it and on a run that replaces it."""
VALIDATION, SCORE = "val/", "val/correlation"
"""Prefix of validation metrics, and the one that decides; `val/correlation/<mouse>` is a mouse's."""
DIFFERENCE = "score/vs_"
"""Before the name of an experiment, in the metric of how much more a row scored than it."""
WARMUP = "training.warmup_epochs"
"""Param: epochs that are never the best one."""
_SOURCE = {"mlflow.source.name", "mlflow.source.type"}
"""Tags by which `mlflow run` names the project that it ran."""
PARENT = "mlflow.parentRunId"
"""MLflow's tag of a child."""
_ENOUGH = 2
"""Values without which there is no deviation."""
_CONFIDENCE = 0.95


def search(client: "MlflowClient", experiments: list[str], tags: Mapping[str, str]) -> list["Run"]:
    """Runs that carry all the tags, the oldest first."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found: list[Run] = []
    token: str | None = None
    while token != "":
        page = client.search_runs(experiments, query, order_by=["attributes.start_time ASC"], page_token=token)
        found.extend(page)
        token = page.token or ""
    return found


def everywhere(client: "MlflowClient") -> list[str]:
    """Ids of all MLflow experiments: of other presets, of adopted runs, and of stores from before the leaderboard."""
    return [str(experiment.experiment_id) for experiment in client.search_experiments()]


def log_params(client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> None:
    """Log the params that the run does not have; params cannot be changed afterwards."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    client.log_batch(run_id, params=[Param(key, value) for key, value in params.items() if key not in known])


def log_metrics(client: "MlflowClient", run_id: str, metrics: Iterable[tuple[str, float, int, int]]) -> None:
    """Log (key, value, time stamp, step) in as few calls as the server allows."""
    from mlflow.entities import Metric

    client.log_batch(run_id, metrics=[Metric(*metric) for metric in metrics])


def log_datasets(client: "MlflowClient", run_id: str, digests: Mapping[str, str]) -> None:
    """Name DVC's outputs and digests as the run's inputs; nothing of them is read."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(name=path, digest=digest[:36], source_type="dvc", source=f'{{"path": "{path}"}}'),
            [InputTag("mlflow.data.context", "training")],
        )
        for path, digest in digests.items()
    ]
    if inputs:
        client.log_inputs(run_id, datasets=inputs)


def update_metrics(client: "MlflowClient", run_id: str, metrics: Mapping[str, float]) -> None:
    """Log figures of a whole run, at step 0, where they are not what the run has."""
    known = client.get_run(run_id).data.metrics
    log_metrics(client, run_id, [(key, value, now(), 0) for key, value in metrics.items() if known.get(key) != value])


def known_steps(client: "MlflowClient", run_id: str, keys: Iterable[str]) -> dict[str, set[int]]:
    """Steps that the run already has, by metric key."""
    logged = client.get_run(run_id).data.metrics
    return {key: set(_curve(client, run_id, key)) if key in logged else set() for key in keys}


def _curve(client: "MlflowClient", run_id: str, key: str) -> dict[int, float]:
    """Values of a metric by step."""
    return {metric.step: metric.value for metric in client.get_metric_history(run_id, key)}


def deleted_runs(paths: Paths) -> list[str]:
    """Ids of the runs that were deleted, and that MLflow keeps until they are removed for good.

    Raises:
        TrackingError: the store cannot be reached or is damaged.
    """
    from mlflow.entities import ViewType

    with mlflow_errors(paths):
        client = TrackingStore.of(paths).client()
        found: list[str] = []
        token: str | None = None
        while token != "":
            page = client.search_runs(everywhere(client), "", ViewType.DELETED_ONLY, page_token=token)
            found += [str(run.info.run_id) for run in page]
            token = page.token or ""
    return found


def is_alive(client: "MlflowClient", run_id: str) -> bool:
    """Whether the run exists and is not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run_id).info.lifecycle_stage) == "active"
    except MlflowException as fault:
        if fault.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def attach(client: "MlflowClient", store: TrackingStore, header: Mapping[str, Any]) -> tuple[str, str]:
    """The MLflow run of a training: the adopted one, an unfinished one of its fingerprint, or a new one.

    Takes the `start` event of its log, and returns experiment id and run id.
    """
    with waiting_lock(store.state / "runs.lock"):
        # a log from before the leaderboard names none
        experiment = store.experiment_id(client, header.get("leaderboard", header["experiment"]))
        run = _own_run(client, header)
        if run is not None and header["adopt"] is None:
            experiment = str(run.info.experiment_id)  # begun before the leaderboard: it stays with its parent
        tags = dict(header["tags"])
        if tags[ROLE] != RECORD:
            tags[PARENT] = _parent(client, experiment, header)
        if run is None:
            run = client.create_run(experiment, start_time=header["time"], run_name=header["name"], tags=tags)
        else:
            for key in tags.keys() - _SOURCE:
                client.set_tag(run.info.run_id, key, tags[key])
            client.update_run(run.info.run_id, name=header["name"])
    return str(run.info.experiment_id), str(run.info.run_id)


def _own_run(client: "MlflowClient", header: Mapping[str, Any]) -> "Run | None":
    if header["adopt"] is not None and is_alive(client, header["adopt"]):
        return client.get_run(header["adopt"])
    runs = search(client, everywhere(client), {FINGERPRINT: header["fingerprint"], ROLE: "fold"})
    unfinished = [run for run in runs if run.info.status != FINISHED]
    return unfinished[-1] if unfinished else None


def _parent(client: "MlflowClient", experiment: str, header: Mapping[str, Any]) -> str:
    """Parent run for a fold: the newest of its group that has no finished run of the fold yet.

    A fold that is trained anew therefore begins a new parent, and no parent averages a fold twice.
    """
    group = {GROUP: header["group"]}
    for parent in reversed(search(client, [experiment], {**group, ROLE: "experiment"})):
        run_id = str(parent.info.run_id)
        children = _children(client, run_id, header["tags"][FOLD])
        if all(child.info.status != FINISHED or child.info.run_id == header["adopt"] for child in children):
            return run_id
    tags = {k: v for k, v in header["tags"].items() if k not in {FOLD, FINGERPRINT, REBUILT, STAGE}}
    params = {k: v for k, v in header["params"].items() if k != "fold"}
    earlier = search(client, [experiment], {EXPERIMENT: header["experiment"], ROLE: "experiment"})
    changes = differences(params, earlier[0].data.params) if earlier else []
    taken = [str(run.info.run_name) for run in earlier]
    tags |= {ROLE: "experiment"} | ({DIFFERS: ", ".join(changes)} if changes else {})
    name = run_name(header["experiment"], changes, taken, tags.get(DVC_EXPERIMENT))
    created = client.create_run(experiment, run_name=name, tags=tags)
    log_params(client, created.info.run_id, params)
    return str(created.info.run_id)


def _children(client: "MlflowClient", parent: str, fold: str | None = None) -> list["Run"]:
    tags = {PARENT: parent, ROLE: "fold"} | ({} if fold is None else {FOLD: fold})
    return search(client, everywhere(client), tags)  # an adopted run may be in any of them


def summarise(client: "MlflowClient", run_id: str) -> None:
    """Bring the parent of a finished fold up to date, and end it.

    The parent holds the number of finished folds; for each validation metric the mean, the standard
    deviation and the 95% confidence interval over folds, each fold at its best epoch; the same over
    mice; and once all folds are there, the mean curve of every metric.
    """
    run = client.get_run(run_id)
    parent = run.data.tags.get(PARENT)
    if parent is None or run.data.tags.get(ROLE) != "fold" or not is_alive(client, parent):
        return
    folds = [child for child in _children(client, parent) if child.info.status == FINISHED]
    best = [best_epoch(client, fold) for fold in folds]
    summary = {"folds": float(len(folds)), **over_folds(best), **over_mice(best)}
    log_metrics(client, parent, [(key, rounded(value), now(), len(folds)) for key, value in summary.items()])
    if len({child.data.tags[FOLD] for child in folds}) == int(run.data.tags[FOLDS]):
        log_metrics(client, parent, _mean_curves(client, parent, folds))
    client.set_terminated(parent, FINISHED)


def best_epoch(client: "MlflowClient", fold: "Run") -> dict[str, float]:
    """Validation metrics of a fold at its best correlation after the warm-up: those of the published weights."""
    keys = [key for key in fold.data.metrics if key.startswith(VALIDATION)]
    if SCORE not in keys:
        return {}
    curves = {key: _curve(client, fold.info.run_id, key) for key in keys}
    steps = sorted(curves[SCORE])
    warmup = int(fold.data.params.get(WARMUP, 0))
    step = max(steps[warmup:] or steps, key=lambda at: curves[SCORE][at])
    return {key: curve[step] for key, curve in curves.items() if step in curve}


def validation_scores(client: "MlflowClient", run_id: str) -> dict[str, dict[str, float]]:
    """Validation correlation by mouse and fold: of a parent's finished folds, or of one fold."""
    run = client.get_run(run_id)
    children = _children(client, run_id) if run.data.tags.get(ROLE) == "experiment" else [run]
    scores: dict[str, dict[str, float]] = {}
    for child in children:
        for key, value in best_epoch(client, child).items():
            if key.startswith(f"{SCORE}/"):
                mouse = short_name(key.removeprefix(f"{SCORE}/"))  # runs from before carry the whole name
                scores.setdefault(mouse, {})[child.data.tags.get(FOLD, "?")] = value
    return scores


def _spread(key: str, values: list[float]) -> dict[str, float]:
    """Standard deviation and confidence interval (Student's t, which holds for few values)."""
    if len(values) < _ENOUGH:
        return {}
    middle, deviation = statistics.fmean(values), statistics.stdev(values)
    half = student_t(len(values) - 1) * deviation / math.sqrt(len(values))
    return {f"{key}/std": deviation, f"{key}/ci_low": middle - half, f"{key}/ci_high": middle + half}


def over_folds(folds: list[dict[str, float]]) -> dict[str, float]:
    """Mean, deviation and interval over folds of every metric that all of them have."""
    keys = set.intersection(*map(set, folds)) if folds else set()
    summary: dict[str, float] = {}
    for key in sorted(keys):
        values = [fold[key] for fold in folds]
        summary |= {f"{key}/mean": statistics.fmean(values), **_spread(key, values)}
    return summary


def over_mice(folds: list[dict[str, float]]) -> dict[str, float]:
    """Deviation and interval over mice of the correlation, each mouse's the mean of its folds."""
    mice = sorted({key for fold in folds for key in fold if key.startswith(f"{SCORE}/")})
    means = [statistics.fmean(fold[mouse] for fold in folds if mouse in fold) for mouse in mice]
    return _spread(f"{SCORE}/over_mice", means)


def student_t(freedom: int) -> float:
    """Two-sided quantile of Student's t distribution."""
    from scipy.stats import t

    return float(t.ppf((1 + _CONFIDENCE) / 2, freedom))


def _mean_curves(client: "MlflowClient", parent: str, folds: list["Run"]) -> list[tuple[str, float, int, int]]:
    """Mean over folds of every metric and step that all folds have and the parent has not."""
    keys = {key for key in set.intersection(*(set(f.data.metrics) for f in folds)) if not key.startswith(SYSTEM)}
    known = known_steps(client, parent, keys)
    curves: list[tuple[str, float, int, int]] = []
    for key in sorted(keys):
        histories = [_curve(client, fold.info.run_id, key) for fold in folds]
        for step in sorted(set.intersection(*(set(history) for history in histories))):
            if step not in known[key]:
                curves.append((key, statistics.fmean(history[step] for history in histories), now(), step))
    return curves
