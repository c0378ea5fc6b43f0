"""A published model on disk: one folder that needs nothing else.

    config.json                   what it consists of, and the SHA-256 of every other file
    README.md                     the model card
    mice.json                     unit ids, frame size and mean behaviour by mouse
    scores.json                   scores out of fold, with intervals
    <experiment>/fold_<k>/        model.safetensors and config.json of a trained fold
    LICENSE, CITATION.cff

Equal weights, scores and data give equal bytes: no dates, no runs, no machine.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sensorium.config import PredictionConfig
from sensorium.errors import CheckpointError
from sensorium.files import Record, digest_json, read_json, sha256
from sensorium.inference.encoding_model import EncodingModel, MouseInfo
from sensorium.model import checkpoint

CONFIG, CARD, MICE, SCORES = "config.json", "README.md", "mice.json", "scores.json"
FORMAT: Final = 1
AGAIN = "Download or publish it again."


def _inside(path: str) -> str:
    """A path that stays in the folder."""
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or path.startswith("/") or "\\" in path or parts[-1] == CONFIG == path:
        raise ValueError(f"{path!r} is no file of the folder")
    return path


class Mice(Record):
    """mice.json: what is known of the mice."""

    mice: dict[str, MouseInfo]


class Score(Record):
    """Single-trial correlation out of fold."""

    mean: float
    """Over folds and mice."""
    low: float
    high: float
    """Ends of the 95 % interval: mice and folds are resampled (`sensorium.evaluation.comparison`)."""
    mice: dict[str, float]
    """Mean over folds by mouse."""


class ScoreTable(Record):
    """scores.json."""

    metric: Literal["single_trial_correlation"] = "single_trial_correlation"
    scores: dict[str, Score]
    """By experiment, and `ensemble` for the mean of several; without those that were not evaluated."""


class ReleaseConfig(Record):
    """config.json of a published model."""

    format: Literal[1] = 1
    library: Literal["sensorium"] = "sensorium"
    experiments: dict[str, tuple[Annotated[str, AfterValidator(_inside)], ...]] = Field(min_length=1)
    """Folders of the trained folds by experiment."""
    weights: dict[str, float] | None = None
    """Weight of each experiment in the mean; None for equal weights."""
    prediction: PredictionConfig
    recordings: dict[str, str]
    """Digest of the raw recordings by mouse, as in the provenance of predictions."""
    files: dict[Annotated[str, AfterValidator(_inside)], str]
    """SHA-256 of every other file, by path."""
    digest: str
    """Identity of the model: SHA-256 over all of the above."""

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        folds = [fold for part in self.experiments.values() for fold in part]
        needed = {CARD, MICE, *(f"{fold}/{name}" for fold in folds for name in (checkpoint.WEIGHTS, checkpoint.CONFIG))}
        if not all(self.experiments.values()) or not needed <= set(self.files):
            raise ValueError("the list of files lacks some that are needed")
        return self

    @model_validator(mode="after")
    def _check_digest(self) -> Self:
        if self.digest != digest_json(self.model_dump(mode="json", exclude={"digest"}, exclude_none=True)):
            raise ValueError("the digest does not fit the content, the file was changed")
        return self

    @classmethod
    def of(cls, **content: Any) -> Self:
        """Add the digest to the content."""
        bare = cls.model_construct(**content)
        tree = bare.model_dump(mode="json", exclude={"digest"}, exclude_none=True)
        return cls(**content, digest=digest_json(tree))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a published model's config.json.

        Raises:
            CheckpointError: it is missing, damaged, or of another format.
        """
        path = folder / CONFIG
        tree = read_json(path, CheckpointError, AGAIN)
        found = tree.get("format") if isinstance(tree, dict) else None
        if isinstance(found, int) and found != FORMAT:
            raise CheckpointError(
                f"{path}: a published model of format {found}, this release reads format {FORMAT}.",
                "Type `pip install --upgrade sensorium`." if found > FORMAT else AGAIN,
            )
        return cls.load(path, CheckpointError, AGAIN)


def is_release(folder: Path) -> bool:
    """Whether a folder is a published model, whatever state it is in; that of a trained fold has weights beside it."""
    return (folder / CONFIG).is_file() and not (folder / checkpoint.WEIGHTS).exists()


def verify(folder: Path, name: str | None = None) -> ReleaseConfig:
    """Make sure that every file of a published model is there and as it was published.

    Args:
        folder: the published model.
        name: what to call it in messages; the folder by default.

    Raises:
        CheckpointError: files are missing or damaged, or of another format.
    """
    config = ReleaseConfig.read(folder)
    faults = list(_faults(folder, config))
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(f"{name or folder}: {'; '.join(faults[:3])}{more}.", AGAIN)
    return config


def _faults(folder: Path, config: ReleaseConfig) -> Iterator[str]:
    for name, digest in config.files.items():
        if not (folder / name).is_file():
            yield f"{name} is missing"
        elif sha256(folder / name) != digest:
            yield f"{name} is damaged or was changed"


def open_release(folder: Path, changes: Mapping[str, Any], accelerator: str) -> EncodingModel:
    """Load a published model, every file of it verified.

    Args:
        folder: the published model.
        changes: batch size and precision, where they are not those of the publisher.
        accelerator: `cpu`, `cuda`, or `auto`.

    Raises:
        CheckpointError: files are missing or damaged, or of another format.
    """
    config = verify(folder)
    return EncodingModel(
        {name: [folder / fold for fold in folds] for name, folds in config.experiments.items()},
        config.prediction.model_copy(update=changes),
        weights=config.weights,
        mice=Mice.load(folder / MICE, CheckpointError, AGAIN).mice,
        card=(folder / CARD).read_text(encoding="utf-8"),
        accelerator=accelerator,
    )
