"""Outputs, DVC's cache and remotes, compared with the digests of dvc.lock.

A quick look asks DVC's table of known files (path, inode, size and time of change give the digest that was computed
last), and reads only what it does not know, up to a limit. A deep one reads every file, and trusts no time stamp.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensorium.doctor.finding import Finding, Project, command, some
from sensorium.files import atomic_file
from sensorium.recovery import cache_folder, locked_digests, remedy

_FOLDER = ".dir"
_UNKNOWN_BYTES = 64 * 2**20
"""So much that DVC does not know is read in a quick look."""
_BLOCK = 2**20
_JOBS = min(8, os.cpu_count() or 1)
_TIMEOUT = 10.0
"""Seconds that a server may take to answer."""
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
        files = _files(cache, path, digest)
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


def _files(cache: Path, path: Path, digest: str) -> dict[Path, str] | None:
    """Files of an output by path; None where the cache lacks the list, or it is damaged."""
    if not digest.endswith(_FOLDER):
        return {path: digest}
    content = _object(cache, digest)
    try:
        listed = json.loads(content.read_text(encoding="utf-8"))
        return {path / str(entry["relpath"]): str(entry["md5"]) for entry in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _object(folder: Path, digest: str) -> Path:
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
    if project.deep:
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


def check_cache(project: Project) -> Iterator[Finding]:
    """Look whether DVC's cache has every output, and read all of its objects in a deep examination."""
    cache = cache_folder(project.root)
    digests = _needed(cache, locked_digests(project.root))
    lacking = sorted({path for digest, path in digests.items() if not _object(cache, digest).is_file()})
    present = [
        name for name in lacking if (project.root / name).exists() and project.root / name not in project.damaged
    ]
    if present:
        yield Finding(
            "warning",
            f"{some(present)}: only in the work tree: DVC's cache has no copy.",
            f"Type `dvc commit --force {project.typed(project.root / present[0])}`"
            f"{' for each' if len(present) > 1 else ''}: it copies them there and runs nothing.",
        )
    if not project.deep:
        return
    objects = [path for path in sorted((cache / "files" / "md5").glob("??/*")) if path.is_file()]
    project.begin("DVC's cache", sum(path.stat().st_size for path in objects))
    for path, digest in zip(objects, md5_all(project, objects), strict=True):
        wanted = path.parent.name + path.name
        if digest != wanted.removesuffix(_FOLDER):
            yield _rotten(project, path, wanted, digests.get(wanted))


def _needed(cache: Path, outputs: dict[str, str]) -> dict[str, str]:
    """Output by the digest of every object that it consists of."""
    found = {}
    for name, digest in outputs.items():
        found[digest] = name
        found |= dict.fromkeys((_files(cache, Path(name), digest) or {}).values(), name)
    return found


def _rotten(project: Project, path: Path, digest: str, output: str | None) -> Finding:
    """An object whose content is not what its name says: replaced by an intact copy, where there is one."""
    remove = f"rm -f {project.typed(path)}"
    what = f"{project.name(path)}: damaged: its content is not that of its name"
    if output is None:
        return Finding("warning", f"{what}; no output of dvc.lock needs it.", f"Type `{remove}`.")
    what = f"{what}; it belongs to {output}."
    source = _intact_copy(project, path, digest, output)
    if source is None:
        return Finding(
            "error",
            what,
            f"Type `{remove} && dvc pull {project.typed(project.root / output)}` where it was pushed. Elsewhere "
            "remove the object and the output, and type `dvc repro`.",
        )

    def replace() -> str:
        with atomic_file(path) as partial:
            shutil.copyfile(source, partial)
            partial.chmod(0o444)  # as DVC protects its objects
        return f"{project.name(path)} was replaced by the intact copy {project.name(source)}"

    again = (
        f"dvc commit --force {project.typed(project.root / output)}"
        if source.is_relative_to(project.root / output)
        else (f"dvc fetch {project.typed(project.root / output)}")
    )
    return Finding("error", what, f"Type `{remove} && {again}`.", replace)


def _intact_copy(project: Project, path: Path, digest: str, output: str) -> Path | None:
    """A file of the output, or an object of a remote that is a folder, which has the digest."""
    files = _files(path.parents[3], project.root / output, locked_digests(project.root)[output]) or {}
    places = [place for place, known in files.items() if known == digest]
    places += [_object(folder, digest) for _, folder in _folders(project)]
    for place in places:
        if place.is_file() and md5_all(project, [place]) == [digest.removesuffix(_FOLDER)]:
            return place
    return None


def _folders(project: Project) -> list[tuple[str, Path]]:
    """Remotes that are folders of this machine."""
    return [(name, Path(url)) for name, url in _remotes(project) if "://" not in url]


def _remotes(project: Project) -> list[tuple[str, str]]:
    settings = _settings(project)
    return [(name, str(options.get("url", ""))) for name, options in settings["remote"].items()]


def _settings(project: Project) -> Any:
    from dvc.config import Config

    return Config(str(project.root / ".dvc"), validate=False)


def check_remotes(project: Project) -> Iterator[Finding]:
    """Look whether remotes are configured and, where they are folders, whether they are there."""
    settings = _settings(project)
    default = settings["core"].get("remote")
    if default is None or default not in settings["remote"]:
        named = f"core.remote names {default!r}, which is not configured" if default else "none is configured"
        yield Finding(
            "warning",
            f"remotes: {named}: the outputs are on this machine only.",
            "Type `dvc remote add --default NAME URL`, then `dvc push`.",
        )
    for name, folder in _folders(project):
        if not folder.is_dir():
            yield Finding(
                "warning",
                f"remote {name!r}: the folder {folder} does not exist.",
                f"Mount it, or type `dvc remote modify {name} url FOLDER`.",
            )
    if project.deep:
        yield from _try_servers(project)


def _try_servers(project: Project) -> Iterator[Finding]:
    """Sign in to the remotes that are elsewhere, and list a little."""
    from dvc.repo import Repo

    from sensorium.errors import TransferError
    from sensorium.remote.check import check
    from sensorium.remote.config import open_remote

    with Repo(str(project.root)) as repo:
        for name, url in _remotes(project):
            if "://" not in url:
                continue
            try:
                check(open_remote(repo.config, name, _TIMEOUT), [], lambda *_, **__: None, read_only=True)
            except TransferError as fault:
                yield Finding("warning", fault.problem, fault.remedy or f"Type `sensorium remote check {name}`.")
