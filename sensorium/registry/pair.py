"""Registering the teacher and the student as one pair, and loading the pair by its pin."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sensorium.config import Config
from sensorium.errors import TrackingError
from sensorium.evaluation.sources import CEILING, EQUAL, means
from sensorium.evaluation.sources import PAIR as PAIR_MEAN
from sensorium.files import digest_json, read_json
from sensorium.inference.weights import check_weights, read_weights
from sensorium.paths import Paths
from sensorium.recovery import later_remedy, locked_digests
from sensorium.registry.catalog import Catalog, Entry
from sensorium.registry.flavor import ENSEMBLE, Interface
from sensorium.registry.headline import ALL, read_scores
from sensorium.registry.manifest import PAIR, REGISTER, STUDENT, TEACHER, ModelContent, PairPin, Pin, trained_content
from sensorium.registry.results import tell
from sensorium.tracking.leaderboard import leaderboard_name
from sensorium.tracking.provenance import Provenance, source_tags
from sensorium.tracking.run_links import origin
from sensorium.tracking.store import mlflow_errors

EVALUATE = "Type `dvc repro evaluate`."


def register_pair(config: Config, paths: Paths) -> PairPin:
    """Register the trained teacher, student and their pair; equal content keeps its versions.

    Raises:
        TrackingError: folds or scores are missing.
    """
    contents = _contents(config, paths)
    table = paths.evaluation / "metrics.json"
    metrics = read_json(table, TrackingError, later_remedy(table, EVALUATE))
    mean = pair_source(config)
    scores = scores_by_role(metrics, {mean: ENSEMBLE} | {c.experiment: role for role, c in contents.items()})
    paired = paired_scores(paths.evaluation / "scores.csv", mean)
    registration = Registration(config, paths, contents, scores, paired, _weights(config, paths))
    with mlflow_errors(paths):
        catalog = Catalog(paths)
        pin = registration.carry_out(catalog)
        tell(catalog, paths, pin, metrics, scores, registration.tags, registration.leaderboard, mean)
    return pin


def pair_source(config: Config) -> str:
    """Source of the evaluation that is the mean of the pair: the ensemble where both have the same members."""
    return PAIR_MEAN if PAIR_MEAN in means(config) else ENSEMBLE


def scores_by_role(metrics: Any, roles: Mapping[str, str]) -> Any:
    """What metrics.json tells of the pair alone, so that a score of another experiment makes no new version.

    Args:
        metrics: tree whose leaves are scores by source.
        roles: role by source.
    """
    kept = {**roles, CEILING: CEILING} | ({EQUAL: EQUAL} if ENSEMBLE in roles else {})
    if any(isinstance(value, Mapping) for value in metrics.values()):
        return {key: scores_by_role(value, roles) for key, value in metrics.items()}
    return {kept[source]: score for source, score in metrics.items() if source in kept}


@dataclass(frozen=True)
class Registration:
    """What enters the registry."""

    config: Config
    paths: Paths
    contents: dict[str, ModelContent]
    """By role."""
    scores: Any
    """What metrics.json tells of the pair, by role."""
    paired: dict[str, dict[str, float]]
    """The score of the pair's mean by mouse and fold."""
    weights: dict[str, float] | None = None
    """Weight in the mean by experiment; None where both have the same say."""

    @property
    def leaderboard(self) -> str:
        """Name of the MLflow experiment that lists the models."""
        return leaderboard_name(self.config.preset)

    @cached_property
    def tags(self) -> dict[str, str]:
        """Tags of every version made."""
        return source_tags(self.config.seed) | Provenance.current(self.paths.root, "register").to_tags()

    def carry_out(self, catalog: Catalog) -> PairPin:
        """Register what is not registered yet."""
        origins = {
            role: origin(catalog.client, self.paths, content.experiment) for role, content in self.contents.items()
        }
        versions = {role: catalog.register(self.model(role, origins[role])) for role in self.contents}
        pair = self.pair(versions)
        return PairPin(Pin(PAIR, catalog.register(pair), pair.digest), self.contents, versions, self.weights)

    def model(self, role: str, trained: Mapping[str, str]) -> Entry:
        """Teacher or student.

        Args:
            role: `teacher` or `student`.
            trained: tags that tell where its folds were trained.
        """
        content = self.contents[role]
        manifest = {**_manifest(content), "role": role, "prediction": self._prediction}
        interface = self._interface([role])
        tags = {**self.tags, **trained}
        return Entry(content.name, content.digest, self.leaderboard, manifest, interface, content, tags)

    def pair(self, versions: dict[str, int]) -> Entry:
        """The pair of two versions."""
        manifest = {
            "models": {role: {**_manifest(c), "version": versions[role]} for role, c in self.contents.items()},
            "scores": self.scores,
            "paired": self.paired,
            "evaluation": self.config.evaluation.model_dump(mode="json"),
            "data": locked_digests(self.paths.root),
            "code": {key: value for key, value in self.tags.items() if "git" in key or key.endswith("version")},
            "prediction": self._prediction,
        } | ({} if self.weights is None else {"weights": self.weights})
        digest = pair_digest(self.contents, [self.scores, self.paired], self._prediction, self.weights)
        interface = self._interface([ENSEMBLE, *self.contents])
        return Entry(PAIR, digest, self.leaderboard, manifest, interface, tags=self.tags)

    @property
    def _prediction(self) -> dict[str, Any]:
        return self.config.prediction.model_dump(mode="json")

    def _interface(self, models: list[str]) -> Interface:
        model = self.config.experiment(next(iter(self.contents.values())).experiment).model
        frames = self.config.window.width + self.config.window.step - 1  # the shortest trial that can be predicted
        return Interface(list(self.config.dataset.mice), model.canvas, frames, models)


