"""Where everything lies, relative to the project's root (the folder of params.yaml).

The names under data/ are those that users of the published solution know.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sensorium.errors import ConfigError
from sensorium.mice import FOLDS_SPLIT, OUT_OF_FOLD

PARAMS_FILE = "params.yaml"


def user_cache() -> Path:
    """Folder of this user for what can be made or fetched again, of any project or of none."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sensorium"


def find_root(start: Path | None = None) -> Path:
    """The nearest folder at or above `start` (default: the working folder) that holds params.yaml.

    Raises:
        ConfigError: there is none.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / PARAMS_FILE).is_file():
            return folder
    project = next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), None)
    if project is not None:
        raise ConfigError(
            f"{project / PARAMS_FILE}: missing, or not a file.",
            f"Remove what is in its place, then type `git checkout -- {PARAMS_FILE}` in {project}.",
        )
    raise ConfigError(
        f"{here}: no {PARAMS_FILE} in this folder or above it.",
        "Run the command inside a clone of the project: `git clone` it, then type `make install` there.",
    )


@dataclass(frozen=True)
class Paths:
    """Names of all inputs and outputs of the stages."""

    root: Path

    @property
    def settings_checked(self) -> Path:
        """Says that the settings are valid; the first output of the pipeline."""
        return self.root / "data" / "settings.txt"

    @property
    def stores(self) -> Path:
        """One Zarr store a mouse."""
        return self.root / "data" / "store"

    def store(self, mouse: str) -> Path:
        """Store of one mouse."""
        return self.stores / f"{mouse}.zarr"

    @property
    def folds(self) -> Path:
        """Fold of every labelled trial, and the report on it."""
        return self.root / "data" / "folds"

    @property
    def experiments(self) -> Path:
        """Parent of all trained folds; its layout is fixed by the users of the published solution."""
        return self.root / "data" / "experiments"

    def experiment(self, experiment: str) -> Path:
        """All trained folds of one experiment and nothing else."""
        return self.experiments / experiment

    def fold(self, experiment: str, fold: int) -> Path:
        """One trained fold: model.safetensors, config.json, history.csv."""
        return self.experiment(experiment) / f"fold_{fold}"

    def run_link(self, experiment: str, fold: int) -> Path:
        """Link from a trained fold to its MLflow run; no stage depends on it."""
        return self.root / "data" / "runs" / experiment / f"fold_{fold}.json"

    def predictions(self, experiment: str, split: str) -> Path:
        """Predictions of one split: <mouse>/<trial>.npy, float32 (neurons, frames).

        Args:
            experiment: one experiment or several, sorted and joined by commas.
            split: one of `sensorium.mice.SPLITS`.
        """
        name = OUT_OF_FOLD if split == FOLDS_SPLIT else split
        return self.root / "data" / "predictions" / experiment / name

    @property
    def out_of_fold(self) -> Path:
        """One small file per experiment with the digests of its out-of-fold predictions: <experiment>.json."""
        return self.root / "data" / OUT_OF_FOLD

    @property
    def evaluation(self) -> Path:
        """Metrics and plots of the out-of-fold predictions."""
        return self.root / "reports" / "evaluation"

    def weights(self, experiments: Sequence[str]) -> Path:
        """Fitted weights of the ensemble of any experiments; no stage's output."""
        return self.root / "reports" / "weights" / f"{','.join(experiments)}.json"

    @property
    def report(self) -> Path:
        """One page of results: index.html and its figures."""
        return self.root / "reports" / "report"

    @property
    def inspection(self) -> Path:
        """Pictures of mice and trials; no stage's output."""
        return self.root / "reports" / "inspect"

    def sweep(self, name: str) -> Path:
        """Figure and table of a sweep; no stage's output."""
        return self.root / "reports" / "sweeps" / name

    def learning_curve(self, experiment: str) -> Path:
        """Figure and table of an experiment's learning curve; no stage's output."""
        return self.root / "reports" / "learning-curves" / experiment

    @property
    def pair_pin(self) -> Path:
        """The registered pair: names, versions and digests that the ensemble stage uses."""
        return self.root / "data" / "registry" / "pair.json"

    def submission(self, track: str) -> Path:
        """Submission files of one track and the zip that holds them."""
        return self.root / "data" / "submissions" / track

    @property
    def state(self) -> Path:
        """Checkpoints, locks and logs: outside every stage's outputs, ignored by git and DVC."""
        return self.root / ".sensorium"

    def lock(self, name: str) -> Path:
        """Held by whoever writes the output of that name."""
        return self.state / "locks" / f"{name}.lock"

    def training_lock(self, experiment: str, fold: int) -> Path:
        """Held by whoever writes a trained fold."""
        return self.lock(f"train-{experiment}-fold_{fold}")

    def training_locks(self) -> list[Path]:
        """The locks of all folds that were ever written."""
        return list((self.state / "locks").glob("train-*.lock"))
