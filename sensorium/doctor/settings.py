"""The files that describe the pipeline: params.yaml, dvc.yaml, dvc.lock, and DVC's own state."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sensorium.config import load
from sensorium.doctor.finding import Finding, Project, command, of_error, some
from sensorium.errors import ConfigError
from sensorium.files import load_yaml
from sensorium.paths import PARAMS_FILE
from sensorium.recovery import LOCK_FILE

_UPDATE = "sensorium config --update"
_MARKER = re.compile(r"^(<<<<<<<|=======|>>>>>>>)( |$)", re.MULTILINE)
_STAGES = "dvc.yaml"


def check_params(project: Project) -> Iterator[Finding]:
    """Read params.yaml, and keep the settings for other checks."""
    path = project.root / PARAMS_FILE
    if path.is_file() and _conflict(path):
        yield _conflicting(project, path)
        return
    try:
        project.config = load(path)
    except ConfigError as fault:
        if _UPDATE in fault.problem:
            yield Finding("error", fault.problem, f"Type `{_UPDATE}`.", command(project.root, *_UPDATE.split()))
        else:
            yield of_error(fault)


def check_pipeline(project: Project) -> Iterator[Finding]:
    """Read dvc.yaml and dvc.lock, and compare their stages."""
    trees = {}
    for name in (_STAGES, LOCK_FILE):
        path = project.root / name
        try:
            trees[name] = _read_stages(path)
        except FileNotFoundError:
            yield _missing(project, name)
        except (UnicodeDecodeError, yaml.YAMLError, ValueError) as fault:
            reason = " ".join(str(fault).split())
            yield (
                _conflicting(project, path)
                if _conflict(path)
                else Finding("error", f"{name}: damaged: {reason}.", _restore(project, name))
            )
    if len(trees) == 2:
        yield from _compare(project, trees[LOCK_FILE])


def _missing(project: Project, name: str) -> Finding:
    if name == _STAGES:
        return Finding("error", f"{name}: the file does not exist.", _restore(project, name))
    return Finding(
        "warning",
        f"{name}: the file does not exist: nothing was run yet.",
        f"Type `git checkout {project.typed(project.root / name)}` or `dvc repro`.",
    )


def _restore(project: Project, name: str) -> str:
    return f"Type `git checkout {project.typed(project.root / name)}`: it brings back the file of the last commit."


def _conflict(path: Path) -> bool:
    return _MARKER.search(path.read_text(encoding="utf-8", errors="replace")) is not None


def _conflicting(project: Project, path: Path) -> Finding:
    text = path.read_text(encoding="utf-8", errors="replace")
    marker = _MARKER.search(text)
    line = text[: marker.start()].count("\n") + 1 if marker else 1
    name = project.name(path)
    return Finding(
        "error",
        f"{name}: line {line} is a conflict marker of git.",
        f"Take one side: `git checkout HEAD -- {project.typed(path)}` for yours; then `dvc repro` runs what differs.",
    )


def _read_stages(path: Path) -> dict[str, Any]:
    tree = load_yaml(path.read_text(encoding="utf-8"))
    stages = tree.get("stages") if isinstance(tree, dict) else None
    if not isinstance(stages, dict):
        raise ValueError("it holds no mapping `stages`")  # noqa: TRY004 - a value of a file
    return stages


def _compare(project: Project, locked: dict[str, Any]) -> Iterator[Finding]:
    """Stages that only one of dvc.yaml and dvc.lock has, by DVC's own reading of them."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if not project.has_dvc:
        yield Finding("error", ".dvc: missing: DVC cannot be used here.", "Type `git checkout .dvc`, else `dvc init`.")
        return
    try:
        with Repo(str(project.root)) as repo:
            known = {stage.name for stage in repo.index.stages if getattr(stage, "name", None)}
    except (DvcException, ValueError) as fault:  # of values that no date or number has
        yield Finding("error", f"{_STAGES}: DVC cannot read the pipeline: {fault}", "`dvc status` shows it in full.")
        return
    foreign, new = sorted(locked.keys() - known), sorted(known - locked.keys())
    if foreign:
        yield Finding(
            "note",
            f"{LOCK_FILE}: {some(foreign)}: no stage of {_STAGES} any more.",
            f"They do no harm. `git checkout {_STAGES} {PARAMS_FILE}` takes back changes that removed them by mistake.",
        )
    if new:
        yield Finding("warning", f"{LOCK_FILE}: {some(new)}: never run.", "Type `dvc repro`.")


def check_dvc_state(project: Project) -> Iterator[Finding]:
    """Read DVC's table of busy paths: a process that was killed may leave half of it, and DVC refuses every command."""
    table = project.root / ".dvc" / "tmp" / "rwlock"
    if not table.is_file():
        return
    try:
        json.loads(table.read_text(encoding="utf-8"))
    except ValueError:

        def remove() -> str:
            from dvc.repo import Repo, lock_repo

            from sensorium.scheduler.graph import repair_rwlock

            with Repo(str(project.root)) as repo, lock_repo(repo):
                repair_rwlock(table)
            return f"{project.name(table)} was removed"

        yield Finding(
            "error",
            f"{project.name(table)}: left by a process that was killed; DVC refuses every command.",
            f"Type `rm {project.typed(table)}`: it holds only the locks of running processes.",
            remove,
        )
