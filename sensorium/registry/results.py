"""The out-of-fold scores in MLflow: a run per experiment and one for the registered pair, and a card per version.

Scores are known only when all folds are predicted, so they are told when the pair is registered. They
stand on the experiments' parent runs as well, the rows of the leaderboard.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sensorium.evaluation.sources import DERIVED
from sensorium.evaluation.tables import SINGLE_TRIAL
from sensorium.files import digest_json, waiting_lock
from sensorium.mice import short_names
from sensorium.paths import Paths
from sensorium.registry.card import Papers, learning_curves, model_card, scores_by_mouse
from sensorium.registry.catalog import Catalog
from sensorium.registry.flavor import ENSEMBLE
from sensorium.registry.headline import PREFIX, tell_rows
from sensorium.registry.manifest import PairPin
from sensorium.tracking.descriptions import rounded, run_name
from sensorium.tracking.event_log import FINISHED
from sensorium.tracking.provenance import DVC_EXPERIMENT
from sensorium.tracking.run_links import RUNS, TRAINED, find_run, run_links
from sensorium.tracking.runs import (
    DIFFERS,
    EXPERIMENT,
    PARENT,
    ROLE,
    is_alive,
    search,
    update_metrics,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_SCORES = "sensorium.scores"
"""Tag: digest of what an evaluation run tells."""


@dataclass(frozen=True)
class Result:
    """One row of the comparison."""

    source: str
    """Source of the scores in the tables of the evaluation."""
    experiment: str
    """Experiment, or several joined by commas."""
    metrics: dict[str, float]
    version: "ModelVersion | None" = None
    """Version in the registry, where the experiment is one of the pair, or its mean."""


def tell(
    catalog: Catalog,
    paths: Paths,
    pin: PairPin,
    metrics: Mapping[str, Any],
    scores: Mapping[str, Any],
    tags: Mapping[str, str],
    leaderboard: str,
    mean: str,
) -> None:
    """Record the scores of all experiments and of a registered pair; what is recorded already stays as it is.

    Args:
        catalog: the registry, and its tracking store.
        paths: where the tables of the evaluation lie.
        pin: the registered pair.
        metrics: content of metrics.json.
        scores: what it tells of the pair, by role.
        tags: tags of a new run.
        leaderboard: name of the MLflow experiment.
        mean: source of the mean of the pair.
    """
    results = [
        Result(content.experiment, content.experiment, metrics_of(scores, role), catalog.pinned(pin, role))
        for role, content in pin.models.items()
    ]
    pair = [result.experiment for result in results]
    results.append(Result(mean, ",".join(sorted(pair)), metrics_of(scores, ENSEMBLE), catalog.pinned(pin, None)))
    others = sorted(set(metrics[SINGLE_TRIAL]) - {*pair, *DERIVED})
    results += [Result(name, name, metrics_of(metrics, name)) for name in others]
    card = model_card(pin, scores)
    pictures = [scores_by_mouse(scores, [*pin.models, ENSEMBLE]), learning_curves(paths, sorted(pair))]
    papers = Papers(card, dict(zip(("figures/scores.png", "figures/learning_curves.png"), pictures, strict=True)))
    with waiting_lock(catalog.store.state / "runs.lock"):
        rows = {result.source: _tell_run(catalog, paths, result, tags, papers, leaderboard) for result in results}
        tell_rows(catalog.client, paths.evaluation / "scores.csv", rows, pin.models["teacher"].experiment)
    for version in (result.version for result in results if result.version is not None):
        if version.description != card:
            catalog.client.update_model_version(version.name, version.version, card)


def metrics_of(scores: Mapping[str, Any], source: str) -> dict[str, float]:
    """Metrics of one source, over all mice and by mouse, from the tree of metrics.json."""
    found: dict[str, float] = {}
    mice = scores.get("mice", {})
    names = short_names(mice)
    for prefix, tree in [("", scores), *((f"/{names[mouse]}", tree) for mouse, tree in mice.items())]:
        for metric, by_source in tree.items():
            if isinstance(by_source, Mapping) and isinstance(by_source.get(source), float):
                found[f"{PREFIX}/{metric}{prefix}"] = rounded(by_source[source])
    return found


def _tell_run(
    catalog: Catalog, paths: Paths, result: Result, tags: Mapping[str, str], papers: Papers, leaderboard: str
) -> str:
    """Record the scores of one source; returns the run that is its row: the parent of its folds, or its own."""
    version_tags = {} if result.version is None else result.version.tags
    client, digest = catalog.client, digest_json([result.metrics, version_tags.get("sensorium.digest")])
    parent = _parent(catalog, paths, result.experiment)
    if parent is None:
        experiment = catalog.store.experiment_id(client, leaderboard)
    else:
        experiment = str(client.get_run(parent).info.experiment_id)
    found = [run for run in search(client, [experiment], {_SCORES: digest}) if run.info.status == FINISHED]
    if found:
        run_id = str(found[-1].info.run_id)
    else:
        own = {**tags, _SCORES: digest, ROLE: "evaluation", EXPERIMENT: result.experiment}
        own |= {key: text for key, text in version_tags.items() if key in {RUNS, TRAINED}}
        own |= {} if parent is None else {PARENT: parent}
        name = "evaluation" if parent is not None else _row_name(catalog, paths, experiment, result.experiment)
        run_id = str(client.create_run(experiment, run_name=name, tags=own).info.run_id)
        model_id = None if result.version is None else model_id_of(result.version)
        for key, value in result.metrics.items():
            client.log_metric(run_id, key, value, model_id=model_id)
        for name in ("metrics.json", "scores.csv"):
            client.log_artifact(run_id, str(paths.evaluation / name))
        for described in filter(None, () if result.version is None else (run_id, parent)):
            papers.attach(client, described)
        client.set_terminated(run_id, FINISHED)
    if parent is not None:
        update_metrics(client, parent, result.metrics)
    return parent or run_id


def _row_name(catalog: Catalog, paths: Paths, within: str, scored: str) -> str:
    """Name of an evaluation that is a row: of an ensemble, by what its members' executions are named after."""
    parts = scored.split(",")
    rows = [catalog.client.get_run(run_id) for part in parts if (run_id := _parent(catalog, paths, part))]
    told = dict.fromkeys(item for row in rows for item in filter(None, row.data.tags.get(DIFFERS, "").split(", ")))
    dvc = next((row.data.tags[DVC_EXPERIMENT] for row in rows if DVC_EXPERIMENT in row.data.tags), None)
    earlier = search(catalog.client, [within], {ROLE: "evaluation", EXPERIMENT: scored})
    label = parts[0] if len(parts) == 1 else ENSEMBLE
    return run_name(label, list(told), [str(run.info.run_name) for run in earlier], dvc)


def _parent(catalog: Catalog, paths: Paths, experiment: str) -> str | None:
    """The parent run of most of the folds on disk, by their runs; None where they tell nothing."""
    found: Counter[str] = Counter()
    for fold in run_links(paths, experiment):
        if run_id := find_run(catalog.client, paths, experiment, fold):
            found.update(filter(None, [catalog.client.get_run(run_id).data.tags.get(PARENT)]))
    return next((parent for parent, _ in found.most_common() if is_alive(catalog.client, parent)), None)


def model_id_of(version: "ModelVersion") -> str | None:
    """Id of MLflow's logged model behind a version."""
    from sensorium.registry.catalog import MODEL_ID

    found = MODEL_ID.search(version.source)
    return found[0] if found else None
