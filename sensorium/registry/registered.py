"""A registered version by its address `models:/name@alias` or `models:/name/number`: its folds and what is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sensorium.config import PredictionConfig
from sensorium.errors import TrackingError
from sensorium.paths import Paths, user_cache
from sensorium.registry.manifest import PAIR, ModelManifest, PairManifest, PairPin
from sensorium.registry.model_registry import MISSING, ModelRegistry, none_on
from sensorium.tracking.store import TrackingStore, mlflow_errors

SCHEME = "models:/"
_FORMS = f"Write {SCHEME}NAME@ALIAS or {SCHEME}NAME/VERSION, such as {SCHEME}{PAIR}@champion."


@dataclass(frozen=True)
class Registered:
    """A version of the teacher, the student or the pair."""

    folds: Mapping[str, Sequence[Path]]
    """Verified folders by experiment."""
    prediction: PredictionConfig
    weights: Mapping[str, float] | None = None
    """Weight of each experiment; None for equal weights."""
    paired: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Single-trial correlation of a pair's mean, out of fold, by mouse and fold."""
    label: str = ""
    """Name and version, for readers."""
    digest: str = ""
    """Identity of all weights, and of their weights in the mean."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of the version."""


def find_registered(address: str, paths: Paths | None) -> Registered:
    """Folds of a registered version, fetched where needed, every file verified.

    Args:
        address: such as models:/sensorium-pair@champion.
        paths: the project whose registry to ask; None for the one that MLflow itself uses.

    Raises:
        TrackingError: no such version, or files of it are missing or damaged.
    """
    with mlflow_errors(paths or Paths(Path.cwd())):
        registry = mlflow_registry() if paths is None else ModelRegistry(paths)
        return _content(registry, *_version(registry, address))


def pinned_pair(paths: Paths) -> Registered:
    """The pair that the project's pin names, every file verified.

    Raises:
        TrackingError: the pin is missing, or a version is missing, deleted or damaged.
    """
    pin = PairPin.read(paths.pair_pin)
    with mlflow_errors(paths):
        registry = ModelRegistry(paths)
        return _content(registry, PAIR, registry.resolve(pin.pair))


def _content(registry: ModelRegistry, name: str, version: Any) -> Registered:
    known = {"label": f"{name} version {version.version}", "tags": version.tags}
    if name == PAIR:
        return replace(pair_content(registry, registry.manifest(version, PairManifest)), **known)
    model = registry.manifest(version, ModelManifest)
    folder = registry.folder(version, model)
    folds = {model.experiment: [folder / fold for fold in model.folds]}
    return Registered(folds, model.prediction, digest=model.digest, **known)


def pair_content(registry: ModelRegistry, pair: PairManifest) -> Registered:
    """The folds of a pair's models, every file verified.

    Raises:
        TrackingError: the registry lacks one of them, or files are missing or damaged.
    """
    folds = {model.experiment: registry.folds(model) for model in pair.models.values()}
    return Registered(folds, pair.prediction, pair.weights, pair.paired)


def _version(registry: ModelRegistry, address: str) -> tuple[str, Any]:
    """Name of a registered model, and the version that is meant."""
    name, _, number = address.removeprefix(SCHEME).partition("/")
    name, _, alias = name.partition("@")
    if not name or bool(number) == bool(alias) or (number and not number.isdecimal()):
        raise TrackingError(f"{address}: names no version of a registered model.", _FORMS)
    found = (
        registry.version(name, int(number))
        if number
        else none_on((MISSING, "INVALID_PARAMETER_VALUE"), registry.client.get_model_version_by_alias, name, alias)
    )
    if found is None:
        raise TrackingError(
            f"{address}: the model registry at {registry.store.label} has no such version.",
            "Type `sensorium register` and `sensorium promote`, or name another one.",
        )
    return name, found


def mlflow_registry() -> ModelRegistry:
    """The registry that MLflow itself uses; what has to be fetched is kept in a folder of the user's."""
    import mlflow

    uri = mlflow.get_registry_uri()
    database = Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None
    root = database.parent if database is not None else user_cache()
    return ModelRegistry(Paths(root), TrackingStore(uri, root, root))
