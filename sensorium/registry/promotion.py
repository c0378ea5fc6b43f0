"""Which pair is the champion: one alias, moved by a gate, moved back by one command.

The alias stands on the pair alone, and a pair pins its two models, so no reader ever sees a mixed
pair. MLflow sets an alias without looking at where it stood; a registered model whose name can exist
only once therefore serves as the lock between two promotions, also of different machines.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sensorium.comparison import Comparison, compare
from sensorium.errors import TrackingError
from sensorium.files import sha256
from sensorium.paths import Paths
from sensorium.registry.catalog import Catalog
from sensorium.registry.manifest import PAIR, ModelContent, PairPin
from sensorium.tracking.store import mlflow_errors

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
PREVIOUS = "sensorium.previous_champion"
"""Tag of a champion: the version that it replaced."""
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
        margin: by how much the mean may be worse with 95% confidence; 0 asks for a better one.
        new_data: the data changed for good; the scores are not compared.

    Raises:
        TrackingError: the candidate is missing, damaged, stale or not better, or another promotion was faster.
    """
    with mlflow_errors(paths):
        catalog = Catalog(paths)
        seen = champion(catalog)
        candidate = _pinned(catalog, paths) if version is None else find_pair(catalog, version)
        manifest = verified_manifest(catalog, candidate)
        comparison = None
        if seen is not None:
            if seen.version == candidate.version:
                return Promotion(int(seen.version), int(seen.version), None)
            comparison = _gate(catalog, candidate, manifest, seen, margin, new_data)
        with _only_one(catalog):
            _check_unmoved(catalog, seen)
            replaced = None if seen is None else int(seen.version)
            _note(catalog, candidate, replaced, comparison)
            catalog.client.set_registered_model_alias(PAIR, CHAMPION, candidate.version)
    return Promotion(int(candidate.version), replaced, comparison)


def rollback(paths: Paths) -> Promotion:
    """Make the pair that the champion replaced the champion again.

    Raises:
        TrackingError: there is no champion, it replaced none, or the earlier one is missing or damaged.
    """
    with mlflow_errors(paths):
        catalog = Catalog(paths)
        seen = champion(catalog)
        previous = seen.tags.get(PREVIOUS) if seen is not None else None
        if seen is None:
            raise TrackingError(f"{PAIR}: there is no champion yet.", "Type `sensorium promote` to name one.")
        if previous is None:
            raise TrackingError(
                f"{PAIR}: version {seen.version} is the first champion, there is none to go back to.",
                "It stays. Another one becomes champion by `sensorium promote --version <number>`.",
            )
        earlier = find_pair(catalog, int(previous))
        verified_manifest(catalog, earlier)
        with _only_one(catalog):
            _check_unmoved(catalog, seen)
            catalog.client.set_registered_model_alias(PAIR, CHAMPION, earlier.version)
    return Promotion(int(earlier.version), int(seen.version), None)


def champion(catalog: Catalog) -> "ModelVersion | None":
    """The pair that the alias names, None before the first promotion."""
    from mlflow.exceptions import MlflowException

    try:
        return catalog.client.get_model_version_by_alias(PAIR, CHAMPION)
    except MlflowException as fault:
        if fault.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def find_pair(catalog: Catalog, version: int) -> "ModelVersion":
    """A version of the pair.

    Raises:
        TrackingError: it is not in the registry.
    """
    from mlflow.exceptions import MlflowException

    try:
        return catalog.client.get_model_version(PAIR, str(version))
    except MlflowException as fault:
        if fault.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = sorted(int(found.version) for found in catalog.client.search_model_versions(f"name = '{PAIR}'"))
        raise TrackingError(
            f"{PAIR} version {version}: not in the model registry at {catalog.store.label}.",
            f"Choose one of: {', '.join(map(str, known))}." if known else "Type `sensorium register` first.",
        ) from fault


def _pinned(catalog: Catalog, paths: Paths) -> "ModelVersion":
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
    return catalog.resolve(pin.pair.name, pin.pair.version, pin.pair.digest)


def verified_manifest(catalog: Catalog, pair: "ModelVersion") -> dict[str, Any]:
    """Manifest of a pair, after every file of its models was verified.

    Raises:
        TrackingError: something is missing or damaged.
    """
    manifest = catalog.manifest(pair)
    for entry in manifest["models"].values():
        content = ModelContent(entry["name"], entry["experiment"], dict(entry["files"]))
        catalog.folder(catalog.resolve(content.name, entry["version"], content.digest), content)
    return manifest


def _gate(
    catalog: Catalog,
    candidate: "ModelVersion",
    manifest: Mapping[str, Any],
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
    reference = catalog.manifest(seen)
    if new_data:
        return None
    changed = _changed_data(manifest, reference)
    comparison = compare(manifest["paired"], reference["paired"])
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


def _changed_data(candidate: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """Names of the stores, folds and scoring settings that differ."""
    changed = [key for key in ("evaluation",) if candidate[key] != reference[key]]
    paths = {path for path in {*candidate["data"], *reference["data"]} if path.startswith(("data/store", "data/folds"))}
    return changed + sorted(path for path in paths if candidate["data"].get(path) != reference["data"].get(path))


def _note(catalog: Catalog, version: "ModelVersion", replaced: int | None, comparison: Comparison | None) -> None:
    """Tag the candidate before the alias moves: the champion then always knows whom it replaced."""
    tags = {"sensorium.promoted_at": str(int(time.time() * 1000))}
    if replaced is not None:
        tags[PREVIOUS] = str(replaced)
    if comparison is not None:
        tags["sensorium.gate"] = f"{comparison} than version {replaced}"
    for key, value in tags.items():
        catalog.client.set_model_version_tag(PAIR, version.version, key, value)


def _check_unmoved(catalog: Catalog, seen: "ModelVersion | None") -> None:
    present = champion(catalog)
    before, after = (None if v is None else v.version for v in (seen, present))
    if before != after:
        raise TrackingError(
            f"{PAIR}: another promotion was faster, the champion is now version {after}, no longer {before}.",
            "Type the command again: it compares with the new champion.",
        )


@contextmanager
def _only_one(catalog: Catalog) -> Iterator[None]:
    """Hold the lock between promotions; the registry lets a name be made only once."""
    from mlflow.exceptions import MlflowException

    holder = f"{socket.gethostname()}:{os.getpid()}"
    tags = {"sensorium.holder": holder, "sensorium.until": str(time.time() + _LOCK_SECONDS)}
    _break_stale_lock(catalog)
    try:
        catalog.client.create_registered_model(_LOCK, tags=tags, description="Held while the champion changes.")
    except MlflowException as fault:
        if fault.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        raise TrackingError(
            f"{PAIR}: another promotion is at work.", "Wait a moment, then type the command again."
        ) from fault
    try:
        yield
    finally:
        catalog.client.delete_registered_model(_LOCK)


def _break_stale_lock(catalog: Catalog) -> None:
    from mlflow.exceptions import MlflowException

    try:
        held = catalog.client.get_registered_model(_LOCK)
    except MlflowException as fault:
        if fault.error_code == "RESOURCE_DOES_NOT_EXIST":
            return
        raise
    if float(held.tags.get("sensorium.until", 0)) < time.time():
        catalog.client.delete_registered_model(_LOCK)
