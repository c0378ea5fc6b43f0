"""What keeps copies of the outputs: DVC's cache, whose objects are named after their content, and remotes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from sensorium.doctor.finding import Finding, Project, some
from sensorium.doctor.outputs import FOLDER_SUFFIX, listed_files, md5_all, object_path
from sensorium.files import atomic_file
from sensorium.recovery import cache_folder, dvc_settings, locked_digests

_TIMEOUT = 10.0
"""Seconds that a server may take to answer."""


def check_cache(project: Project) -> Iterator[Finding]:
    """Look whether DVC's cache has every output, and read all of its objects in a deep examination."""
    cache = cache_folder(project.root)
    digests = _needed(cache, locked_digests(project.root))
    lacking = sorted({path for digest, path in digests.items() if not object_path(cache, digest).is_file()})
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
        if digest != wanted.removesuffix(FOLDER_SUFFIX):
            yield _rotten(project, path, wanted, digests.get(wanted))


def _needed(cache: Path, outputs: dict[str, str]) -> dict[str, str]:
    """Output by the digest of every object that it consists of."""
    found = {}
    for name, digest in outputs.items():
        found[digest] = name
        found |= dict.fromkeys((listed_files(cache, Path(name), digest) or {}).values(), name)
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
    files = listed_files(path.parents[3], project.root / output, locked_digests(project.root)[output]) or {}
    places = [place for place, known in files.items() if known == digest]
    places += [object_path(folder, digest) for _, folder in _folders(project)]
    for place in places:
        if place.is_file() and md5_all(project, [place]) == [digest.removesuffix(FOLDER_SUFFIX)]:
            return place
    return None


def _folders(project: Project) -> list[tuple[str, Path]]:
    """Remotes that are folders of this machine."""
    return [(name, Path(url)) for name, url in _remotes(project) if "://" not in url]


def _remotes(project: Project) -> list[tuple[str, str]]:
    settings = dvc_settings(project.root)
    return [(name, str(options.get("url", ""))) for name, options in settings["remote"].items()]


def check_remotes(project: Project) -> Iterator[Finding]:
    """Look whether remotes are configured and, where they are folders, whether they are there."""
    settings = dvc_settings(project.root)
    default = settings["core"].get("remote")
    if default is None or default not in settings["remote"]:
        names = ", ".join(settings["remote"])
        state = "none is the default" if names else "none is configured"
        if default is not None:
            state = f"core.remote names {default!r}, which is not configured"
        yield Finding(
            "warning",
            f"remotes: {state}: `dvc push` has no place to copy the outputs to.",
            f"Type `dvc remote default NAME` with one of {names}, then `dvc push`."
            if names
            else "Type `dvc remote add --default NAME URL`, then `dvc push`.",
        )
    for name, folder in _folders(project):
        if not folder.is_dir():
            yield Finding(
                "warning",
                f"remote {name!r}: the folder {folder} does not exist.",
                f"Mount it, or type `dvc remote modify {name} url FOLDER`.",
            )
    if project.deep and project.has_dvc:
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
