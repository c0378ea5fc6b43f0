"""Files of a registered model, without a second copy of the weights where the disk allows it.

A model version must never change, so it cannot share blocks with a file that someone edits in place.
Three ways, the first that works: a copy-on-write clone (btrfs, XFS), which is safe by construction; a
hard link to the object in DVC's cache, which is addressed by its content and read-only, as a version
is; a plain copy. Files in data/experiments are never linked: they are what people edit.
"""

import fcntl
import hashlib
import os
import shutil
import stat
from functools import cached_property
from pathlib import Path

from sensorium.recovery import cache_folder

_FICLONE = 0x40049409
"""Request of ioctl_ficlone(2)."""
_READ_BYTES = 1 << 20


class Placer:
    """Puts files into model versions on the same file system."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def place(self, source: Path, target: Path) -> None:
        """Make `target` a file of the same content as `source`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (_clone(source, target) or self._link_object(source, target)):
            shutil.copyfile(source, target)

    @cached_property
    def _cache(self) -> Path:
        return cache_folder(self._root)

    def _link_object(self, source: Path, target: Path) -> bool:
        """Link DVC's read-only object of the same content; False when there is none."""
        digest = _md5(source)
        found = self._cache / "files" / "md5" / digest[:2] / digest[2:]
        try:
            state = found.stat()
            if state.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or _md5(found) != digest:
                return False
            os.link(found, target)
        except OSError:
            return False
        return True


def _clone(source: Path, target: Path) -> bool:
    """Clone `source` copy-on-write; False where the file system cannot."""
    with source.open("rb") as old, target.open("wb") as new:
        try:
            fcntl.ioctl(new, _FICLONE, old.fileno())
        except OSError:
            cloned = False
        else:
            cloned = True
    if not cloned:
        target.unlink()
    return cloned


def _md5(path: Path) -> str:
    """DVC's name for a file's content."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
