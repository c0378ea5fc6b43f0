"""Model versions in MLflow's registry: found by digest, made when missing, mended in place.

A version holds an MLmodel file for `mlflow.pyfunc`, a manifest, and for teacher and student the
trained folds: safetensors and JSON, nothing pickled.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sensorium.errors import TrackingError
from sensorium.files import atomic_folder, tidy, waiting_lock, write_json
from sensorium.paths import Paths
from sensorium.registry.flavor import Interface, write_model
from sensorium.registry.manifest import RESTORE, ModelContent, PairPin
from sensorium.registry.placing import Placer
from sensorium.tracking.database import ARTIFACTS
from sensorium.tracking.store import URI_VARIABLE, TrackingStore

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

DIGEST = "sensorium.digest"
"""Tag of a version: identity of its content."""
_DATA = Path("data", "model")
"""Where the folds and the manifest lie inside a version."""
MANIFEST = "manifest.json"
MODEL_ID = re.compile(r"\bm-[0-9a-f]{32}\b")
"""Id of MLflow's logged model, in the location of its files."""


@dataclass(frozen=True)
class Entry:
    """What to register as one version."""

    name: str
    digest: str
    experiment: str
    """MLflow experiment that lists the model."""
    manifest: dict[str, Any]
    """Content of manifest.json."""
    interface: Interface
    """What a request to the model looks like."""
    content: ModelContent | None = None
    """Trained folds; a pair has none of its own."""
    tags: Mapping[str, str] | None = None