def paired_scores(path: Path, source: str) -> dict[str, dict[str, float]]:
    """A source's single-trial correlation by mouse and fold, from scores.csv; see `headline.read_scores`."""
    return {mouse: folds for mouse, folds in read_scores(path).get(source, {}).items() if mouse != ALL}


def pair_digest(
    contents: dict[str, ModelContent], scores: list[Any], prediction: Any, weights: dict[str, float] | None = None
) -> str:
    """Identity of a pair: what its models hold, how they scored, how it predicts, and their weights if unequal."""
    models = {role: content.digest for role, content in contents.items()}
    weighed = {} if weights is None else {"weights": weights}
    return digest_json({"models": models, "scores": scores, "prediction": prediction, **weighed})


def _weights(config: Config, paths: Paths) -> dict[str, float] | None:
    """Fitted weights, where params.yaml asks for them and the pair is the ensemble that they are fitted for."""
    if config.ensemble.weights == "equal" or pair_source(config) != ENSEMBLE:
        return None
    return read_weights(paths.evaluation / "weights.json", [config.registry.student, config.registry.teacher])


def _contents(config: Config, paths: Paths) -> dict[str, ModelContent]:
    return {
        "teacher": trained_content(config, paths, TEACHER, config.registry.teacher),
        "student": trained_content(config, paths, STUDENT, config.registry.student),
    }


def _manifest(content: ModelContent) -> dict[str, Any]:
    return {
        "name": content.name,
        "experiment": content.experiment,
        "digest": content.digest,
        "files": content.files,
    }


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
    folders = {}
    with mlflow_errors(paths):
        catalog = Catalog(paths)
        catalog.pinned(pinned, None)
        for role, content in pinned.models.items():
            folder = catalog.folder(catalog.pinned(pinned, role), content)
            folders[content.experiment] = [folder / fold for fold in content.folds]
    return folders


def pinned_weights(pin: Path) -> dict[str, float] | None:
    """Weights of a registered pair's ensemble by experiment; None where all have the same say.

    Raises:
        TrackingError: the pin is missing or damaged.
        PredictionError: the weights in it are none.
    """
    pinned = PairPin.read(pin)
    weights, experiments = pinned.weights, sorted(content.experiment for content in pinned.models.values())
    if weights is not None:
        if sorted(weights) != experiments:
            raise TrackingError(f"{pin}: weights of {', '.join(weights)}, not of the pair's experiments.", REGISTER)
        check_weights(weights, str(pin), REGISTER)
    return weights


def restore_pair(config: Config, paths: Paths) -> tuple[PairPin, bool]:
    """Register again what data/experiments holds, in a store that lost it.

    Returns:
        What is registered now, and whether it is what the pin on disk asks for.
    """
    restored = register_pair(config, paths)
    wanted = PairPin.read(paths.pair_pin) if paths.pair_pin.exists() else restored
    same = {role: content.digest for role, content in wanted.models.items()} == {
        role: content.digest for role, content in restored.models.items()
    }
    return restored, same and wanted.pair.digest == restored.pair.digest
