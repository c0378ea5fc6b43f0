"""Where published models lie: folders, buckets of S3 and repositories of the Hugging Face hub.

A place holds one model at a time, and each revision that was given a name. What is fetched is verified by whoever
opens it; what is uploaded becomes visible with its config.json, which comes last.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sensorium.errors import CheckpointError, ConfigError
from sensorium.files import atomic_folder
from sensorium.hub.release import ReleaseConfig, is_release

_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")
HUGGING_FACE, S3 = "hf://", "s3://"


class Place(Protocol):
    """Somewhere to publish to and to load from."""

    def fetch(self, revision: str | None) -> Path:
        """Folder on this machine with the model, which is not yet verified.

        Raises:
            ConfigError: there is no such folder.
            TransferError: there is no such model or revision, or it cannot be fetched.
        """
        ...

    def publish(self, folder: Path, revision: str | None) -> None:
        """Put a published model there; one of the same content stays as it is.

        Raises:
            ConfigError: the revision has another content already, or something else is in the way.
            TransferError: it cannot be uploaded.
        """
        ...


def place(address: str, revision: str | None = None) -> Place:
    """What an address names.

    Args:
        address: a folder, s3://BUCKET/PREFIX or hf://OWNER/NAME.
        revision: the name of a release that is going to be used there.

    Raises:
        ConfigError: the address or the revision is malformed.
    """
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ConfigError(f"revision {revision!r}: no name of a release.", "Use letters, digits, '.', '_' and '-': v1.")
    if address.startswith(HUGGING_FACE):
        from sensorium.hub.hugging_face import Repository

        return Repository.of(address)
    if address.startswith(S3):
        from sensorium.hub.bucket import Bucket

        return Bucket.of(address)
    if "://" in address:
        raise ConfigError(
            f"{address}: no place of published models.",
            f"Name a folder, {S3}BUCKET/PREFIX or {HUGGING_FACE}OWNER/NAME.",
        )
    return Folder(Path(address).expanduser())


@dataclass(frozen=True)
class Folder:
    """A folder; a revision is a subfolder."""

    path: Path

    def fetch(self, revision: str | None) -> Path:
        """See `Place`."""
        folder = self.path / (revision or "")
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder.", "Correct the path or the revision.")
        return folder

    def publish(self, folder: Path, revision: str | None) -> None:
        """See `Place`."""
        target = (self.path / (revision or "")).resolve()
        if is_release(target):
            if keeps(target, folder, str(target), revision):
                return
        elif target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise ConfigError(f"{target}: holds something else than a published model.", "Name another folder.")
        with atomic_folder(target) as partial:
            shutil.copytree(folder, partial, dirs_exist_ok=True)


def keeps(there: Path, new: Path, name: str, revision: str | None) -> bool:
    """Whether a place has the content already, so that it stays as it is.

    Args:
        there: folder with the config.json of the model that the place holds.
        new: the model to publish.
        name: of the place, for messages.
        revision: the name that the new one shall have.

    Raises:
        ConfigError: the revision has another content.
    """
    try:
        found = ReleaseConfig.read(there).digest
    except CheckpointError:
        found = ""  # damaged, or of another format: replaced where it has no name
    if found == ReleaseConfig.read(new).digest:
        return True
    if revision is not None:
        raise ConfigError(f"{name}: revision {revision!r} has another content.", "A revision stays: give a new name.")
    return False
