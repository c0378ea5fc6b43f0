"""Writing a published model: the folds of a target and all that a user of them should know."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sensorium.config import PredictionConfig
from sensorium.config import load as load_config
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError
from sensorium.evaluation.comparison import Scores, compare
from sensorium.evaluation.scores import ALL
from sensorium.evaluation.sources import ENSEMBLE
from sensorium.files import digest_json, sha256, write_text
from sensorium.hub.card import Facts, model_card
from sensorium.hub.loading import REGISTERED, find_folds
from sensorium.hub.release import CARD, CONFIG, MICE, SCORES, Mice, ReleaseConfig, Score, ScoreTable
from sensorium.inference.encoding_model import MouseInfo
from sensorium.inference.predictions import Predictions
from sensorium.mice import FOLDS_SPLIT
from sensorium.model import checkpoint
from sensorium.paths import PARAMS_FILE, Paths
from sensorium.registry.registered import find_registered
from sensorium.registry.results import read_scores

_DIGITS = 6
_ATTACHED = ("LICENSE", "CITATION.cff")


@dataclass(frozen=True)
class _Content:
    """What is to be published."""

    folds: Mapping[str, Sequence[Path]]
    prediction: PredictionConfig
    weights: Mapping[str, float] | None = None
    paired: Scores = field(default_factory=dict)
    """Score of the mean by mouse and fold."""


def write_release(target: str, paths: Paths, folder: Path) -> ReleaseConfig:
    """Write a published model into an empty folder.

    Args:
        target: a trained fold's folder, a folder of folds, or a registered version such as
            models:/sensorium-pair@champion.
        paths: the project, which has the stores of the mice.
        folder: where to write.

    Raises:
        ConfigError: the target is none of these.
        CheckpointError: weights are missing or damaged, or of other neurons than the stores.
        DataError: a mouse's store is missing.
        TrackingError: the registry has no such version.
    """
    content = _content(target, paths)
    infos = {path: checkpoint.read_info(path) for folds in content.folds.values() for path in folds}
    stores = [MouseStore(paths.store(mouse)) for mouse in next(iter(infos.values())).mice]
    mice = {store.name: MouseInfo.of(store) for store in stores}
    units = {store.name: checkpoint.digest_units(store.unit_ids) for store in stores}
    for path in infos:
        checkpoint.load(path, mice={store.name: store.neurons for store in stores}, units=units)
    experiments = {name: tuple(_copy(name, folds, folder)) for name, folds in sorted(content.folds.items())}
    scores = _scores(content, paths)
    Mice(mice=mice).save(folder / MICE)
    scores.save(folder / SCORES)
    facts = Facts(
        infos=[infos[path] for folds in content.folds.values() for path in folds],
        mice=mice,
        recordings={store.name: digest_json(store.sources) for store in stores},
        simulated=any(store.truth(0) is not None for store in stores),
        weights=content.weights,
        scores=scores,
        licence=_attach(paths, folder),
    )
    write_text(folder / CARD, model_card(facts))
    written = sorted(file for file in folder.rglob("*") if file.is_file())
    config = ReleaseConfig.of(
        experiments=experiments,
        weights=content.weights,
        prediction=content.prediction,
        recordings=facts.recordings,
        files={file.relative_to(folder).as_posix(): sha256(file) for file in written},
    )
    config.save(folder / CONFIG)
    return config


def _content(target: str, paths: Paths) -> _Content:
    if target.startswith(REGISTERED):
        found = find_registered(target, paths)
        return _Content(found.folds, found.prediction, found.weights, found.paired)
    return _Content(find_folds(Path(target)), load_config(paths.root / PARAMS_FILE).prediction)


def _copy(experiment: str, folds: Sequence[Path], folder: Path) -> list[str]:
    """Copy the weights and their description; returns the folders, relative."""
    names = []
    for source in folds:
        name = f"{experiment}/fold_{checkpoint.read_info(source).fold}"
        (folder / name).mkdir(parents=True)
        for file in (checkpoint.WEIGHTS, checkpoint.CONFIG):
            shutil.copyfile(source / file, folder / name / file)
        names.append(name)
    return names


def _attach(paths: Paths, folder: Path) -> str:
    """Copy licence and citation; returns the licence's first line."""
    for name in _ATTACHED:
        if not (paths.root / name).is_file():
            raise ConfigError(
                f"{paths.root / name}: the file does not exist.",
                "Put it there: a published model says under which terms it is used, and how it is cited.",
            )
        shutil.copyfile(paths.root / name, folder / name)
    return (folder / "LICENSE").read_text(encoding="utf-8").partition("\n")[0].strip()


def _scores(content: _Content, paths: Paths) -> ScoreTable:
    """Scores of these very weights; none where the project has evaluated others."""
    file = paths.evaluation / "scores.csv"
    table = read_scores(file) if file.is_file() else {}
    found = {
        name: table[name] for name, folds in content.folds.items() if name in table and _evaluated(name, folds, paths)
    }
    scores = {name: _score(by_mouse) for name, by_mouse in found.items()}
    return ScoreTable(scores=scores | ({ENSEMBLE: _score(content.paired)} if content.paired else {}))


def _evaluated(experiment: str, folds: Sequence[Path], paths: Paths) -> bool:
    """Whether the project's out-of-fold predictions of an experiment are those of these folds."""
    folder = paths.predictions(experiment, FOLDS_SPLIT)
    if not folder.is_dir():
        return False
    parts = Predictions.open(folder).provenance.get("assignments", [])
    return {digest for part in parts for digest in part["weights"].get(experiment, [])} == {
        checkpoint.digest(fold) for fold in folds
    }


def _score(by_mouse: Scores) -> Score:
    """A score and its interval: the difference from a model that explains nothing."""
    known = {mouse: folds for mouse, folds in by_mouse.items() if mouse != ALL}
    nothing = {mouse: dict.fromkeys(folds, 0.0) for mouse, folds in known.items()}
    interval = compare(known, nothing)
    assert interval is not None
    mice = {mouse: round(float(np.mean(list(folds.values()))), _DIGITS) for mouse, folds in known.items()}
    return Score(**{end: round(getattr(interval, end), _DIGITS) for end in ("mean", "low", "high")}, mice=mice)
