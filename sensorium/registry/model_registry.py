"""MLflow's model registry: versions found by digest, made when missing, repaired in place.

A version holds an MLmodel file for `mlflow.pyfunc`, a manifest, and for teacher and student the
trained folds: safetensors and JSON, nothing pickled. Its folds are objects of DVC that it names by digest
(`sensorium.tracking.dvc_artifacts`); versions of earlier releases hold copies in MLflow's artifact store.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from sensorium.errors import TrackingError
from sensorium.files import atomic_folder, tidy, waiting_lock, write_text
from sensorium.paths import Paths
from sensorium.registry.flavor import Interface, write_model
from sensorium.registry.manifest import RESTORE, ModelContent, ModelManifest, PairManifest, Pin, PinnedModel
from sensorium.tracking.database import ARTIFACTS
from sensorium.tracking.dvc_files import EXPERIMENT, FILES, LOCATION, VersionFiles, place
from sensorium.tracking.dvc_objects import DvcObjects, StoredObject, project_of
from sensorium.tracking.store import URI_VARIABLE, TrackingStore

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

DIGEST = "sensorium.digest"
"""Tag of a version: identity of its content."""
_DATA = Path("data", "model")
"""Where the folds and the manifest lie inside a version."""
MANIFEST = "manifest.json"
_MODEL_ID = re.compile(r"\bm-[0-9a-f]{32}\b")
MISSING, EXISTS = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"
"""Error codes of MLflow."""

Manifest = TypeVar("Manifest", ModelManifest, PairManifest)


@dataclass(frozen=True)
class NewVersion:
    """What to register as one version."""

    name: str
    digest: str
    manifest: ModelManifest | PairManifest
    interface: Interface
    """What a request to the model looks like."""
    tags: Mapping[str, str] = field(default_factory=dict)


class ModelRegistry:
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
        self._objects = DvcObjects(self.store.root if store is None else project_of(self.store.uri))

    def register(self, new: NewVersion) -> int:
        """Version that holds the content; an equal one is reused, a damaged one repaired.

        Safe under parallel calls on one machine.
        """
        with waiting_lock(self.store.state / "registry.lock"), self.store.in_force():
            found = self.find(new.name, new.digest)
            if found is None:
                return self._create(new)
            if FILES in found.tags:
                self._store_objects(new)
            elif self._is_damaged(found, new):
                self._fill(found.source, new)
            return int(found.version)

    def find(self, name: str, digest: str) -> "ModelVersion | None":
        """The newest usable version of a digest, or None."""
        clause = f"name = '{name}' and tags.`{DIGEST}` = '{digest}'"
        versions = [v for v in self.client.search_model_versions(clause) if v.status == "READY"]
        return max(versions, key=lambda version: int(version.version), default=None)

    def version(self, name: str, number: int) -> "ModelVersion | None":
        """A version by its number, None where there is none."""
        return none_on((MISSING,), self.client.get_model_version, name, str(number))

    def resolve(self, pin: Pin | PinnedModel) -> "ModelVersion":
        """The version of a pin; when its number holds something else, the version of the same digest.

        Raises:
            TrackingError: the registry has no version of that digest.
        """
        found = self.version(pin.name, pin.version)
        if found is not None and found.tags.get(DIGEST) == pin.digest and found.status == "READY":
            return found
        found = self.find(pin.name, pin.digest)
        if found is None:
            problem = f"{pin.name} version {pin.version}: not in the model registry at {self.store.label}."
            raise TrackingError(problem, RESTORE)
        return found

    def folds(self, model: PinnedModel) -> list[Path]:
        """Local folders of a pinned model's folds, in their order, verified file by file.

        Raises:
            TrackingError: the version is missing, or files of it are missing or damaged.
        """
        folder = self.folder(self.resolve(model), model)
        return [folder / fold for fold in model.folds]

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

    def manifest(self, version: "ModelVersion", kind: type[Manifest]) -> Manifest:
        """Content of a version's manifest.json.

        Raises:
            TrackingError: it is missing or damaged.
        """
        local = _local(version.source)
        if local is not None:
            return kind.load(local / _DATA / MANIFEST, TrackingError, RESTORE)
        with tempfile.TemporaryDirectory() as folder:
            return kind.load(self._fetch(version, _DATA / MANIFEST, Path(folder)), TrackingError, RESTORE)

    def _download(self, version: "ModelVersion", content: ModelContent) -> Path:
        """Copy of a remote version, kept by digest; a damaged copy is fetched anew."""
        folder = self._paths.state / "registry" / content.digest
        with waiting_lock(folder.with_name(f"{content.digest}.lock")):
            tidy(folder)
            if content.faults(folder / _DATA.name):
                with atomic_folder(folder) as partial:
                    self._fetch(version, _DATA, partial)
        return folder / _DATA.name

    def _fetch(self, version: "ModelVersion", part: Path, folder: Path) -> Path:
        """Fetch a file or folder of a version into a folder, under its own name."""
        if FILES in version.tags:
            return self._fetch_objects(version, part, folder / part.name)
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        uri = f"{version.source}/{part.as_posix()}"
        try:
            return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=self.store.uri))
        except (MlflowException, OSError) as fault:
            raise TrackingError(
                f"{version.name} version {version.version}: {part.name} cannot be fetched ({fault}).", RESTORE
            ) from fault

    def _fetch_objects(self, version: "ModelVersion", part: Path, target: Path) -> Path:
        """As `_fetch`; where the disk allows it, weights are links to DVC's cache, read-only as a version is."""
        files = VersionFiles.unpacked(version.tags[FILES])
        if place(part.as_posix()) in files.texts:
            write_text(target, files.texts[place(part.as_posix())])
            return target
        files = files.below(place(part.as_posix()))
        label = f"{version.name} version {version.version}"
        self._objects.require({entry.md5: f"{label}: {path}" for path, entry in files.objects.items()})
        for path, text in files.texts.items():
            write_text(target / path, text)
        for path, entry in files.objects.items():
            self._objects.place(entry.md5, target / path, ["reflink", "hardlink", "copy"])
        return target

    def _is_damaged(self, version: "ModelVersion", new: NewVersion) -> bool:
        """Whether a version that should hold the content lacks files or holds others."""
        local = _local(version.source)
        if local is not None and not all((local / name).is_file() for name in ("MLmodel", _DATA / MANIFEST)):
            return True
        try:
            return isinstance(new.manifest, ModelContent) and not self.folder(version, new.manifest)
        except TrackingError:
            return True

    def _create(self, new: NewVersion) -> int:
        none_on((EXISTS,), self.client.create_registered_model, new.name)
        tags = {**new.tags, DIGEST: new.digest}
        experiment = self.store.experiment_id(self.client, EXPERIMENT, LOCATION)
        model = self.client.create_logged_model(experiment, name=new.name, tags=tags, model_type="encoding model")
        with tempfile.TemporaryDirectory() as folder:
            self._describe(Path(folder), new, model.artifact_location)
            files = VersionFiles.of(Path(folder), self._store_objects(new))
        self.client.finalize_logged_model(model.model_id, "READY")
        created = self.client.create_model_version(
            new.name, model.artifact_location, tags=tags | {FILES: files.packed()}, model_id=model.model_id
        )
        return int(created.version)

    def _store_objects(self, new: NewVersion) -> dict[str, StoredObject]:
        """Make sure that DVC's cache has the folds' files; returns them by path in the version."""
        return {(_DATA / name).as_posix(): self._objects.add(path) for name, path in self._trained(new).items()}

    def _trained(self, new: NewVersion) -> dict[str, Path]:
        """Files that predictions depend on, by path in the version's data; a pair has none of its own."""
        if not isinstance(new.manifest, ModelContent):
            return {}
        folder = self._paths.experiment(new.manifest.experiment)
        return {name: folder / name for name in new.manifest.files}

    def _describe(self, folder: Path, new: NewVersion, location: str) -> None:
        """Write everything of a version but its folds."""
        write_model(folder, new.name, new.manifest.as_json(), new.interface, location, model_id(location))
        new.manifest.save(folder / _DATA / MANIFEST)

    def _fill(self, location: str, new: NewVersion) -> None:
        """Write the files of a version that has copies; only for the holder of the registry's lock."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        local = _local(location)
        if local is not None:
            base = next((parent for parent in local.parents if parent.name == ARTIFACTS), local.parent)
            if not local.is_relative_to(self.store.home) and not base.exists():  # of a project that was moved
                raise TrackingError(
                    f"{base}: the folder in which {self.store.label} keeps its files does not exist.",
                    f"Put it back, mount it, or unset {URI_VARIABLE} to use the project's own database.",
                )
            tidy(local)
            with atomic_folder(local) as partial:
                self._write(partial, new, location)
            return
        staging = self._paths.state / "registry"
        staging.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=staging) as folder:
            self._write(Path(folder), new, location)
            get_artifact_repository(location, tracking_uri=self.store.uri).log_artifacts(folder)

    def _write(self, folder: Path, new: NewVersion, location: str) -> None:
        self._describe(folder, new, location)
        for name, path in self._trained(new).items():
            (folder / _DATA / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / _DATA / name)


def none_on(codes: Sequence[str], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of MLflow; None where it refuses with one of these error codes."""
    from mlflow.exceptions import MlflowException

    try:
        return function(*arguments)
    except MlflowException as fault:
        if fault.error_code not in codes:
            raise
        return None


def model_id(location: str) -> str | None:
    """Id of MLflow's logged model whose files lie at a location."""
    found = _MODEL_ID.search(location)
    return found[0] if found else None


def _local(location: str) -> Path | None:
    """Path of an artifact location on this machine's disk, None for a remote one."""
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme in {"", "file"} else None
