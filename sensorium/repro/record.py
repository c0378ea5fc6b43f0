"""Write dvc.lock whole or not at all, in the order of a serial run.

DVC rewrites dvc.lock in place: a process killed meanwhile leaves half a file, and entries stand in the
order in which stages ended. Here the new text replaces the old in one rename, and its entries are
sorted as if the stages had run one by one, so that the file's bytes do not depend on timing.
"""

import contextlib
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvc.dvcfile import Lockfile
from dvc.lock import make_lock
from dvc.repo import Repo
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK
from dvc.stage import PipelineStage
from dvc.stage.serialize import to_lockfile
from dvc.utils import relpath
from dvc.utils.serialize import dumps_yaml, parse_yaml, parse_yaml_for_update

from sensorium.files import atomic_file
from sensorium.repro.graph import lock_path

_SCHEMA = "2.0"
"""Version of dvc.lock's form, as DVC writes it."""

_HEAD = f"schema: '{_SCHEMA}'\nstages:\n"

_PLAIN_KEY = re.compile(r"  ([A-Za-z_][\w@.-]*):\n")
"""Line that begins an entry, when its name needs no quotes."""


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
    text = path.read_text(encoding="utf-8") if path.exists() else _HEAD
    rank = {name: position for position, name in enumerate(orders.get(str(path), ()))}
    with atomic_file(path) as partial:
        partial.write_text(insert(text, to_lockfile(stage), rank), encoding="utf-8")
    stage.repo.scm_context.track_file(relpath(path))


def insert(text: str, entry: dict[str, Any], rank: Mapping[str, int]) -> str:
    """Put one entry into the text of a lock file, whose other entries keep their bytes.

    Reading and writing all of dvc.lock as YAML takes longer than anything else that DVC does for a stage,
    and grows with every stage.

    Args:
        text: the file.
        entry: stage name -> what DVC records.
        rank: stage name -> its place; entries without one come last, as they stand.

    Returns:
        The new text, as DVC would have written it.
    """
    blocks = _split(text)
    fresh = _split(dumps_yaml({"schema": _SCHEMA, "stages": entry}))
    if blocks is None or fresh is None:  # merged by hand, or of unusual names
        content = parse_yaml_for_update(text or _HEAD, "dvc.lock")
        entries = dict(content.get("stages") or {}) | entry
        content["stages"] = {name: entries[name] for name in _ranked(entries, rank)}
        return str(dumps_yaml(content))
    blocks |= fresh
    return _HEAD + "".join(blocks[name] for name in _ranked(blocks, rank))


@contextlib.contextmanager
def own_entries(names: Collection[str]) -> Iterator[None]:
    """Let DVC read no other entries of lock files than those of some stages.

    Whether one stage changed is told by its own entry; the others cost most of the time that a stage's process
    takes, and more with every stage.

    Args:
        names: the stages, by their addresses.
    """
    wanted = {name.rpartition(":")[2] for name in names}
    load_all = Lockfile.load

    def load(file: Lockfile, **options: Any) -> Any:
        path = Path(file.path)
        blocks = _split(path.read_text(encoding="utf-8")) if path.exists() else None
        if blocks is None:
            return load_all(file, **options)
        own = "".join(blocks[name] for name in wanted if name in blocks)
        return file.validate(parse_yaml(_HEAD + own, file.path), file.relpath) if own else {}

    Lockfile.load = load
    try:
        yield
    finally:
        Lockfile.load = load_all


def _split(text: str) -> dict[str, str] | None:
    """Stage name -> its lines; None when the text is not of the plain form that DVC writes."""
    if not text.startswith(_HEAD):
        return None
    blocks: dict[str, str] = {}
    name = ""
    for line in io.StringIO(text.removeprefix(_HEAD)):
        if name and line.startswith("   "):
            blocks[name] += line
        elif (match := _PLAIN_KEY.fullmatch(line)) and match[1] not in blocks:
            name = match[1]
            blocks[name] = line
        else:
            return None
    return blocks


def _ranked(names: Iterable[str], rank: Mapping[str, int]) -> list[str]:
    return sorted(names, key=lambda name: rank.get(name, len(rank)))


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
