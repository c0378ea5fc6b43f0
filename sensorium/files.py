"""Files that are whole or absent: atomic writes, digests, exclusive locks.

A writer never touches the final name: it fills a hidden sibling on the same file system, flushes it
to disk, and renames it. A reader therefore sees the old content or the new, also after a power cut.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, Self

import yaml
from pydantic import ValidationError

from sensorium.architectures import Section
from sensorium.errors import SensoriumError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTIAL_SUFFIX = ".partial"
"""Ending of every unfinished sibling; git and DVC ignore it."""
RETIRED_SUFFIX = ".retired"
"""Ending of a whole folder that is being replaced; git and DVC ignore it."""
_TICK_SECONDS = 0.01
_DEEPEST = 100
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML was built with it
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENOLCK)


def _sibling(path: Path, suffix: str = PARTIAL_SUFFIX) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{suffix}")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in a fault of the disk: a failed write does not know where it went."""
    try:
        yield
    except OSError as fault:
        if fault.filename is None and fault.errno in _DISK_FAULTS:
            fault.filename = str(path)
        raise


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
        with _naming(path):
            yield partial
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty sibling folder; on success it replaces `path`, on any error it is removed.

    A folder that is already at `path` is set aside first and removed only when the new one is in
    place; it goes back when that fails. A crash between the two renames leaves both on disk, never
    neither: `tidy` brings the old one back.

    Args:
        path: the final name; its parent is made when missing.

    Yields:
        The folder to fill, on the same file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, retired = _sibling(path), _sibling(path, RETIRED_SUFFIX)
    partial.mkdir()
    try:
        with _naming(path):
            yield partial
            sync_tree(partial)
            if path.exists():
                path.rename(retired)
            partial.rename(path)
            _sync(path.parent)
    finally:
        _settle(retired, path)
        discard(partial)


def _settle(retired: Path, path: Path) -> None:
    """Remove a retired folder where its place is taken, bring it back where it is not."""
    if not os.path.lexists(retired):
        return
    if not os.path.lexists(path):
        retired.rename(path)
        return
    condemned = _sibling(path)
    retired.rename(condemned)  # a folder that is removed in part must never come back
    discard(condemned)