class Catalog:
    """The registry of one store."""

    def __init__(self, paths: Paths, store: TrackingStore | None = None) -> None:
        """Open the registry.

        Args:
            paths: the project.
            store: the store to use; the one in force by default.
        """
        self._paths = paths
        self.store = store or TrackingStore.of(paths)
        self.client: MlflowClient = self.store.client()

    def register(self, entry: Entry) -> int:
        """Version that holds the entry's content; an equal one is reused, a damaged one mended.

        Safe under parallel calls on one machine.
        """
        with waiting_lock(self.store.state / "registry.lock"), self.store.in_force():
            found = self.find(entry.name, entry.digest)
            if found is None:
                return self._create(entry)
            if self._faults(found, entry):
                self._fill(found.source, entry)
            return int(found.version)

    def find(self, name: str, digest: str) -> "ModelVersion | None":
        """The newest usable version of a digest, or None."""
        clause = f"name = '{name}' and tags.`{DIGEST}` = '{digest}'"
        versions = [v for v in self.client.search_model_versions(clause) if v.status == "READY"]
        return max(versions, key=lambda version: int(version.version), default=None)

    def resolve(self, name: str, version: int, digest: str) -> "ModelVersion":
        """The version of a pin; when its number holds something else, the version of the same digest.

        Raises:
            TrackingError: the registry has no version of that digest.
        """
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_model_version(name, str(version))
        except MlflowException as fault:
            if fault.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            if found.tags.get(DIGEST) == digest and found.status == "READY":
                return found
        found = self.find(name, digest)
        if found is None:
            raise TrackingError(f"{name} version {version}: not in the model registry at {self.store.label}.", RESTORE)
        return found

    def pinned(self, pin: PairPin, role: str | None) -> "ModelVersion":
        """Version of a pin's teacher or student, or of the pair itself when the role is None."""
        if role is None:
            return self.resolve(pin.pair.name, pin.pair.version, pin.pair.digest)
        content = pin.models[role]
        return self.resolve(content.name, pin.versions[role], content.digest)

    def folder(self, version: "ModelVersion", content: ModelContent) -> Path:
        """Local folder with the version's folds, verified file by file.

        Raises:
            TrackingError: files are missing or damaged.
        """
        local = _local(version.source)
        folder = local / _DATA if local is not None else self._download(version, content)
        faults = content.faults(folder)
        if faults:
            raise TrackingError(f"{version.name} version {version.version} in {folder}: {'; '.join(faults)}.", RESTORE)
        return folder

    def manifest(self, version: "ModelVersion") -> dict[str, Any]:
        """Content of a version's manifest.json.

        Raises:
            TrackingError: it is missing or damaged.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        name = f"{version.name} version {version.version}"
        uri = f"{version.source}/{(_DATA / MANIFEST).as_posix()}"
        try:
            with tempfile.TemporaryDirectory() as folder:
                local = download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=self.store.uri)
                tree = json.loads(Path(local).read_text(encoding="utf-8"))
        except (MlflowException, OSError, ValueError) as fault:
            raise TrackingError(f"{name}: its manifest cannot be read ({fault}).", RESTORE) from fault
        assert isinstance(tree, dict), "written by this class"
        return tree

    def _download(self, version: "ModelVersion", content: ModelContent) -> Path:
        """Copy of a remote version, kept by digest; a damaged copy is fetched anew."""
        folder = self._paths.state / "registry" / content.digest
        with waiting_lock(folder.with_name(f"{content.digest}.lock")):
            tidy(folder)
            if not folder.exists() or content.faults(folder):
                self._fetch(version, folder)
        return folder

    def _fetch(self, version: "ModelVersion", folder: Path) -> None:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        try:
            with atomic_folder(folder) as partial:
                uri = f"{version.source}/{_DATA.as_posix()}"
                fetched = download_artifacts(artifact_uri=uri, dst_path=str(partial), tracking_uri=self.store.uri)
                _lift(Path(fetched), partial)
        except (MlflowException, OSError) as fault:
            raise TrackingError(
                f"{version.name} version {version.version}: its files cannot be fetched ({fault}).", RESTORE
            ) from fault

    def _faults(self, version: "ModelVersion", entry: Entry) -> list[str]:
        """What is wrong with the files of a version that should hold the entry."""
        local = _local(version.source)
        if local is not None and not all((local / name).is_file() for name in ("MLmodel", _DATA / MANIFEST)):
            return ["MLmodel or manifest is missing"]
        if entry.content is None:
            return []
        try:
            self.folder(version, entry.content)
        except TrackingError as fault:
            return [fault.problem]
        return []

    def _create(self, entry: Entry) -> int:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(entry.name)
        except MlflowException as fault:
            if fault.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {**(entry.tags or {}), DIGEST: entry.digest}
        experiment = self.store.experiment_id(self.client, entry.experiment)
        model = self.client.create_logged_model(experiment, name=entry.name, tags=tags, model_type="encoding model")
        self._fill(model.artifact_location, entry)
        self.client.finalize_logged_model(model.model_id, "READY")
        version = self.client.create_model_version(
            entry.name, model.artifact_location, tags=tags, model_id=model.model_id
        )
        return int(version.version)

    def _fill(self, location: str, entry: Entry) -> None:
        """Write the files of a version to where the store keeps them; only for the holder of the registry's lock."""
        local = _local(location)
        if local is not None:
            self._check_place(local)
            tidy(local)
            with atomic_folder(local) as partial:
                self._write(partial, entry, location)
            return
        staging = self._paths.state / "registry"
        staging.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=staging) as folder:
            self._write(Path(folder), entry, location)
            self._upload(Path(folder), location)

    def _check_place(self, folder: Path) -> None:
        """Refuse to make a folder anew that was outside the project, and is gone.

        Raises:
            TrackingError: the store's addresses are those of a project that was moved, or of another machine.
        """
        base = next((parent for parent in folder.parents if parent.name == ARTIFACTS), folder.parent)
        if not folder.is_relative_to(self.store.home) and not base.exists():
            raise TrackingError(
                f"{base}: the folder in which {self.store.label} keeps its files does not exist.",
                f"Put it back, mount it, or unset {URI_VARIABLE} to use the project's own database.",
            )

    def _upload(self, folder: Path, location: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(location, tracking_uri=self.store.uri).log_artifacts(str(folder))

    def _write(self, folder: Path, entry: Entry, location: str) -> None:
        model_id = MODEL_ID.search(location)
        write_model(folder, entry.name, entry.manifest, entry.interface, location, model_id[0] if model_id else None)
        data = folder / _DATA
        write_json(data / MANIFEST, entry.manifest)
        if entry.content is not None:
            placer = Placer(self.store.root)
            for fold in entry.content.folds:
                source = self._paths.experiment(entry.content.experiment) / fold
                for path in sorted(p for p in source.rglob("*") if p.is_file()):
                    placer.place(path, data / fold / path.relative_to(source))


def _local(location: str) -> Path | None:
    """Path of an artifact location on this machine's disk, None for a remote one."""
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme in {"", "file"} else None


def _lift(source: Path, target: Path) -> None:
    """Move what was fetched to the top of the folder that keeps it."""
    for path in list(source.iterdir()):
        shutil.move(path, target / path.name)
