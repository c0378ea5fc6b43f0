"""What commands left below .sensorium/ and beside the outputs, and how much of the disk it takes."""

import time
from collections.abc import Iterator
from pathlib import Path

from sensorium.doctor.environment import size
from sensorium.doctor.finding import Finding, Project, of_error
from sensorium.errors import TrackingError
from sensorium.files import PARTIAL_SUFFIX, RETIRED_SUFFIX, discard
from sensorium.tracking.event_log import UPLOADER, WRITER, event_logs
from sensorium.tracking.store import TrackingStore

_OLD_SECONDS = 3600.0
"""What nobody has written to for so long is no writer's any more."""
_CHECKPOINTS = "`sensorium checkpoints` lists them; a training with the same settings continues from its own."


def check_checkpoints(project: Project) -> Iterator[Finding]:
    """Say what the checkpoints of unfinished trainings take, and find those whose removal was interrupted."""
    folders = [path for path in (project.paths.state / "train").glob("*") if path.is_dir()]
    condemned = [path for path in folders if path.name.endswith(PARTIAL_SUFFIX)]
    kept = [path for path in folders if path not in condemned]
    if kept:
        taken = sum(map(size, kept))
        yield Finding("note", f"{len(kept)} unfinished trainings have checkpoints, {_mebibytes(taken)}.", _CHECKPOINTS)
    yield from _removable(project, condemned)


def check_event_logs(project: Project) -> Iterator[Finding]:
    """Find runs that MLflow has not received, and logs that cannot be read."""
    state = TrackingStore.of(project.paths).state
    waiting = 0
    for log in event_logs(state):
        if log.is_held(WRITER) or log.is_held(UPLOADER):
            continue
        try:
            for _ in log.read():
                pass
        except TrackingError as fault:
            yield of_error(fault, "warning")
            continue
        waiting += not log.is_uploaded
    if waiting:
        taken = _mebibytes(size(state))
        yield Finding(
            "warning",
            f"{waiting} event logs are not in MLflow yet, {taken}.",
            "Type `sensorium sync`: it uploads them.",
        )
    yield from _removable(project, [path for path in state.glob(".*.*") if path.is_dir()])


def check_siblings(project: Project) -> Iterator[Finding]:
    """Find what killed writers left beside the outputs."""
    found = [
        path
        for parent in ("data", "reports")
        for suffix in (PARTIAL_SUFFIX, RETIRED_SUFFIX)
        for path in (project.root / parent).rglob(f".*{suffix}")
    ]
    retired = [path for path in found if path.name.endswith(RETIRED_SUFFIX)]
    for path in retired:
        output = path.with_name(path.name[1:].rsplit(".", 2)[0])
        if not output.exists():
            yield Finding(
                "warning",
                f"{project.name(path)}: what {project.name(output)} held before a command that replaced it was killed.",
                f"Type `mv {project.typed(path)} {project.typed(output)}`.",
            )
    yield from _removable(project, [path for path in found if path not in retired])


def _removable(project: Project, paths: list[Path]) -> Iterator[Finding]:
    """Remains that nothing needs, as the next writer would remove them."""
    old = [path for path in paths if time.time() - path.lstat().st_mtime > _OLD_SECONDS]
    for path in old:
        taken = _mebibytes(size(path) if path.is_dir() else path.lstat().st_size)

        def remove(path: Path = path) -> str:
            discard(path)
            return f"{project.name(path)} was removed"

        yield Finding(
            "note",
            f"{project.name(path)}: left by a command that was killed, {taken}.",
            f"Type `rm -r {project.typed(path)}`.",
            remove,
        )


def check_damaged_databases(project: Project) -> Iterator[Finding]:
    """Name the databases that were moved aside: nobody but the user can say whether they are needed."""
    for path in sorted(project.root.glob("mlflow.db.damaged-*")):
        yield Finding(
            "note",
            f"{path.name}: a damaged database that was kept, {_mebibytes(path.stat().st_size)}.",
            f"When nothing of it is needed: `rm {project.typed(path)}`.",
        )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
