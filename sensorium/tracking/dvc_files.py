"""The files of a registered version: small ones with their text, weights by the MD5 of DVC's objects.

A tag of the version lists them. The address, dvc://registry/models/<id>/artifacts, only identifies the version, so
nothing has to be rewritten when project, database or remote move, and MLflow's artifact store holds nothing.
"""

import base64
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sensorium.errors import TrackingError
from sensorium.files import Record
from sensorium.tracking.dvc_objects import StoredObject

if TYPE_CHECKING:
    from sensorium.tracking.dvc_artifacts import DvcArtifactRepository

EXPERIMENT, LOCATION = "sensorium.registry", "dvc://registry"
"""MLflow experiment of the registered models, and where its artifacts are: MLflow derives a model's address from it."""
FILES = "mlflow.sensorium.files"
"""Tag of a version: its files. MLflow's UI does not show tags of this prefix."""
ROOT = "artifacts"
"""Folder by which MLflow extends a model's address."""


def repository(artifact_uri: str, **options: Any) -> "DvcArtifactRepository":
    """Open an address, for the entry point `mlflow.artifact_repository` (https://mlflow.org/docs/latest/ml/plugins/).

    A function, since MLflow loads its plugins while it is itself imported.
    """
    from sensorium.tracking.dvc_artifacts import DvcArtifactRepository

    return DvcArtifactRepository(artifact_uri, **options)


def place(path: str) -> str:
    """Path of a file relative to the model's address."""
    return f"{ROOT}/{path}"


class VersionFiles(Record):
    """The files of a version, by `place`."""

    texts: dict[str, str]
    objects: dict[str, StoredObject]

    @classmethod
    def of(cls, folder: Path, objects: Mapping[str, StoredObject]) -> Self:
        """Take small text files from a folder, and objects by path relative to it."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        texts = {place(path.relative_to(folder).as_posix()): path.read_text(encoding="utf-8") for path in files}
        return cls(texts=texts, objects={place(path): entry for path, entry in objects.items()})

    @classmethod
    def unpacked(cls, tag: str) -> Self:
        """The files that a tag lists.

        Raises:
            TrackingError: the tag is damaged.
        """
        try:
            return cls.model_validate_json(lzma.decompress(base64.b64decode(tag)))
        except (lzma.LZMAError, ValueError) as fault:
            reason = str(fault).splitlines()[0]
            raise TrackingError(
                f"tag {FILES} of a registered version: damaged ({reason}).",
                "Delete the version in MLflow, then type `sensorium registry restore`.",
            ) from fault

    def packed(self) -> str:
        """The value of the tag, for which MLflow allows 100,000 characters."""
        return base64.b64encode(lzma.compress(self.model_dump_json().encode())).decode()

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        texts = {path: len(text.encode()) for path, text in self.texts.items()}
        return texts | {path: entry.size for path, entry in self.objects.items()}

    def below(self, folder: str) -> Self:
        """The files in a folder, by path relative to it."""
        start = f"{folder}/"
        texts, objects = (
            {path.removeprefix(start): one for path, one in part.items() if path.startswith(start)}
            for part in (self.texts, self.objects)
        )
        return type(self)(texts=texts, objects=objects)
