"""What dvc.yaml iterates over, derived from other settings: recordings, trainings, splits, experiments in silico."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sensorium.architectures import Section
from sensorium.mice import TRACKS
from sensorium.paths import Paths


class Training(Section):
    """One training of the pipeline: a fold of an experiment."""

    experiment: str
    """Experiment of params.yaml."""
    fold: Annotated[int, Field(ge=0)]
    """Fold that is held out."""
    depends_on: str
    """What the training needs besides data and code: the same fold of its teacher, or only the table of folds."""
    starts_from: str = ""
    """The same fold of the experiment that it starts from, or only the table of folds."""


class PipelineConfig(Section):
    """What dvc.yaml iterates over; derived from the other sections when params.yaml is composed."""

    ensemble: str
    """The members of the ensemble, sorted and joined by commas: name of the folder of its predictions."""
    recordings: dict[str, str]
    """What the store of every mouse depends on besides code: the mouse's folder where the recordings are yours
    (`dataset.get` is `verify`). Recordings that can be had again are no dependency, so that a clone which pulled the
    stores needs none."""
    splits: tuple[str, ...] = ()
    """Splits that are predicted besides the folds, a mean over all members for each."""
    submissions: dict[str, dict[str, str]] = Field(default_factory=dict)
    """The two splits, `live` and `final`, of each track that is submitted to."""
    trainings: dict[str, Training]
    """Every training by the name of its stage, `<experiment>-<fold>`."""
    insilico: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Experiment and mouse of every experiment in silico, by the name of its stage, `<experiment>-<mouse>`."""


_INGEST_CODE = "sensorium/recordings/ingest.py"  # a dependency that every clone has, where DVC's templates need one


def pipeline(
    dataset: Mapping[str, Any],
    teachers: Mapping[str, str | None],
    starts: Mapping[str, str | None],
    folds: Mapping[str, int],
    members: Sequence[str],
    tracks: Sequence[str],
    insilico: Sequence[str],
) -> dict[str, Any]:
    """The section `pipeline`, as plain values.

    Args:
        dataset: the section `dataset`.
        teachers: teacher by experiment, None where it has none.
        starts: experiment that an experiment starts from, None where there is none; the same keys as `teachers`.
        folds: folds to train by name, `folds.train` of params.yaml.
        members: experiments of the ensemble.
        tracks: tracks to submit to.
        insilico: experiments in silico.
    """
    paths = Paths(Path())
    own = dataset["get"] == "verify"
    recordings = {mouse: f"{dataset['raw']}/{mouse}" if own else _INGEST_CODE for mouse in dataset["mice"]}

    def needed(source: str | None, fold: int) -> str:
        return (paths.folds if source is None else paths.fold(source, fold)).as_posix()

    trainings = {
        f"{name}-{fold}": {
            "experiment": name,
            "fold": fold,
            "depends_on": needed(teacher, fold),
            "starts_from": needed(starts[name], fold),
        }
        for name, teacher in teachers.items()
        for fold in folds.values()
    }
    experiments = {
        f"{name}-{mouse}": {"experiment": name, "mouse": mouse} for name in insilico for mouse in dataset["mice"]
    }
    submissions = {track: dict(zip(("live", "final"), TRACKS[track], strict=True)) for track in tracks}
    return {
        "ensemble": ",".join(sorted(members)),
        "recordings": recordings,
        "splits": [split for track in tracks for split in TRACKS[track]],
        "submissions": submissions,
        "trainings": trainings,
        "insilico": experiments,
    }
