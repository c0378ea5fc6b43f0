"""Outputs compared with the digests of dvc.lock.

A quick look asks DVC's table of known files (path, inode, size and time of change give the digest that was computed
last), and reads only what it does not know, up to a limit. A deep one reads every file, and trusts no time stamp.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from sensorium.doctor.finding import Finding, Project, command, some
from sensorium.recovery import cache_folder, locked_digests, remedy

FOLDER_SUFFIX = ".dir"
"""End of the digest of a folder, whose object lists its files."""
_UNKNOWN_BYTES = 64 * 2**20
"""So much that DVC does not know is read in a quick look."""
_BLOCK = 2**20
_JOBS = min(8, os.cpu_count() or 1)
_REPRO = "Type `dvc repro`."
_IGNORED = (".partial", ".retired")


@dataclass
class _Output:
    """What is wrong with one output."""

    path: Path
    files: dict[Path, str]
    """MD5 by file, as dvc.lock has it."""
    missing: list[Path] = field(default_factory=list)
    changed: list[Path] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)
    """Files that are to be read."""
    foreign: list[Path] = field(default_factory=list)
    """Files that dvc.lock does not have."""


def check_outputs(project: Project) -> Iterator[Finding]:
    """Compare every output with its digest in dvc.lock."""
    cache = cache_folder(project.root)
    outputs, unlisted = [], []
    for name, digest in locked_digests(project.root).items():
        path = project.root / name
        if not os.path.lexists(path):
            project.damaged.add(path)
            yield _missing(project, path)
            continue
        files = listed_files(cache, path, digest)
        if files is None:
            unlisted.append(name)
        else:
            outputs.append(_Output(path, files))
    if unlisted:
        yield Finding(
            "warning",
            f"{some(unlisted)}: not compared: DVC's cache lacks the list of files.",
            "Type `dvc fetch` where they were pushed, or `dvc commit` to record the files on disk.",
        )
    for output in outputs:
        _list(output)
    _look_up(project, outputs)
    yield from _read(project, outputs)
    for output in outputs:
        yield from _judge(project, output)


def _missing(project: Project, path: Path) -> Finding:
    advice = remedy(path, _REPRO)
    name = project.name(path)
    cached = "is in DVC's cache" in advice
    return Finding(
        "error" if not cached else "warning",
        f"{name}: the output is missing.",
        advice,
        command(project.root, "dvc", "checkout", name) if cached else None,
    )


def listed_files(cache: Path, path: Path, digest: str) -> dict[Path, str] | None:
    """Files of an output by path; None where the cache lacks the list, or it is damaged."""
    if not digest.endswith(FOLDER_SUFFIX):
        return {path: digest}
    content = object_path(cache, digest)
    try:
        listed = json.loads(content.read_text(encoding="utf-8"))
        return {path / str(entry["relpath"]): str(entry["md5"]) for entry in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def object_path(folder: Path, digest: str) -> Path:
    """Where a cache or a remote keeps the object of a digest."""
    return folder / "files" / "md5" / digest[:2] / digest[2:]


def _list(output: _Output) -> None:
    """Sort the files of an output into missing ones, foreign ones, and those to be compared."""
    for path in output.files:
        (output.unknown if path.is_file() else output.missing).append(path)
    if output.path.is_dir():
        found = {path for path in output.path.rglob("*") if not path.is_dir() and path.suffix not in _IGNORED}
        output.foreign = sorted(found - output.files.keys())


def _look_up(project: Project, outputs: Iterable[_Output]) -> None:
    """Take from a quick look what DVC knows of the files."""
    if project.deep or not project.has_dvc:
        return
    from dvc.repo import Repo
    from dvc_objects.fs.local import localfs

    with Repo(str(project.root)) as repo:
        for output in outputs:
            left = []
            for path in output.unknown:
                _, known = repo.state.get(str(path), localfs)
                if known is None:
                    left.append(path)
                elif known.value != output.files[path]:
                    output.changed.append(path)
            output.unknown = left


def _read(project: Project, outputs: list[_Output]) -> Iterator[Finding]:
    """Read what is left to be compared; a quick look leaves out what is beyond its limit."""
    wanted = [(output, path, path.stat().st_size) for output in outputs for path in output.unknown]
    if not project.deep:
        spent, kept = 0, []
        for item in sorted(wanted, key=lambda each: each[2]):
            spent += item[2]
            if spent <= _UNKNOWN_BYTES:
                kept.append(item)
        if len(kept) < len(wanted):
            yield Finding(
                "note",
                f"{len(wanted) - len(kept)} files changed their time stamps since DVC read them: not compared.",
                "Type `sensorium doctor --deep` to read them.",
            )
        wanted = kept
    else:
        project.begin("outputs", sum(size for _, _, size in wanted))
    digests = md5_all(project, [path for _, path, _ in wanted])
    for (output, path, _), digest in zip(wanted, digests, strict=True):
        if digest != output.files[path]:
            output.changed.append(path)


def md5_all(project: Project, paths: list[Path]) -> list[str]:
    """MD5 of the content of files, by several threads; every block counts for the progress bar."""

    def digest(path: Path) -> str:
        state = hashlib.md5(usedforsecurity=False)
        with path.open("rb", buffering=0) as stream:
            while block := stream.read(_BLOCK):
                state.update(block)
                project.read(len(block))
        return state.hexdigest()

    with ThreadPoolExecutor(_JOBS) as pool:
        return list(pool.map(digest, paths))


def _judge(project: Project, output: _Output) -> Iterator[Finding]:
    name = project.name(output.path)
    if not (output.missing or output.changed or output.foreign):
        if project.deep:
            project.intact.add(output.path)
        return
    project.damaged.add(output.path)
    advice = remedy(output.path, _REPRO)
    if output.changed:
        yield Finding(
            "error",
            f"{name}: not the output that dvc.lock records: {_names(output, output.changed)} changed or damaged.",
            f"{advice} To keep what is on disk instead: `dvc commit {project.typed(output.path)}`.",
        )
    elif output.missing:
        whole = "dvc checkout" in advice
        fixable = whole and not output.foreign
        again = f"Type `dvc checkout {project.typed(output.path)}`." if fixable else advice
        yield Finding(
            "error",
            f"{name}: {_names(output, output.missing)} missing.",
            again,
            command(project.root, "dvc", "checkout", name) if fixable else None,
        )
    if output.foreign:
        yield Finding(
            "warning",
            f"{name}: {_names(output, output.foreign)}: no part of the output that dvc.lock records.",
            "Remove what is not needed, or move it out of the output: `dvc repro` removes it without asking.",
        )


def _names(output: _Output, paths: list[Path]) -> str:
    if paths == [output.path]:
        return "its content is"
    return some([path.relative_to(output.path).as_posix() for path in paths])
