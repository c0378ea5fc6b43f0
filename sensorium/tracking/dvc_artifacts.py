"""MLflow's artifact repository for `dvc://`: a registered version whose files are objects of DVC.

See `sensorium.tracking.dvc_files`. It works wherever the registry can be asked and DVC's cache or a remote be read:
in a client, in `mlflow models serve`, and behind the artifact page of MLflow's UI.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from sensorium.errors import SensoriumError
from sensorium.files import write_text
from sensorium.tracking.dvc_files import FILES, ROOT, VersionFiles
from sensorium.tracking.dvc_objects import DvcObjects, project_of

_ADDRESS = re.compile(r"(?P<model>dvc://registry/models/m-[0-9a-f]{32})/?(?P<folder>.*)")
_SERVER_STORES = ("_MLFLOW_SERVER_REGISTRY_STORE", "_MLFLOW_SERVER_FILE_STORE")
"""Variables by which MLflow's server tells its workers where registry and runs are."""


class DvcArtifactRepository(ArtifactRepository):  # type: ignore[misc]
    """Reads the files of one version; only `sensorium register` makes them, and nothing of DVC's is ever deleted."""

    @cached_property
    def _store(self) -> str:
        """Address of the registry: in a process of MLflow's server that of the database behind it."""
        import mlflow

        served = next(filter(None, map(os.environ.get, _SERVER_STORES)), None)
        return served or self.registry_uri or self.tracking_uri or mlflow.get_registry_uri()

    @cached_property
    def _files(self) -> VersionFiles:
        """Files below the address, which names a version or a folder in it."""
        from mlflow import MlflowClient

        address = _ADDRESS.fullmatch(self.artifact_uri)
        if address is None:
            raise MlflowException(f"{self.artifact_uri}: names no registered model.", INVALID_PARAMETER_VALUE)
        client = MlflowClient(tracking_uri=self._store, registry_uri=self._store)
        found = client.search_model_versions(f"source_path = '{address['model']}/{ROOT}'")
        tag = next((version.tags[FILES] for version in found if FILES in version.tags), None)
        if tag is None:
            raise MlflowException(f"{self.artifact_uri}: no version has these files.", RESOURCE_DOES_NOT_EXIST)
        with _as_mlflow():
            files, folder = VersionFiles.unpacked(tag), address["folder"].rstrip("/")
        return files.below(folder) if folder else files

    @cached_property
    def _objects(self) -> DvcObjects:
        return DvcObjects(project_of(self._store))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Files and folders directly in a folder; none for a file."""
        start = f"{path.strip('/')}/" if path else ""
        found: dict[str, int | None] = {}
        for name, size in self._files.sizes().items():
            if name.startswith(start):
                head, _, rest = name.removeprefix(start).partition("/")
                found[start + head] = None if rest else size
        return [FileInfo(name, size is None, size) for name, size in sorted(found.items())]

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        """Download a file or folder, once all of its objects are known to be there."""
        wanted = {
            entry.md5: name
            for name, entry in self._files.objects.items()
            if not artifact_path or name == artifact_path or name.startswith(f"{artifact_path.strip('/')}/")
        }
        with _as_mlflow():
            self._objects.require(wanted)
            return str(super().download_artifacts(artifact_path, dst_path))

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        """One file of `download_artifacts`, which has verified it."""
        name, target = remote_file_path.strip("/"), Path(local_path)
        if name in self._files.texts:
            write_text(target, self._files.texts[name])
        elif name in self._files.objects:
            self._objects.place(self._files.objects[name].md5, target, ["reflink", "copy"])
        else:
            raise MlflowException(f"{self.artifact_uri}: holds no file {name!r}.", RESOURCE_DOES_NOT_EXIST)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Refused: a version names what it holds by digest."""
        raise MlflowException(
            f"{self.artifact_uri}: a registered version does not change, {artifact_path or local_file} is not added. "
            "Type `sensorium register` for a new one.",
            INVALID_PARAMETER_VALUE,
        )

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Refused, as `log_artifact`."""
        self.log_artifact(local_dir, artifact_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Do nothing: the list of files goes with the version, and objects are DVC's; see `sensorium gc`."""


@contextmanager
def _as_mlflow() -> Iterator[None]:
    try:
        yield
    except SensoriumError as fault:
        raise MlflowException(str(fault), RESOURCE_DOES_NOT_EXIST) from fault
    except ImportError as fault:
        raise MlflowException(f"{fault}. Type `pip install 'sensorium[platform]'`.", RESOURCE_DOES_NOT_EXIST) from fault
