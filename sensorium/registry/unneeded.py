"""Versions of the model registry that nothing needs any more, and their removal.

A version is needed if it has an alias, if the champion replaced it, if a pin names its digest, or if it belongs to a
pair that is needed.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sensorium.errors import TrackingError
from sensorium.files import discard
from sensorium.paths import Paths
from sensorium.registry.manifest import PAIR, STUDENT, TEACHER, PairManifest, PairPin
from sensorium.registry.model_registry import DIGEST, MISSING, ModelRegistry, model_id, none_on
from sensorium.registry.promotion import PREVIOUS
from sensorium.tracking.dvc_files import FILES, VersionFiles
from sensorium.tracking.store import mlflow_errors

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


class Versions:
    """All versions of the registry, divided into needed and unneeded ones."""

    def __init__(self, paths: Paths, pins: Iterable[PairPin]) -> None:
        """Ask the registry.

        Args:
            paths: the project.
            pins: of all revisions that are kept.

        Raises:
            TrackingError: the registry cannot be reached or is damaged.
        """
        self._paths = paths
        self.data: dict[str, str] = {}
        """DVC's md5 of what the needed pairs were made from, by path."""
        self.objects: set[str] = set()
        """DVC's md5 of the weights of the needed versions."""
        with mlflow_errors(paths):
            self._registry = ModelRegistry(paths)
            found = [version for name in (PAIR, TEACHER, STUDENT) for version in self._all(name)]
            digests = {digest for pin in pins for digest in _digests(pin)}
            aliased = {name: self._aliased(name) for name in (PAIR, TEACHER, STUDENT)}
            champions = [v for v in found if v.name == PAIR and str(v.version) in aliased[PAIR]]
            aliased[PAIR] |= {v.tags.get(PREVIOUS, "") for v in champions}
            digests |= {v.tags.get(DIGEST, "") for v in found if str(v.version) in aliased[v.name]}
            for version in found:  # pairs come first
                if version.name == PAIR and version.tags.get(DIGEST) in digests:
                    pair = self._pair(version)
                    digests |= {model.digest for model in pair.models.values()}
                    self.data |= pair.data
        for version in found:
            if version.tags.get(DIGEST) in digests and FILES in version.tags:
                self.objects |= {entry.md5 for entry in VersionFiles.unpacked(version.tags[FILES]).objects.values()}
        self.unneeded: list[ModelVersion] = [v for v in found if v.tags.get(DIGEST) not in digests]

    def _all(self, name: str) -> list["ModelVersion"]:
        found = self._registry.client.search_model_versions(f"name = '{name}'")
        return sorted(found, key=lambda version: int(version.version))

    def _aliased(self, name: str) -> set[str]:
        """Numbers of the versions of a model that have an alias; a search does not tell."""
        model = none_on((MISSING,), self._registry.client.get_registered_model, name)
        return set() if model is None else {str(number) for number in model.aliases.values()}

    def _pair(self, version: "ModelVersion") -> PairManifest:
        return self._registry.manifest(version, PairManifest)

    def delete(self) -> None:
        """Delete the unneeded versions and their files, pairs first.

        Raises:
            TrackingError: the registry refuses.
        """
        with mlflow_errors(self._paths):
            for version in self.unneeded:
                self._registry.client.delete_model_version(version.name, version.version)
                if FILES not in version.tags:
                    self._delete_copies(version)
                if DIGEST in version.tags:
                    discard(self._paths.state / "registry" / version.tags[DIGEST])
                logged = model_id(version.source)
                if logged is not None:
                    self._registry.client.delete_logged_model(logged)

    def _delete_copies(self, version: "ModelVersion") -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        try:
            get_artifact_repository(version.source, tracking_uri=self._registry.store.uri).delete_artifacts()
        except (OSError, NotImplementedError) as fault:
            raise TrackingError(
                f"{version.name} version {version.version}: its files at {version.source} cannot be removed ({fault}).",
                "Remove them by hand; the version itself is deleted.",
            ) from fault


def _digests(pin: PairPin) -> set[str]:
    return {pin.pair.digest, *(model.digest for model in pin.models.values())}