def discard(path: Path) -> None:
    """Remove a file or a folder as far as it can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def tidy(path: Path) -> None:
    """Clean up what killed writers of `path` left beside it; only for who alone may write `path`.

    A retired folder comes back when nothing is at `path`; everything else is removed.

    Args:
        path: the final name that `atomic_folder` or `atomic_file` was given.
    """
    for retired in sorted(_siblings(path, RETIRED_SUFFIX), key=lambda found: found.lstat().st_ctime_ns, reverse=True):
        _settle(retired, path)
    for partial in _siblings(path, PARTIAL_SUFFIX):
        discard(partial)


def _siblings(path: Path, suffix: str) -> list[Path]:
    """What `_sibling` named after `path`, and not after a name that begins alike."""
    first = f".{path.name}."
    found = path.parent.glob(f"{glob.escape(first)}*{suffix}")
    return [sibling for sibling in found if "." not in sibling.name[len(first) : -len(suffix)]]


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path, error: type[SensoriumError], remedy: str | Callable[[], str]) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        error: class of what is raised.
        remedy: what to do about it, or a function that finds out.

    Raises:
        SensoriumError: of the class `error`, when the file is missing, a folder or not JSON, or nested too deep.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problem = "the file does not exist"
    except IsADirectoryError:
        problem = "a folder, expected a file"
    except (ValueError, RecursionError) as fault:  # not only the decoder's own: text, numbers and depth have limits
        problem = f"not valid JSON ({fault})"
    raise error(f"{path}: {problem}.", remedy if isinstance(remedy, str) else remedy())


def load_yaml(text: str) -> Any:
    """Read YAML without objects of Python.

    Raises:
        yaml.YAMLError: not YAML, a value that its type does not have, such as the date 2024-99-99, or nested more than
            `_DEEPEST` levels deep.
    """
    depth = 0
    try:
        for event in yaml.parse(text, _Loader):  # libyaml ends the process where the tree itself is too deep
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise yaml.YAMLError(f"nested more than {_DEEPEST} levels deep")
        return yaml.load(text, _Loader)  # noqa: S506 - a safe one
    except (ValueError, RecursionError) as fault:
        raise yaml.YAMLError(str(fault)) from fault


def map_npy(path: Path) -> "NDArray[Any]":
    """Map a .npy file read-only: its header is compared with its size, its values are not read.

    Raises:
        ValueError: it is not a .npy file, holds Python objects or values without bytes, or fewer bytes than its
            header claims.
        OSError: it cannot be read.
    """
    from numpy.lib import format as npy

    try:
        mapped: NDArray[Any] = npy.open_memmap(path, mode="r")
    except (TypeError, EOFError, OverflowError, MemoryError, RecursionError, SyntaxError, TokenError) as fault:
        # NumPy reads the header as an expression of Python, which raises all of these
        raise ValueError(f"its header is damaged: {fault!r}") from fault
    if mapped.size and not mapped.itemsize:  # a file of any size could claim any number of them
        raise ValueError(f"{mapped.dtype} of shape {mapped.shape}, values without bytes")
    return mapped


def read_npy(path: Path) -> "NDArray[Any]":
    """Read a .npy file whole, in one sequential read; memory is taken for what the file holds, not for what it claims.

    Raises:
        ValueError: it is not a .npy file, holds Python objects, or fewer bytes than its header claims.
        OSError: it cannot be read.
    """
    from numpy.lib import format as npy

    map_npy(path)
    with path.open("rb") as stream:
        array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    return array


class Record(Section):
    """Base of the JSON files that we write and read back: the fields are the keys, None stands for a missing one."""

    @classmethod
    def load(cls, path: Path, error: type[SensoriumError], remedy: str | Callable[[], str]) -> Self:
        """Read a file; the arguments are those of `read_json`.

        Raises:
            SensoriumError: of the class `error`, when the file is missing, not JSON, or has other keys or values.
        """
        tree = read_json(path, error, remedy)
        try:
            return cls.model_validate(tree)
        except ValidationError as fault:
            known = [(".".join(map(str, one["loc"])) or "content", one["msg"]) for one in fault.errors()]
            problem = "; ".join(f"{key}: {message.removeprefix('Value error, ')}" for key, message in known)
            raise error(f"{path}: {problem}.", remedy if isinstance(remedy, str) else remedy()) from fault

    def as_json(self) -> dict[str, Any]:
        """The content of the file, as plain values."""
        return self.model_dump(mode="json", exclude_none=True)

    def save(self, path: Path) -> None:
        """Write the file atomically; equal records give equal bytes."""
        write_json(path, self.as_json())


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path, *patterns: str) -> str:
    """SHA-256 over the names and contents of the files below a folder, of all or of these patterns, in hexadecimal."""
    found = sorted({path for pattern in patterns or ("*",) for path in folder.rglob(pattern) if path.is_file()})
    return digest_json([[path.relative_to(folder).as_posix(), sha256(path)] for path in found])


def digest_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON form, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def try_lock(descriptor: int, seconds: float = 0.0) -> bool:
    """Lock an open file for this process alone, until it is closed; returns whether nobody else holds it.

    Args:
        descriptor: of the file.
        seconds: how long to wait for who holds it.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_TICK_SECONDS)
        else:
            return True


@contextlib.contextmanager
def exclusive_lock(path: Path, busy: SensoriumError, *outputs: Path) -> Iterator[None]:
    """Hold an advisory lock on `path`; the kernel releases it however the process ends.

    Args:
        path: the lock file; it is made when missing and stays.
        busy: what to raise when another process holds the lock.
        outputs: files or folders that are written under this lock alone; what killed writers left beside them
            is put right.

    Raises:
        SensoriumError: `busy`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        with _naming(path):
            free = try_lock(stream.fileno())
        if not free:
            raise busy
        for output in outputs:
            tidy(output)
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
        with _naming(path):
            fcntl.flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
