"""What a registered model consists of: names, versions and digests, as JSON.

A model's identity is the content of its folds, weights and configuration, not its version number:
a tracking store that was lost counts anew, the digests stay.
"""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from sensorium.config import FoldsConfig, PredictionConfig
from sensorium.errors import TrackingError
from sensorium.files import Record, digest_json, read_json, sha256
from sensorium.paths import Paths
from sensorium.recovery import later_remedy, remedy

TEACHER, STUDENT, PAIR = "sensorium-teacher", "sensorium-student", "sensorium-pair"
"""Names in MLflow's model registry."""
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_DIGESTED_SUFFIXES = (".safetensors", ".json")
REGISTER = "Type `sensorium register`."
RESTORE = "Type `sensorium registry restore`: it registers the trained folds of data/experiments again."


class ModelContent(Record):
    """One experiment's trained folds."""

    name: str
    """Name in the registry."""
    experiment: str
    files: dict[str, str]
    """SHA-256 of every file that predictions depend on, by path such as fold_0/model.safetensors."""
    digest: str
    """Identity of the content, from `content_digest`."""

    @model_validator(mode="after")
    def _check_digest(self) -> Self:
        if self.digest != content_digest(self.experiment, self.files):
            raise ValueError("the digest does not fit its files")
        return self

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


class PinnedModel(ModelContent):
    """The content and version of a pair's teacher or student."""

    version: int


class ModelManifest(ModelContent):
    """manifest.json of a version of the teacher or the student."""

    role: str
    prediction: PredictionConfig


class PairManifest(Record):
    """manifest.json of a version of the pair."""

    models: dict[str, PinnedModel]
    """By role, `teacher` and `student`."""
    scores: dict[str, Any]
    """What metrics.json holds of the pair, by role."""
    paired: dict[str, dict[str, float]] = Field(default_factory=dict)
    """The score of the pair's mean by mouse and fold."""
    evaluation: dict[str, Any]
    """Settings of the evaluation."""
    data: dict[str, str]
    """Digests of dvc.lock, by path."""
    code: dict[str, str]
    prediction: PredictionConfig
    weights: dict[str, float] | None = None
    """See `PairPin`."""


class Pin(Record):
    """One version in the registry, and what it must contain."""

    name: str
    version: int
    digest: str


class PairPin(Record):
    """data/registry/pair.json: the registered pair that the ensemble stage uses."""

    pair: Pin
    models: dict[str, PinnedModel]
    """By role, `teacher` and `student`."""
    weights: dict[str, float] | None = None
    """Weight in the ensemble by experiment; None for equal weights."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a pin.

        Raises:
            TrackingError: the file is missing or not a pin.
        """
        return cls.load(path, TrackingError, later_remedy(path, REGISTER))


def content_digest(experiment: str, files: dict[str, str]) -> str:
    """Identity of trained folds: what was trained, and the digests of the files."""
    return digest_json({"experiment": experiment, "files": files})


def trained_content(folds: FoldsConfig, paths: Paths, name: str, experiment: str) -> ModelContent:
    """Content of an experiment's trained folds on disk.

    Raises:
        TrackingError: a fold that params.yaml trains is missing, or its weights are not those of its config.json.
    """
    files = {}
    for fold in folds.train.values():
        folder = paths.fold(experiment, fold)
        if not (folder / WEIGHTS).is_file():
            raise TrackingError(
                f"{folder}: the fold is not trained, {WEIGHTS} is missing.",
                remedy(folder, f"Type `dvc repro train@{experiment}-{fold}`."),
            )
        for path in sorted(folder.rglob("*")):
            if path.name.endswith(_DIGESTED_SUFFIXES) and path.is_file():
                files[f"{folder.name}/{path.relative_to(folder).as_posix()}"] = sha256(path)
        _check_weights(folder, files[f"{folder.name}/{WEIGHTS}"], f"Type `dvc repro train@{experiment}-{fold}`.")
    return ModelContent(name=name, experiment=experiment, files=files, digest=content_digest(experiment, files))


def _check_weights(folder: Path, digest: str, otherwise: str) -> None:
    """Make sure that a fold's weights have the digest that its config.json names; PyTorch is not needed for it."""
    path = folder / CONFIG
    about = read_json(path, TrackingError, later_remedy(path, otherwise))
    weights = about.get("weights") if isinstance(about, dict) else None
    if not isinstance(weights, dict) or weights.get("sha256") != digest:
        raise TrackingError(
            f"{folder / WEIGHTS}: its SHA-256 is not the one in {CONFIG}: damaged or foreign.",
            remedy(folder, otherwise),
        )
