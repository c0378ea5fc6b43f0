"""The three kinds of remote behind one small protocol: an S3 bucket, an HTTP server, a folder."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from sensorium.errors import TransferError
from sensorium.files import atomic_file
from sensorium.remote.settings import OBJECTS, RemoteSettings

_CHUNK = 1 << 20


class Store(Protocol):
    """What a check needs of a remote; every method raises TransferError, nothing else."""

    def connect(self) -> str:
        """Reach the remote; return where it is, for the report."""

    def sample(self) -> str | None:
        """Key of some object that is there, None when nothing is."""

    def stream(self, key: str) -> Iterator[bytes] | None:
        """Content of an object, in pieces; None when it is not there."""


@runtime_checkable
class WritableStore(Store, Protocol):
    """A remote that a check can write, and clean up after itself: every kind but HTTP."""

    def write(self, key: str, source: BinaryIO) -> None:
        """Create or replace an object."""

    def delete(self, key: str) -> None:
        """Remove an object."""


class FolderStore:
    """A remote that is a folder of this machine or of a mounted share."""

    def __init__(self, settings: RemoteSettings) -> None:
        self._settings = settings
        self._folder = Path(settings.url)

    def connect(self) -> str:
        """Reach the folder."""
        if not self._folder.is_dir():
            url = self._settings.set_option("url", "FOLDER")
            raise TransferError(
                f"remote {self._settings.name!r}: {self._folder} is no folder.",
                f"Mount or create it, or correct the path: {url}",
            )
        with self._explained("read"):
            next(self._folder.iterdir(), None)
        return str(self._folder)

    def sample(self) -> str | None:
        """Key of the first object found."""
        with self._explained("read"):
            files = (file for file in (self._folder / OBJECTS).glob("??/*") if file.is_file())
            first = next(files, None)
        return first.relative_to(self._folder).as_posix() if first else None

    def stream(self, key: str) -> Iterator[bytes] | None:
        """Content of an object."""
        path = self._folder / key
        return self._blocks(path) if path.is_file() else None

    def _blocks(self, path: Path) -> Iterator[bytes]:
        with self._explained("read"), path.open("rb") as stream:
            while block := stream.read(_CHUNK):
                yield block

    def write(self, key: str, source: BinaryIO) -> None:
        """Create or replace a file, whole or not at all."""
        with (
            self._explained("write to"),
            atomic_file(self._folder / key) as partial,
            partial.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, _CHUNK)

    def delete(self, key: str) -> None:
        """Remove a file."""
        with self._explained("write to"):
            (self._folder / key).unlink()

    @contextlib.contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as fault:
            reason = os.strerror(fault.errno) if fault.errno else str(fault)
            raise TransferError(
                f"remote {self._settings.name!r}: cannot {action} {self._folder}: {reason}.",
                "Correct its permissions or free space, or add --read-only where you only pull from it.",
            ) from fault


def open_store(settings: RemoteSettings, known: Sequence[str], timeout: float) -> Store:
    """The store behind a remote; nothing is contacted yet.

    Args:
        settings: the remote.
        known: keys of this project's objects, where the remote cannot list its own.
        timeout: seconds that a server may take to answer.
    """
    if settings.kind == "s3":
        from sensorium.remote.s3 import S3Store

        return S3Store(settings, timeout)
    if settings.kind == "http":
        from sensorium.remote.http import HttpStore

        return HttpStore(settings, known, timeout)
    return FolderStore(settings)
