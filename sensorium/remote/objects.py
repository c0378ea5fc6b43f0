"""The objects that this clone needs, compared one by one with what a remote holds.

DVC names an object by the MD5 of its content, so a remote can be checked without a second source: an object
whose content has another MD5 than its name is damaged.
"""

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from sensorium.errors import TransferError
from sensorium.remote.faults import explained

if TYPE_CHECKING:
    from dvc.data_cloud import Remote

State = Literal["intact", "missing", "damaged"]

_FOLDER = ".dir"
_JOBS = 4
_BLOCK_BYTES = 16 << 20
"""Bytes of an object in a bucket that are fetched at once."""


@dataclass(frozen=True)
class TrackedObject:
    """An object that dvc.lock or a .dvc file names."""

    digest: str
    """MD5; with `.dir` behind it for the listing of a folder."""
    path: str
    """The file or folder that it holds, relative to the project's root."""

    @property
    def key(self) -> str:
        """Name of the object, relative to the remote's URL."""
        return f"files/md5/{self.digest[:2]}/{self.digest[2:]}"


def tracked_objects(repo: Any, remote: str) -> list[TrackedObject]:
    """Objects of all outputs that a push to this remote would send, folders not yet opened.

    Raises:
        TransferError: DVC cannot read the project.
    """
    from dvc.exceptions import DvcException

    try:
        return [
            TrackedObject(str(out.hash_info.value), Path(out.fs_path).relative_to(repo.root_dir).as_posix())
            for out in repo.index.outs
            if out.use_cache and out.can_push and out.hash_info.name == "md5" and out.remote in (None, remote)
        ]
    except DvcException as fault:
        raise TransferError(
            f"{repo.root_dir}: DVC cannot read the project: {fault}", "Correct the file named above."
        ) from fault


def open_object(remote: "Remote", item: TrackedObject) -> BinaryIO:
    """Open an object for reading from its beginning to its end."""
    streamed = remote.fs.protocol in ("http", "https")  # without its size, and without ranges
    options = {"block_size": 0, "size": 1} if streamed else {"block_size": _BLOCK_BYTES}
    stream: BinaryIO = remote.fs.open(remote.odb.oid_to_path(item.digest), "rb", **options)
    return stream


def is_damaged(item: TrackedObject, digest: str) -> bool:
    """Whether an object whose content has this MD5 is not the one that was wanted."""
    return digest != item.digest.removesuffix(_FOLDER)


def _audit_one(remote: "Remote", item: TrackedObject) -> tuple[State, list[TrackedObject]]:
    """State of one object, and the files of an intact folder. What is no file at all is damaged."""
    from dvc_data.hashfile.hash import fobj_md5

    listing = b""
    try:
        with explained(remote, "read from"), open_object(remote, item) as stream:
            if item.digest.endswith(_FOLDER):
                listing = stream.read()
                digest = hashlib.md5(listing, usedforsecurity=False).hexdigest()
            else:
                digest = fobj_md5(stream)
    except FileNotFoundError:
        return "missing", []
    except TransferError as fault:
        if isinstance(fault.__cause__, IsADirectoryError):
            return "damaged", []
        if remote.fs.protocol == "local":
            raise TransferError(f"{fault.problem.rstrip('.')}: {item.path} ({item.key}).", fault.remedy) from fault
        raise
    if is_damaged(item, digest):
        return "damaged", []
    entries = json.loads(listing) if listing else []
    return "intact", [TrackedObject(entry["md5"], f"{item.path}/{entry['relpath']}") for entry in entries]


def audit(
    remote: "Remote", items: Sequence[TrackedObject], progress: Callable[[TrackedObject], None]
) -> defaultdict[State, list[TrackedObject]]:
    """Read every object once and compare it with its name.

    Args:
        remote: the remote.
        items: what should be there; folders are opened.
        progress: called with each object that was read.

    Returns:
        Objects by their state, sorted by path. A file of a folder whose listing is there was pushed: it is damaged
        where it is missing.
    """
    result: defaultdict[State, list[TrackedObject]] = defaultdict(list)
    seen: dict[str, TrackedObject] = {}
    top = set(items)
    with ThreadPoolExecutor(_JOBS) as pool:
        while items:
            new = {item.digest: item for item in reversed(items) if item.digest not in seen}
            seen |= new
            items = []
            states = pool.map(partial(_audit_one, remote), new.values())
            for item, (state, files) in zip(new.values(), states, strict=True):
                result["damaged" if state == "missing" and item not in top else state].append(item)
                items += files
                progress(item)
    for group in result.values():
        group.sort(key=lambda item: item.path)
    return result


def repair(remote: "Remote", cache: Any, damaged: Sequence[TrackedObject]) -> list[TrackedObject]:
    """Replace damaged objects by the intact copies of the local cache.

    Args:
        remote: the remote, writable.
        cache: DVC's object database of the local cache.
        damaged: what to replace.

    Returns:
        What was replaced; of the others the local cache has no intact copy either.
    """
    from dvc_data.hashfile.hash import file_md5

    repaired = []
    for item in damaged:
        source = cache.oid_to_path(item.digest)
        if cache.fs.isfile(source) and not is_damaged(item, file_md5(source)):
            place = remote.odb.oid_to_path(item.digest)
            with explained(remote, "write to"):
                if remote.fs.protocol == "local" and remote.fs.isdir(place):
                    shutil.rmtree(place)
                remote.odb.add(source, cache.fs, item.digest, check_exists=False)
            repaired.append(item)
    return repaired
