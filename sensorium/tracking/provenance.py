"""What a run is tagged with: the code, the stage, the machine and the data it ran on."""

import getpass
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sensorium import __version__
from sensorium.config import Config
from sensorium.paths import Paths
from sensorium.recovery import locked_digests

COMMIT, DIRTY = "mlflow.source.git.commit", "sensorium.git.dirty"
THREADS, HARDWARE = "sensorium.threads", "sensorium.hardware"
"""Tags. The bits of a training on the CPU depend on the number of threads."""
DATA = "dvc."
"""Before the path of an input, in the tag that holds DVC's digest of it."""
OF_NOW = {COMMIT, DIRTY, THREADS, HARDWARE, "sensorium.version", "sensorium.stage", "sensorium.dvc.experiment"}
"""Tags that tell of this process and this tree, and nothing of a training that is over."""
_GIT_SECONDS = 10
_PLAIN_DIFF = ("--binary", "--full-index", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/")
"""Whatever the user's git configuration says, the patch is one that `git apply` takes."""


def _git(root: Path, *arguments: str) -> bytes | None:
    """Output of a git command, or None outside a repository or without git."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(root), *arguments],  # noqa: S607 - git is looked up on PATH like every tool
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def commit_of(root: Path) -> str | None:
    """The commit that is checked out, None outside a repository."""
    output = _git(root, "rev-parse", "HEAD")
    return None if output is None else output.decode().strip()


def uncommitted(root: Path) -> bytes | None:
    """What the tracked files differ in from the commit, as a patch; empty for a clean tree, None where git fails.

    dvc.lock is left out: every stage rewrites it, and what it says of the data is recorded as tags.
    """
    return _git(root, "diff", "HEAD", *_PLAIN_DIFF, "--", ".", ":(exclude)dvc.lock")


def hardware() -> str:
    """Processor, cores and GPU in one line."""
    import torch

    processor = f"{platform.machine()} x {os.cpu_count()}"
    return f"{processor}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else processor


def run_tags(root: Path, config: Config, stage: str, patch: bytes | None) -> dict[str, str]:
    """Tags of a run: git commit, dirty state, DVC stage and experiment, seed, version, hardware.

    Args:
        root: the project's root.
        config: the settings in force.
        stage: name to use when no DVC stage runs the command.
        patch: what `uncommitted` tells of the root.
    """
    import torch

    commit = commit_of(root)
    tags = {
        "mlflow.source.name": "sensorium",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": getpass.getuser(),
        "sensorium.stage": os.environ.get("DVC_STAGE") or stage,
        "sensorium.seed": str(config.seed),
        "sensorium.version": __version__,
        HARDWARE: hardware(),
        THREADS: str(torch.get_num_threads()),
    }
    if commit is not None:
        tags |= {COMMIT: commit, DIRTY: "false" if patch == b"" else "true"}
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["sensorium.dvc.experiment"] = name
    return tags


def training_inputs(config: Config, root: Path, experiment: str, fold: int) -> dict[str, str]:
    """DVC's digest of everything the fold's training reads, by path, as dvc.lock has it."""
    paths = Paths(Path())
    wanted = {str(paths.store(mouse)) for mouse in config.dataset.mice} | {str(paths.folds)}
    if distillation := config.experiment(experiment).distillation:
        wanted.add(str(paths.fold(distillation.teacher, fold)))
    return {path: digest for path, digest in locked_digests(root).items() if path in wanted}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Leaves of nested mappings as dotted keys and strings, as MLflow's params want them.

    Lists are leaves: `model.features = [16, 16, 32, 32]` reads better than four keys.
    """
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(list(value) if isinstance(value, tuple) else value)
    return flat
