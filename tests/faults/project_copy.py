"""A copy of a project that is put back after each damage: only what changed since is copied again."""

import hashlib
import os
import re
import shutil
import stat
from pathlib import Path

LEFT_OUT = (".venv", "site", "__pycache__")
"""Folders that no command of a campaign reads."""
_Mark = tuple[int, ...]


class ProjectCopy:
    """A copy of a project, and the state of each of its files as the kernel knows it."""

    def __init__(self, source: Path, place: Path) -> None:
        """Copy a project that is not touched.

        Args:
            source: the finished project.
            place: the copy; made here.
        """
        self.source, self.place = source, place
        shutil.copytree(source, place, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        self._whole = self._marks()
        self._digests: dict[str, tuple[_Mark, str]] = {}

    def restore(self) -> list[str]:
        """Make the copy equal to the source again; returns the paths that differed."""
        present = self._marks()
        differing = sorted(name for name in self._whole | present if self._whole.get(name) != present.get(name))
        for name in reversed(differing):  # what is in a folder before the folder
            if name in present and (name not in self._whole or present[name][0] != self._whole[name][0]):
                _remove(self.place / name)
        for name in differing:
            if name in self._whole:
                self._copy(name)
        return differing

    def put_back(self, name: str) -> None:
        """Copy one file again, as its owner would."""
        path = self.place / name
        if os.path.lexists(path):
            _remove(path)
        self._copy(name)

    def _copy(self, name: str) -> None:
        source, target = self.source / name, self.place / name
        if stat.S_ISDIR(source.lstat().st_mode):
            target.mkdir(exist_ok=True)
            target.chmod(stat.S_IMODE(source.stat().st_mode))
        else:
            target.unlink(missing_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
        self._whole[name] = _mark(target)

    def _marks(self) -> dict[str, _Mark]:
        """State of every file, link and folder by path; the change time of a file cannot be forged."""
        found, folders = {}, [""]
        while folders:
            folder = folders.pop()
            with os.scandir(self.place / folder) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name in LEFT_OUT:
                        continue
                    found[name] = mark = _mark(entry)
                    if stat.S_ISDIR(mark[0]):
                        folders.append(name)
        return found

    def digests(self, besides: re.Pattern[str]) -> dict[str, str]:
        """MD5 of every file by path, read again only where it changed; empty where it must not be read.

        Args:
            besides: paths that are left out where it is found in them.
        """
        found = {}
        for name, mark in self._marks().items():
            if stat.S_ISDIR(mark[0]) or besides.search(name):
                continue
            path = self.place / name
            if stat.S_ISLNK(mark[0]):
                if not path.is_file():
                    continue
                mark = _mark(path.resolve())
            known = self._digests.get(name)
            if known is None or known[0] != mark:
                known = self._digests[name] = mark, _digest(path)
            found[name] = known[1]
        return found


def _digest(path: Path) -> str:
    try:
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except PermissionError:
        return ""


def _mark(path: Path | os.DirEntry[str]) -> _Mark:
    state = path.stat(follow_symlinks=False)
    if stat.S_ISDIR(state.st_mode):
        return (state.st_mode,)
    return (state.st_mode, state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
