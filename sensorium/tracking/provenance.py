"""What a run was made from: code, command, machine and data, as tags of the run.

Where something comes from is recorded in four places, each for another reader:

| record | holds | for |
|---|---|---|
| `lineage.fingerprint` | settings, code and data that decide the weights | resuming a state, finding a run again |
| `Provenance`, tags of a run | commit, changes, machine, DVC's digests of the data | training a fold again |
| `RunLink`, beside the weights | store and run | from a fold on disk to its run |
| dvc.lock (`recovery.locked_digests`) | DVC's digests of all outputs | the data of a commit |
"""

import getpass
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sensorium import __version__
from sensorium.config import Config
from sensorium.paths import Paths
from sensorium.recovery import locked_digests

COMMIT, DIRTY = "mlflow.source.git.commit", "sensorium.git.dirty"
STAGE, DVC_EXPERIMENT, SEED = "sensorium.stage", "sensorium.dvc.experiment", "sensorium.seed"
_TAGS = {
    "commit": COMMIT,
    "dirty": DIRTY,
    "threads": "sensorium.threads",
    "hardware": "sensorium.hardware",
    "version": "sensorium.version",
    "stage": STAGE,
    "dvc_experiment": DVC_EXPERIMENT,
}
"""Tags by field."""
_DATA = "dvc."
"""Before the path of an input, in the tag that holds DVC's digest of it."""
_PLAIN_DIFF = ("--binary", "--full-index", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/")
"""Whatever the user's git configuration says, the patch is one that `git apply` takes."""


@dataclass(frozen=True)
class Provenance:
    """What a run was made from; None for what is not known."""

    commit: str | None = None
    dirty: str | None = None
    """`true` where tracked files differed from the commit, else `false`."""
    threads: str | None = None
    """Threads of a training on the CPU; its bits depend on them."""
    hardware: str | None = None
    version: str | None = None
    """Of this package."""
    stage: str | None = None
    dvc_experiment: str | None = None
    """Name that DVC gave to the experiment that it ran."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """DVC's digest of what was read, by path."""
    patch: bytes | None = field(default=None, repr=False)
    """`uncommitted`, which no tag holds."""

    @classmethod
    def current(cls, root: Path, stage: str, inputs: Mapping[str, str] | None = None) -> Self:
        """What a run of this process is made from; `stage` is the name to use when no DVC stage runs the command."""
        import torch  # here, as the uploader does without it

        commit, patch = commit_of(root), uncommitted(root)
        return cls(
            commit=commit,
            dirty=None if commit is None else str(patch != b"").lower(),
            threads=str(torch.get_num_threads()),
            hardware=hardware(),
            version=__version__,
            stage=os.environ.get("DVC_STAGE") or stage,
            dvc_experiment=os.environ.get("DVC_EXP_NAME") or None,
            inputs=inputs or {},
            patch=patch,
        )

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Self:
        """What the tags of a run say."""
        known: dict[str, Any] = {name: tags[tag] for name, tag in _TAGS.items() if tag in tags}
        return cls(**known, inputs={tag.removeprefix(_DATA): tags[tag] for tag in tags if tag.startswith(_DATA)})

    def to_tags(self) -> dict[str, str]:
        """Tags for what is known."""
        values = {tag: getattr(self, name) for name, tag in _TAGS.items()}
        known = {tag: value for tag, value in values.items() if value is not None}
        return known | {f"{_DATA}{path}": digest for path, digest in self.inputs.items()}


def source_tags(seed: int) -> dict[str, str]:
    """Tags of a run that name program, user and seed."""
    return {
        "mlflow.source.name": "sensorium",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": getpass.getuser(),
        SEED: str(seed),
    }


def git(root: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """Output of a git command; raises an OSError or a CalledProcessError."""
    call = ["git", "-C", str(root), *arguments]
    return subprocess.run(call, capture_output=True, input=stdin, check=True).stdout  # noqa: S603


def commit_of(root: Path) -> str | None:
    """The commit that is checked out, None outside a repository or without git."""
    try:
        return git(root, "rev-parse", "HEAD").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def uncommitted(root: Path) -> bytes | None:
    """What the tracked files differ in from the commit, as a patch; empty for a clean tree, None where git fails.

    dvc.lock is left out: every stage rewrites it, and its digests of the data are recorded as tags.
    """
    try:
        return git(root, "diff", "HEAD", *_PLAIN_DIFF, "--", ".", ":(exclude)dvc.lock")
    except (OSError, subprocess.CalledProcessError):
        return None


def hardware() -> str:
    """Processor, cores and GPU in one line."""
    import torch

    processor = f"{platform.machine()} x {os.cpu_count()}"
    return f"{processor}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else processor


def training_inputs(config: Config, root: Path, experiment: str, fold: int) -> dict[str, str]:
    """DVC's digest of everything the fold's training reads, by path, as dvc.lock has it."""
    paths, sources = Paths(Path()), (config.teachers[experiment], config.starts[experiment])
    wanted = {str(paths.store(mouse)) for mouse in config.dataset.mice} | {str(paths.folds)}
    wanted |= {str(paths.fold(source, fold)) for source in sources if source is not None}
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
