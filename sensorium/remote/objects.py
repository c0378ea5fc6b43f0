"""The objects that this clone needs, compared one by one with what a remote holds.

DVC names an object by the MD5 of its content, so a remote can be checked without a second source: an object
whose content has another MD5 than its name is damaged.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from sensorium.errors import TransferError
from sensorium.remote.settings import RemoteSettings, object_key
from sensorium.remote.stores import Store, WritableStore

DIRECTORY = ".dir"
"""Ending of the digest of a folder, whose object lists the files in it."""

_JOBS = 4


@dataclass(frozen=True)
class Wanted:
    """An object that dvc.lock or a .dvc file names."""

    digest: str
    path: str
    """The file or folder that it holds, relative to the project's root."""


@dataclass
class Audit:
    """What a remote holds of what this clone needs."""

    intact: list[Wanted] = field(default_factory=list)
    missing: list[Wanted] = field(default_factory=list)
    damaged: list[Wanted] = field(default_factory=list)


def wanted(root: Path, remote: str) -> list[Wanted]:
    """Objects of all outputs that a push to this remote would send, folders not yet opened.

    Raises:
        TransferError: DVC cannot read the project.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            outs = [out for out in repo.index.outs if out.use_cache and out.can_push and out.hash_info]
            return [
                Wanted(str(out.hash_info.value), Path(out.fs_path).relative_to(root).as_posix())
                for out in outs
                if out.hash_info.name == "md5" and out.remote in (None, remote)
            ]
    except DvcException as fault:
        raise TransferError(f"{root}: DVC cannot read the project: {fault}", "Correct the file named above.") from fault


def _digest(blocks: Iterable[bytes], keep: bool) -> tuple[str, bytes]:
    digest, kept = hashlib.md5(usedforsecurity=False), []
    for block in blocks:
        digest.update(block)
        if keep:
            kept.append(block)
    return digest.hexdigest(), b"".join(kept)


def _audit_one(store: Store, item: Wanted, audit: Audit) -> list[Wanted]:
    """Compare one object; return the files of a folder."""
    blocks = store.stream(object_key(item.digest))
    if blocks is None:
        audit.missing.append(item)
        return []
    is_folder = item.digest.endswith(DIRECTORY)
    digest, content = _digest(blocks, keep=is_folder)
    if digest != item.digest.removesuffix(DIRECTORY):
        audit.damaged.append(item)
        return []
    audit.intact.append(item)
    if not is_folder:
        return []
    return [Wanted(entry["md5"], f"{item.path}/{entry['relpath']}") for entry in json.loads(content)]


def _unique(items: Iterable[Wanted], seen: set[str]) -> Iterator[Wanted]:
    for item in items:
        if item.digest not in seen:
            seen.add(item.digest)
            yield item


def audit(store: Store, items: Iterable[Wanted], progress: Callable[[Wanted], None] | None = None) -> Audit:
    """Read every object once and compare it with its name.

    Args:
        store: the remote, connected.
        items: what should be there; folders are opened.
        progress: called with each object that was read.
    """
    result, seen = Audit(), set[str]()
    pending = list(_unique(items, seen))
    with ThreadPoolExecutor(_JOBS) as pool:
        while pending:
            found: list[Wanted] = []
            for item, inside in zip(
                pending, pool.map(lambda one: _audit_one(store, one, result), pending), strict=True
            ):
                found += inside
                if progress:
                    progress(item)
            pending = list(_unique(found, seen))
    for group in (result.intact, result.missing, result.damaged):
        group.sort(key=lambda item: item.path)
    return result


def damage(result: Audit, settings: RemoteSettings) -> TransferError:
    """The error that names every damaged object."""
    lines = "\n".join(f"  {item.path} ({object_key(item.digest)})" for item in result.damaged)
    return TransferError(
        f"remote {settings.name!r}: {len(result.damaged)} damaged object(s), whose content has another MD5 than its "
        f"name:\n{lines}",
        f"From a clone that has the data intact: sensorium remote check {settings.name} --objects --repair",
    )


def _is_intact(path: Path, digest: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest() == digest.removesuffix(DIRECTORY)


def repair(store: WritableStore, cache: Path, damaged: Iterable[Wanted]) -> list[Wanted]:
    """Replace damaged objects by the intact copies of the local cache.

    Args:
        store: the remote, connected and writable.
        cache: folder of DVC's local cache (the one that holds files/md5).
        damaged: what to replace.

    Returns:
        Objects of which the local cache has no intact copy either; they are left as they are.
    """
    left = []
    for item in damaged:
        source = cache / object_key(item.digest)
        if not _is_intact(source, item.digest):
            left.append(item)
            continue
        with source.open("rb") as stream:
            store.write(object_key(item.digest), stream)
    return left
