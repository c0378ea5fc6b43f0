"""Files that are whole or absent: atomic writes, digests, exclusive locks.

A writer never touches the final name: it fills a hidden sibling on the same file system, flushes it
to disk, and renames it. A reader therefore sees the old content or the new, also after a power cut.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sensorium.errors import SensoriumError

PARTIAL_SUFFIX = ".partial"
"""Ending of every unfinished sibling; git and DVC ignore it."""

_READ_BYTES = 1 << 20


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, itself included, to disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a sibling to write; on success it becomes `path`, on any error it is removed.

    Args:
        path: the final name; its folder is made when missing.

    Yields:
        The path to write to, on the same file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _sibling(path)
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty sibling folder; on success it replaces `path`, on any error it is removed.

    A folder that already stands at `path` is set aside first and removed only when the new one is
    in place: a crash between the two renames leaves both on disk, never neither.

    Args:
        path: the final name; its parent is made when missing.

    Yields:
        The folder to fill, on the same file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _sibling(path)
    partial.mkdir()
    retired = _sibling(path)
    try:
        yield partial
        sync_tree(partial)
        if path.exists():
            path.rename(retired)
        partial.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path, error: type[SensoriumError], remedy: str) -> Any:
    """Read a JSON file.

    Raises:
        SensoriumError: of the class `error`, when the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: the file does not exist.", remedy) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise error(f"{path}: not valid JSON ({fault}).", remedy) from fault


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON form, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def exclusive_lock(path: Path, busy: SensoriumError) -> Iterator[None]:
    """Hold an advisory lock on `path`; the kernel releases it however the process ends.

    Args:
        path: the lock file; it is made when missing and stays.
        busy: what to raise when another process holds the lock.

    Raises:
        SensoriumError: `busy`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        yield


@contextlib.contextmanager
def waiting_lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold an advisory lock on `path`, waiting for it as long as it takes.

    Args:
        path: the lock file; it is made when missing and stays.
        shared: whether others may hold it at the same time, shared as well.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
