"""Registering the teacher and the student as one pair, and loading the pair by its pin."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sensorium.config import Config
from sensorium.errors import TrackingError
from sensorium.evaluation.sources import CEILING, ENSEMBLE, EQUAL, means
from sensorium.evaluation.sources import PAIR as PAIR_MEAN
from sensorium.evaluation.tables import read_metrics
from sensorium.files import digest_json, read_json
from sensorium.inference.ensemble import check_weights, read_weights
from sensorium.paths import Paths
from sensorium.recovery import later_remedy, locked_digests
from sensorium.registry.flavor import Interface
from sensorium.registry.manifest import (
    CONFIG,
    PAIR,
    REGISTER,
    STUDENT,
    TEACHER,
    WEIGHTS,
    ModelContent,
    ModelManifest,
    PairManifest,
    PairPin,
    Pin,
    PinnedModel,
    trained_content,
)
from sensorium.registry.model_registry import ModelRegistry, NewVersion
from sensorium.registry.results import EVALUATE, Evaluation, log_results, read_scores, without_pool
from sensorium.tracking.leaderboard import leaderboard_name
from sensorium.tracking.provenance import Provenance, source_tags
from sensorium.tracking.run_links import origin
from sensorium.tracking.runs import START
from sensorium.tracking.store import mlflow_errors


def register_pair(config: Config, paths: Paths) -> PairPin:
    """Register the trained teacher, student and their pair, in a store that lost them as well.

    Equal content keeps its versions.

    Raises:
        TrackingError: folds or scores are missing.
    """
    contents = {
        "teacher": trained_content(config.folds, paths, TEACHER, config.registry.teacher),
        "student": trained_content(config.folds, paths, STUDENT, config.registry.student),
    }
    found = _read_evaluation(config, paths, contents)
    weights = _fitted_weights(config, paths)
    tags = source_tags(config.seed) | Provenance.current(paths.root, "register").to_tags()
    leaderboard = leaderboard_name(config.preset)
    with mlflow_errors(paths):
        registry = ModelRegistry(paths)
        models = _register_models(config, paths, registry, contents, tags)
        manifest = PairManifest(
            models=models,
            scores=dict(found.pair),
            paired=without_pool(found.table.get(found.mean, {})),
            evaluation=config.evaluation.model_dump(mode="json"),
            data=locked_digests(paths.root),
            code={key: value for key, value in tags.items() if "git" in key or key.endswith("version")},
            prediction=config.prediction,
            weights=weights,
        )
        digest, interface = _pair_digest(manifest), _interface(config, [ENSEMBLE, *models])
        version = registry.register(NewVersion(PAIR, digest, manifest, interface, tags))
        pin = PairPin(pair=Pin(name=PAIR, version=version, digest=digest), models=models, weights=weights)
        log_results(registry, paths, pin, found, tags, leaderboard)
    return pin


def _read_evaluation(config: Config, paths: Paths, contents: Mapping[str, ModelContent]) -> Evaluation:
    metrics = read_metrics(paths.evaluation / "metrics.json", TrackingError, EVALUATE)
    mean = pair_source(config)
    roles = {mean: ENSEMBLE} | {content.experiment: role for role, content in contents.items()}
    return Evaluation(metrics, read_scores(paths.evaluation / "scores.csv"), scores_by_role(metrics, roles), mean)


def pair_source(config: Config) -> str:
    """Source of the evaluation that is the mean of the pair: the ensemble where both have the same members."""
    return PAIR_MEAN if PAIR_MEAN in means(config.ensemble, config.registry) else ENSEMBLE


def scores_by_role(metrics: Any, roles: Mapping[str, str]) -> Any:
    """What metrics.json holds of the pair alone, so that a score of another experiment makes no new version.

    Args:
        metrics: tree whose leaves are scores by source.
        roles: role by source.
    """
    kept = {**roles, CEILING: CEILING} | ({EQUAL: EQUAL} if ENSEMBLE in roles else {})
    if any(isinstance(value, Mapping) for value in metrics.values()):
        return {key: scores_by_role(value, roles) for key, value in metrics.items()}
    return {kept[source]: score for source, score in metrics.items() if source in kept}


def _fitted_weights(config: Config, paths: Paths) -> dict[str, float] | None:
    """Fitted weights, where params.yaml sets them and the pair is the ensemble that they are fitted for."""
    if config.ensemble.weights == "equal" or pair_source(config) != ENSEMBLE:
        return None
    return read_weights(paths.evaluation / "weights.json", [config.registry.student, config.registry.teacher])


def _register_models(
    config: Config, paths: Paths, registry: ModelRegistry, contents: Mapping[str, ModelContent], tags: Mapping[str, str]
) -> dict[str, PinnedModel]:
    """Register teacher and student, with tags that say where their folds were trained."""
    origins = {role: origin(registry.client, paths, content.experiment) for role, content in contents.items()}
    models = {}
    for role, content in contents.items():
        manifest = ModelManifest(**dict(content), role=role, prediction=config.prediction)
        interface = _interface(config, [role])
        own = {**tags, **origins[role], **_start_tags(paths, content)}
        new = NewVersion(content.name, content.digest, manifest, interface, own)
        models[role] = PinnedModel(**dict(content), version=registry.register(new))
    return models


def _start_tags(paths: Paths, content: ModelContent) -> dict[str, str]:
    """What the folds started from, and the digest of the fold that each started from; empty for random weights."""
    tags = {}
    for fold in content.folds:
        path = paths.experiment(content.experiment) / fold / CONFIG
        known = read_json(path, TrackingError, later_remedy(path, REGISTER))["info"]["provenance"]
        if "start" in known:
            tags[START] = known["settings"]["start"]["experiment"]
            tags[f"{START}.{fold}"] = known["start"]
    return tags


def _interface(config: Config, models: list[str]) -> Interface:
    canvas = config.experiment(config.registry.teacher).model.canvas
    frames = config.window.width + config.window.step - 1  # the shortest trial that can be predicted
    return Interface(list(config.dataset.mice), canvas, frames, models)


def _pair_digest(manifest: PairManifest) -> str:
    """Identity of a pair: what its models hold, how they scored, how it predicts, and their weights if unequal."""
    identity = {
        "models": {role: model.digest for role, model in manifest.models.items()},
        "scores": [manifest.scores, manifest.paired],
        "prediction": manifest.prediction.model_dump(mode="json"),
    }
    return digest_json(identity | ({} if manifest.weights is None else {"weights": manifest.weights}))


def load_pair(pin: Path, paths: Paths) -> dict[str, list[Path]]:
    """Fold folders of a registered pair, from the model registry, every file verified.

    Args:
        pin: file that `sensorium register` wrote.
        paths: where everything lies.

    Returns:
        Experiment name to its fold folders, in the order of the folds.

    Raises:
        TrackingError: the pin is missing, or a version is missing, deleted or damaged.
    """
    pinned = PairPin.read(pin)
    with mlflow_errors(paths):
        registry = ModelRegistry(paths)
        registry.resolve(pinned.pair)
        return {model.experiment: registry.folds(model) for model in pinned.models.values()}


def pinned_weights(pin: Path) -> dict[str, float] | None:
    """Weights of a registered pair's ensemble by experiment; None for equal weights.

    Raises:
        TrackingError: the pin is missing or damaged.
        PredictionError: the weights in it are none.
    """
    pinned = PairPin.read(pin)
    weights, experiments = pinned.weights, sorted(model.experiment for model in pinned.models.values())
    if weights is not None:
        if sorted(weights) != experiments:
            raise TrackingError(f"{pin}: weights of {', '.join(weights)}, not of the pair's experiments.", REGISTER)
        check_weights(weights, str(pin), REGISTER)
    return weights


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
        registry = ModelRegistry(paths)
        for model in (TEACHER, STUDENT):
            for version in registry.client.search_model_versions(f"name = '{model}'"):
                try:
                    content = registry.manifest(version, ModelManifest)
                    if content.experiment == experiment and content.files.get(name) == digest:
                        return registry.folder(version, content) / name
                except TrackingError:  # a version that is damaged or gone holds nothing to compare with
                    continue
    return None
