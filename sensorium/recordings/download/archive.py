"""Unpacks a mouse's zip, which may be damaged or hostile.

Nothing is written outside the target, no link is made, no more bytes are written than were announced, no
name is taken twice, and what macOS adds (`__MACOSX`, `.DS_Store`, `._*`) is dropped. zipfile checks each
file's CRC-32.
"""

import collections
import errno
import hashlib
import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sensorium.errors import TransferError
from sensorium.recordings.inventory import FileEntry

LARGEST_MOUSE = 64 << 30
"""Bytes that a mouse may hold unpacked; the competition's hold 15 GB."""
MOST_FILES = 20_000
"""Files that a mouse may hold; the competition's hold 3,000."""
_LONGEST_NAME = 200
"""Bytes of a member's name; file systems take 255 a part."""
_LANDMARK = PurePosixPath("meta/trials/tiers.npy")
_CHUNK_BYTES = 1 << 20
_ENCRYPTED = 0x1
_FAULTS = (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError, OSError)
"""What zipfile raises on damaged bytes."""


class DamagedArchiveError(Exception):
    """The bytes are no sound zip: fetching them again may help."""


@dataclass(frozen=True)
class Archive:
    """A zip whose table of contents was found harmless."""

    path: Path
    members: dict[str, zipfile.ZipInfo]
    """Files of the mouse, by name relative to its folder."""

    @property
    def unpacked_bytes(self) -> int:
        """Bytes that unpacking writes."""
        return sum(info.file_size for info in self.members.values())


def _require_damage(fault: Exception) -> None:
    """Raise what is a fault of the disk: a damaged zip sends zipfile to positions that no file has, nothing else."""
    if isinstance(fault, OSError) and fault.errno != errno.EINVAL:
        raise fault


def _refuse(path: Path, reason: str) -> TransferError:
    return TransferError(f"{path}: refused, {reason}.", "The source is not to be trusted: fetch the mouse elsewhere.")


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    """Refuse members that reach outside the folder, or are no plain files."""
    name = PurePosixPath(info.filename)
    if not info.filename:
        raise _refuse(path, "a member has no name")
    if name.is_absolute() or ".." in name.parts or "\\" in info.filename or ":" in info.filename:
        raise _refuse(path, f"the member {info.filename!r} reaches outside the mouse's folder")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refuse(path, f"the member {info.filename!r} is a link or a special file")
    if info.flag_bits & _ENCRYPTED:
        raise _refuse(path, f"the member {info.filename!r} is encrypted")


def _check_names(path: Path, names: list[PurePosixPath]) -> None:
    """Refuse names that no disk could hold side by side: found while unpacking, they would seem a fault of the disk."""
    files = set(names)
    for name, count in collections.Counter(names).items():
        if count > 1 or any(parent in files for parent in name.parents):
            raise _refuse(path, f"the name of the member {str(name)!r} is taken twice")
        if len(str(name).encode(errors="surrogatepass")) > _LONGEST_NAME or not str(name).isprintable():
            raise _refuse(path, f"the member {str(name)[:40]!r} has a name that is too long or not printable")


def _root(path: Path, mouse: str, names: list[PurePosixPath]) -> PurePosixPath:
    """Folder inside the zip that is the mouse's; it must hold one mouse, the wanted one."""
    roots = [name.parents[len(_LANDMARK.parts) - 1] for name in names if name.parts[-3:] == _LANDMARK.parts]
    if len(roots) != 1:
        raise TransferError(f"{path}: holds {len(roots)} raw mice, expected one.", "Fetch the mouse elsewhere.")
    if roots[0].name not in ("", mouse):
        raise TransferError(f"{path}: holds the mouse {roots[0].name}, expected {mouse}.", "Fetch the mouse elsewhere.")
    return roots[0]


def inspect(path: Path, mouse: str) -> Archive:
    """Read a zip's table of contents and judge it.

    Args:
        path: the zip.
        mouse: the mouse that it should hold.

    Raises:
        DamagedArchiveError: it is no zip, or its table of contents is damaged.
        TransferError: it is hostile, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as file:
            infos = file.infolist()
    except _FAULTS as fault:
        _require_damage(fault)
        raise DamagedArchiveError(f"no sound zip ({fault})") from fault
    for info in infos:
        _check_member(path, info)
    found = [(PurePosixPath(info.filename), info) for info in infos if not info.is_dir()]
    kept = [
        (name, info) for name, info in found if not {"__MACOSX", ".DS_Store"} & {*name.parts} and name.name[:2] != "._"
    ]
    _check_names(path, [name for name, _ in kept])
    files = dict(kept)
    root = _root(path, mouse, list(files))
    members = {str(name.relative_to(root)): info for name, info in files.items() if name.is_relative_to(root)}
    archive = Archive(path, members)
    if len(infos) > MOST_FILES or archive.unpacked_bytes > LARGEST_MOUSE:
        size = f"{len(infos)} files and {archive.unpacked_bytes / 2**30:.0f} GiB"
        raise _refuse(path, f"{size} unpacked are more than any mouse holds")
    return archive


def unpack(archive: Archive, target: Path, on_bytes: Callable[[int], None]) -> dict[str, FileEntry]:
    """Unpack a mouse.

    Args:
        archive: what `inspect` returned.
        target: an empty folder.
        on_bytes: called with the size of each chunk.

    Returns:
        Size and SHA-256 of each file, by name relative to the mouse.

    Raises:
        DamagedArchiveError: a member's bytes do not match its checksum.
        OSError: the target cannot be written.
    """
    entries: dict[str, FileEntry] = {}
    with zipfile.ZipFile(archive.path) as file:
        for name, info in archive.members.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            entries[name] = _unpack_member(file, info, path, on_bytes)
    return entries


def _unpack_member(
    file: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, on_bytes: Callable[[int], None]
) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    try:
        with file.open(info) as source, path.open("xb") as target:
            while chunk := source.read(_CHUNK_BYTES):
                target.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                on_bytes(len(chunk))
    except (*_FAULTS, zlib.error) as fault:
        _require_damage(fault)
        raise DamagedArchiveError(f"{info.filename} is damaged ({fault})") from fault
    if size != info.file_size:
        raise DamagedArchiveError(f"{info.filename} has {size} bytes, announced were {info.file_size}")
    return {"size": size, "sha256": digest.hexdigest()}
