"""The process of one stage: `dvc repro --single-item`, or `dvc push` that does not hold DVC's lock meanwhile.

DVC does its own work: it waits for its lock, tests whether the stage changed, runs the command with the
lock released, saves the outputs. Only dvc.lock is written here: DVC rewrites it in place, with entries in the
order in which stages ended. Here one rename replaces it, and its entries keep the order of a serial run.
"""

import json
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.stage import PipelineStage
from dvc.stage.serialize import to_lockfile
from dvc.utils import relpath
from dvc.utils.serialize import dump_yaml, parse_yaml_for_update

from sensorium.files import atomic_file
from sensorium.scheduler.graph import lock_path
from sensorium.scheduler.processes import CHANGED, FAILED, UNCHANGED
from sensorium.secrets import redact

_log = logging.getLogger("dvc")


def run(repo: Repo, name: str, orders: Mapping[str, Sequence[str]]) -> int:
    """Bring one stage up to date, and return whether it was `CHANGED`.

    `orders` has the names of all entries of each lock file, in the order to keep.
    """

    def reproduce(stage: Any, **options: Any) -> Any:
        done = stage.reproduce(**options)
        if done:
            record(stage, orders)
        return done

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # see StageProcess
    return CHANGED if repo.reproduce([name], single_item=True, repro_fn=reproduce) else UNCHANGED


def record(stage: Any, orders: Mapping[str, Sequence[str]]) -> None:
    """Save what a stage has just done; to be called under DVC's lock of the repository."""
    if not isinstance(stage, PipelineStage):
        stage.dump(update_pipeline=False)
        return
    path = Path(lock_path(stage))
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    content = parse_yaml_for_update(text, path) or {"schema": "2.0"}
    entries = dict(content.get("stages") or {}) | to_lockfile(stage)
    rank = {name: position for position, name in enumerate(orders.get(str(path), ()))}
    content["stages"] = {name: entries[name] for name in sorted(entries, key=lambda name: rank.get(name, len(rank)))}
    with atomic_file(path) as partial:
        dump_yaml(partial, content)
    stage.repo.scm_context.track_file(relpath(path))


def push(repo: Repo, names: Sequence[str], remote: str | None) -> None:
    """Send the outputs of finished stages to a remote, without DVC's lock: other stages need it meanwhile."""
    target = repo.cloud.get_remote(remote, "push")
    if target.worktree or target.fs.version_aware:
        repo.push(targets=list(names), remote=remote)
        return
    with lock_repo(repo):
        stages = [stage for name in names for stage in repo.stage.collect(name)]
        objects = {found for stage in stages for group in stage.get_used_objs(push=True).values() for found in group}
    if failed := repo.cloud.push(objects, remote=remote).failed:
        raise DvcException(f"{len(failed)} files were not pushed")


def main(arguments: Sequence[str]) -> int:
    """Do `run ORDERS STAGE` or `push REMOTE STAGE...`; an empty REMOTE is the default one."""
    verb, option, *names = arguments
    try:
        with Repo(_wait_for_lock=True) as repo:
            if verb == "run":
                return run(repo, names[0], json.loads(Path(option).read_text(encoding="utf-8")))
            push(repo, names, option or None)
            return CHANGED
    except DvcException as error:
        _log.error("%s", redact(str(error.__cause__ or error), Path.cwd()))
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
