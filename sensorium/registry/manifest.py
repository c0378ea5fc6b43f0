"""What a registered model consists of: names, versions and digests, as JSON.

A model's identity is the content of its folds, weights and configuration, not its version number:
a tracking store that was lost counts anew, the digests stay.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sensorium.config import Config
from sensorium.errors import TrackingError
from sensorium.files import digest_json, read_json, sha256, write_json
from sensorium.paths import Paths
from sensorium.recovery import later_remedy, remedy

TEACHER, STUDENT, PAIR = "sensorium-teacher", "sensorium-student", "sensorium-pair"
"""Names in MLflow's model registry."""

WEIGHTS = "model.safetensors"
_PINNED_ENDINGS = (".safetensors", ".json")
REGISTER = "Type `sensorium register`."
RESTORE = "Type `sensorium registry restore`: it registers the trained folds of data/experiments again."


@dataclass(frozen=True)
class ModelContent:
    """One experiment's trained folds."""

    name: str
    """Name in the registry."""
    experiment: str
    files: dict[str, str]
    """SHA-256 of every file that predictions depend on, by path such as fold_0/model.safetensors."""

    @property
    def digest(self) -> str:
        """Identity of the content."""
        return digest_json({"experiment": self.experiment, "files": self.files})

    @property
    def folds(self) -> list[str]:
        """Fold folders, in the order of their numbers."""
        return sorted({path.split("/")[0] for path in self.files}, key=lambda name: int(name.removeprefix("fold_")))

    def faults(self, folder: Path) -> list[str]:
        """What is wrong with a copy of the content; empty when it is whole."""
        faults = []
        for path, digest in self.files.items():
            if not (folder / path).is_file():
                faults.append(f"{path} is missing")
            elif sha256(folder / path) != digest:
                faults.append(f"{path} is damaged")
        return faults


@dataclass(frozen=True)
class Pin:
    """One version in the registry, and what it must contain."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True)
class PairPin:
    """The registered pair that the ensemble stage uses."""

    pair: Pin
    models: dict[str, ModelContent]
    """Content by role, `teacher` and `student`."""
    versions: dict[str, int]
    """Version by role."""
    weights: dict[str, float] | None = None
    """Weight in the ensemble by experiment; None where all have the same say."""

    def write(self, path: Path) -> None:
        """Write the pin as JSON; equal pins give equal bytes."""
        models = {
            role: {**asdict(content), "version": self.versions[role], "digest": content.digest}
            for role, content in self.models.items()
        }
        weights = {} if self.weights is None else {"weights": self.weights}
        write_json(path, {"pair": asdict(self.pair), "models": models, **weights})

    @classmethod
    def read(cls, path: Path) -> "PairPin":
        """Read a pin.

        Raises:
            TrackingError: the file is missing or not a pin.
        """
        tree = read_json(path, TrackingError, later_remedy(path, REGISTER))
        try:
            models = {role: _content(entry) for role, entry in tree["models"].items()}
            versions = {role: int(entry["version"]) for role, entry in tree["models"].items()}
            pin = cls(Pin(**tree["pair"]), models, versions, tree.get("weights"))
            wrong = [role for role, entry in tree["models"].items() if models[role].digest != entry["digest"]]
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise TrackingError(
                f"{path}: not the pin of a registered pair ({fault}).", remedy(path, REGISTER)
            ) from fault
        if wrong:
            raise TrackingError(f"{path}: the digest of the {wrong[0]} does not fit its files.", remedy(path, REGISTER))
        return pin


def _content(entry: dict[str, Any]) -> ModelContent:
    return ModelContent(entry["name"], entry["experiment"], dict(entry["files"]))


def trained_content(config: Config, paths: Paths, name: str, experiment: str) -> ModelContent:
    """Content of an experiment's trained folds on disk.

    Raises:
        TrackingError: a fold that params.yaml trains is missing.
    """
    files = {}
    for fold in config.folds.train.values():
        folder = paths.fold(experiment, fold)
        if not (folder / WEIGHTS).is_file():
            raise TrackingError(
                f"{folder}: the fold is not trained, {WEIGHTS} is missing.",
                remedy(folder, f"Type `dvc repro train@{experiment}-{fold}`."),
            )
        for path in sorted(folder.rglob("*")):
            if path.name.endswith(_PINNED_ENDINGS):
                files[f"{folder.name}/{path.relative_to(folder).as_posix()}"] = sha256(path)
    return ModelContent(name, experiment, files)
