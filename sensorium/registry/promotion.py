"""Which pair is the champion: one alias, moved by a gate, moved back by one command.

Only the pair has the alias, and a pair pins its two models, so no reader ever sees a mixed
pair. MLflow moves an alias whatever it points at; a registered model whose name can exist
only once therefore serves as the lock between two promotions, also of different machines.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensorium.errors import TrackingError
from sensorium.evaluation.comparison import Comparison, compare
from sensorium.files import sha256
from sensorium.paths import Paths
from sensorium.registry.manifest import PAIR, PairManifest, PairPin
from sensorium.registry.model_registry import EXISTS, MISSING, ModelRegistry, none_on
from sensorium.tracking.store import mlflow_errors

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
PREVIOUS = "sensorium.previous_champion"
"""Tag of a champion: the version that it replaced."""
_NO_CHAMPION = (f"{PAIR}: there is no champion yet.", "Type `sensorium promote` to name one.")
_LOCK = "sensorium-pair-promotion"
_LOCK_SECONDS = 120
"""After this time a lock is that of a promotion that was killed."""


@dataclass(frozen=True)
class Promotion:
    """What a promotion did."""

    version: int
    replaced: int | None
    """The champion before; None when there was none."""
    comparison: Comparison | None
    """Candidate minus champion; None for the first one, and for one on new data."""


def promote(paths: Paths, version: int | None = None, margin: float = 0.0, new_data: bool = False) -> Promotion:
    """Make a pair the champion, if it scores better out of fold than the present one.

    Args:
        paths: where everything lies.
        version: version of the pair; the pinned one by default.
        margin: by how much the mean may be worse with 95% confidence; 0 requires a better one.
        new_data: the data changed for good; the scores are not compared.

    Raises:
        TrackingError: the candidate is missing, damaged, stale or not better, or another promotion was faster.
    """
    with mlflow_errors(paths):
        registry = ModelRegistry(paths)
        seen = champion(registry)
        candidate = _pinned(registry, paths) if version is None else _find_pair(registry, version)
        manifest = _verified_manifest(registry, candidate)
        replaced, comparison = None, None
        tags = {"sensorium.promoted_at": str(int(time.time() * 1000))}
        if seen is not None:
            replaced = int(seen.version)
            if seen.version == candidate.version:
                return Promotion(replaced, replaced, None)
            comparison = _gate(registry, candidate, manifest, seen, margin, new_data)
            tags |= {PREVIOUS: str(replaced)}
            tags |= {} if comparison is None else {"sensorium.gate": f"{comparison} than version {replaced}"}
        _set_champion(registry, seen, candidate, tags)
    return Promotion(int(candidate.version), replaced, comparison)


def rollback(paths: Paths) -> Promotion:
    """Make the pair that the champion replaced the champion again.

    Raises:
        TrackingError: there is no champion, it replaced none, or the earlier one is missing or damaged.
    """
    with mlflow_errors(paths):
        registry = ModelRegistry(paths)
        seen = champion(registry)
        if seen is None:
            raise TrackingError(*_NO_CHAMPION)
        if (previous := seen.tags.get(PREVIOUS)) is None:
            raise TrackingError(
                f"{PAIR}: version {seen.version} is the first champion, there is none to go back to.",
                "It stays. Another one becomes champion by `sensorium promote --version <number>`.",
            )
        earlier = _find_pair(registry, int(previous))
        _verified_manifest(registry, earlier)
        _set_champion(registry, seen, earlier, {})
    return Promotion(int(earlier.version), int(seen.version), None)


def champion(registry: ModelRegistry) -> "ModelVersion | None":
    """The pair that the alias names, None before the first promotion."""
    codes = (MISSING, "INVALID_PARAMETER_VALUE")
    return none_on(codes, registry.client.get_model_version_by_alias, PAIR, CHAMPION)


def _find_pair(registry: ModelRegistry, version: int) -> "ModelVersion":
    """A version of the pair, which must be in the registry."""
    found = registry.version(PAIR, version)
    if found is None:
        known = sorted(int(found.version) for found in registry.client.search_model_versions(f"name = '{PAIR}'"))
        raise TrackingError(
            f"{PAIR} version {version}: not in the model registry at {registry.store.label}.",
            f"Choose one of: {', '.join(map(str, known))}." if known else "Type `sensorium register` first.",
        )
    return found


def scores_of_pair(paths: Paths, version: str) -> dict[str, dict[str, float]]:
    """Out-of-fold correlation of a registered pair, by mouse and fold.

    Args:
        paths: the project.
        version: a number, or `champion`.

    Raises:
        TrackingError: there is no such version, or no champion yet.
    """
    with mlflow_errors(paths):
        registry = ModelRegistry(paths)
        found = champion(registry) if version == CHAMPION else _find_pair(registry, int(version))
        if found is None:
            raise TrackingError(*_NO_CHAMPION)
        return registry.manifest(found, PairManifest).paired


def _pinned(registry: ModelRegistry, paths: Paths) -> "ModelVersion":
    """The pinned pair, unless the folds on disk have changed since it was registered."""
    pin = PairPin.read(paths.pair_pin)
    for content in pin.models.values():
        for fold in content.folds:
            config = paths.experiment(content.experiment) / fold / "config.json"  # it holds the weights' digest
            if config.exists() and sha256(config) != content.files[f"{fold}/config.json"]:
                raise TrackingError(
                    f"{paths.pair_pin}: stale, {content.experiment} {fold} was trained again since.",
                    "Type `dvc repro register`, or name an older pair: `sensorium promote --version <number>`.",
                )
    return registry.resolve(pin.pair)


def _verified_manifest(registry: ModelRegistry, pair: "ModelVersion") -> PairManifest:
    """Manifest of a pair, after every file of its models was verified."""
    manifest = registry.manifest(pair, PairManifest)
    for model in manifest.models.values():
        registry.folds(model)
    return manifest


def _gate(
    registry: ModelRegistry,
    candidate: "ModelVersion",
    manifest: PairManifest,
    seen: "ModelVersion",
    margin: float,
    new_data: bool,
) -> Comparison | None:
    """Refuse a candidate that is stale or does not score better than the champion."""
    name = f"{PAIR} version {candidate.version}"
    if int(candidate.version) < int(seen.version):
        raise TrackingError(
            f"{name}: stale, version {seen.version} is the champion and was registered later.",
            "Type `sensorium rollback` to go back to the champion before.",
        )
    reference = registry.manifest(seen, PairManifest)
    if new_data:
        return None
    changed = ["evaluation"] if manifest.evaluation != reference.evaluation else []
    inputs = {path for path in {*manifest.data, *reference.data} if path.startswith(("data/store", "data/folds"))}
    changed += sorted(path for path in inputs if manifest.data.get(path) != reference.data.get(path))
    comparison = compare(manifest.paired, reference.paired)
    if changed or comparison is None:
        raise TrackingError(
            f"{name}: scored on other data than the champion, version {seen.version}: {', '.join(changed)}.",
            "Score both on the same data; if the data changed for good, type `sensorium promote --new-data`.",
        )
    if comparison.low <= -margin:
        raise TrackingError(
            f"{name}: out of fold {comparison} than version {seen.version}.",
            f"The champion stays. Train a better pair, or accept less: `sensorium promote --margin` above "
            f"{max(0.0, -comparison.low):.4f}.",
        )
    return comparison


def _set_champion(
    registry: ModelRegistry, seen: "ModelVersion | None", version: "ModelVersion", tags: Mapping[str, str]
) -> None:
    """Tag a version and then move the alias to it: the champion then always knows whom it replaced."""
    with _promotion_lock(registry):
        before, after = (None if v is None else v.version for v in (seen, champion(registry)))
        if before != after:
            raise TrackingError(
                f"{PAIR}: another promotion was faster, the champion is now version {after}, no longer {before}.",
                "Type the command again: it compares with the new champion.",
            )
        for key, value in tags.items():
            registry.client.set_model_version_tag(PAIR, version.version, key, value)
        registry.client.set_registered_model_alias(PAIR, CHAMPION, version.version)


@contextmanager
def _promotion_lock(registry: ModelRegistry) -> Iterator[None]:
    """Hold the lock between promotions; the registry lets a name be made only once."""
    client = registry.client
    held = none_on((MISSING,), client.get_registered_model, _LOCK)
    if held is not None and float(held.tags.get("sensorium.until", 0)) < time.time():
        client.delete_registered_model(_LOCK)
    holder = f"{socket.gethostname()}:{os.getpid()}"
    tags = {"sensorium.holder": holder, "sensorium.until": str(time.time() + _LOCK_SECONDS)}
    if none_on((EXISTS,), client.create_registered_model, _LOCK, tags, "Held while the champion changes.") is None:
        raise TrackingError(f"{PAIR}: another promotion is at work.", "Wait a moment, then type the command again.")
    try:
        yield
    finally:
        client.delete_registered_model(_LOCK)
