"""Write dvc.lock whole or not at all, in the order of a serial run.

DVC rewrites dvc.lock in place: a process killed meanwhile leaves half a file, and entries stand in the
order in which stages ended. Here the new text replaces the old in one rename, and its entries are
sorted as if the stages had run one by one, so that the file's bytes do not depend on timing.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dvc.lock import make_lock
from dvc.repo import Repo
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK
from dvc.stage import PipelineStage
from dvc.stage.serialize import to_lockfile
from dvc.utils import relpath
from dvc.utils.serialize import modify_yaml

from sensorium.files import atomic_file
from sensorium.repro.graph import lock_path

_SCHEMA = "2.0"
"""Version of dvc.lock's form, as DVC writes it."""


def record(stage: Any, orders: Mapping[str, Sequence[str]]) -> None:
    """Save what a stage has just done; to be called under DVC's lock of the repository.

    Args:
        stage: DVC's stage, saved and committed.
        orders: lock file -> names of all its entries, in the order to keep.
    """
    if not isinstance(stage, PipelineStage):
        stage.dump(update_pipeline=False)
        return
    path = Path(lock_path(stage))
    with atomic_file(path) as partial:
        if path.exists():
            shutil.copyfile(path, partial)
        with modify_yaml(partial) as content:
            content.setdefault("schema", _SCHEMA)
            entries = dict(content.get("stages", {})) | to_lockfile(stage)
            rank = {name: position for position, name in enumerate(orders.get(str(path), ()))}
            names = sorted(entries, key=lambda name: rank.get(name, len(rank)))
            content["stages"] = {name: entries[name] for name in names}
    stage.repo.scm_context.track_file(relpath(path))


def heal(root: Path) -> None:
    """Remove DVC's table of busy paths when a killed process left half of it.

    DVC rewrites the table in place and refuses every command once it is damaged; it holds nothing but
    the claims of running processes, and DVC itself drops those of dead ones.
    """
    with Repo(str(root)) as repo:
        table = Path(repo.tmp_dir, RWLOCK_FILE)
        hardlink = repo.config["core"].get("hardlink_lock", False)
        with make_lock(str(table.with_name(RWLOCK_LOCK)), tmp_dir=repo.tmp_dir, hardlink_lock=hardlink):
            if table.exists() and not _is_json(table):
                table.unlink()


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
