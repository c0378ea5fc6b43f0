"""What to run: DVC's own plan for the targets, and which of its stages have nothing to do.

The plan, the order of a serial run and the test of "did it change?" are all DVC's; nothing about
dvc.yaml is read a second time here.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.rwlock import RWLOCK_FILE
from dvc.stage import PipelineStage

from sensorium.errors import ConfigError, PipelineError


@dataclass(frozen=True)
class StageGraph:
    """The stages of a run."""

    upstream: dict[str, frozenset[str]]
    """Stage -> the stages it needs, in the order of a serial `dvc repro`."""
    unchanged: list[str]
    """Stages that neither changed nor depend on one that did."""
    orders: dict[str, list[str]]
    """Lock file -> the order of its entries after a serial run: old ones first, new ones as planned."""


def read(root: Path, targets: Sequence[str]) -> StageGraph:
    """Read the graph of a run: of the targets that `dvc repro` would take in `root`, or of all of dvc.yaml.

    Raises:
        ConfigError: a target does not exist.
        PipelineError: DVC cannot read the repository.
    """
    try:
        # DVC takes targets, and names stages, relative to the working folder.
        with contextlib.chdir(root), Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
            repair_rwlock(Path(repo.tmp_dir, RWLOCK_FILE))
            graph = get_active_graph(repo.index.graph)
            stages = plan_repro(graph, _collect(repo, targets))
            needs = {
                stage.addressing: frozenset(need.addressing for need in graph.successors(stage)) for stage in stages
            }
            return StageGraph(needs, _unchanged(graph, stages), _lock_orders(stages))
    except DvcException as error:
        raise PipelineError(f"{root}: {error}", "`dvc status` shows the same error in full.") from error


def repair_rwlock(table: Path) -> None:
    """Remove DVC's table of busy paths if a killed process left half of it; called under DVC's lock.

    DVC rewrites the table in place and refuses every command once it is damaged; it holds nothing but
    the locks of running processes, and DVC itself drops those of dead ones.
    """
    with contextlib.suppress(FileNotFoundError):
        try:
            json.loads(table.read_text(encoding="utf-8"))
        except ValueError:
            table.unlink()


def _collect(repo: Repo, targets: Sequence[str]) -> list[Any]:
    stages = []
    for target in targets or ["dvc.yaml"]:
        try:
            stages += collect_stages(repo, [target])
        except DvcException as error:
            known = sorted(stage.addressing for stage in repo.index.stages)
            similar = get_close_matches(target, known, n=3, cutoff=0.4) or known[:10]
            raise ConfigError(
                f"target {target!r}: not in the pipeline ({error}).", f"Choose for example: {', '.join(similar)}."
            ) from error
    return list(dict.fromkeys(stages))


def _unchanged(graph: Any, stages: Sequence[Any]) -> list[str]:
    """Stages, all of whose ancestors and they themselves are as dvc.lock records them."""
    clean: dict[Any, bool] = {}
    for stage in stages:
        upstream = list(graph.successors(stage))
        clean[stage] = all(clean[need] for need in upstream) and not stage.changed(upstream=upstream)
    return [stage.addressing for stage, same in clean.items() if same]


def _lock_orders(stages: Sequence[Any]) -> dict[str, list[str]]:
    orders: dict[str, list[str]] = {}
    for stage in stages:
        if isinstance(stage, PipelineStage):
            path = lock_path(stage)
            if path not in orders:  # each access reads the file
                orders[path] = list(stage.dvcfile.lockfile_contents.get("stages", {}))
            if stage.name not in orders[path]:
                orders[path].append(stage.name)
    return orders


def lock_path(stage: Any) -> str:
    """The lock file that records a stage of a dvc.yaml."""
    return str(Path(stage.dvcfile.path).with_suffix(".lock"))
