"""`sensorium.load`: a trained model from wherever it lies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from sensorium.config import Precision, PredictionConfig
from sensorium.config import load as load_config
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError
from sensorium.hub.places import place
from sensorium.hub.release import is_release, open_release
from sensorium.inference.encoding_model import EncodingModel, MouseInfo
from sensorium.model import checkpoint
from sensorium.paths import PARAMS_FILE, Paths, find_root

REGISTERED = "models:/"
_BARE = PredictionConfig(batch_size=64, precision="32-true")
"""Settings of folds outside of a project."""
_TARGETS = (
    "Name a trained fold's folder, a folder of folds such as data/experiments/NAME, a published model's folder, "
    "models:/NAME@ALIAS, s3://BUCKET/PREFIX or hf://OWNER/NAME."
)


def load(
    target: str | Path,
    *,
    revision: str | None = None,
    accelerator: str = "auto",
    precision: Precision | None = None,
    batch_size: int | None = None,
) -> EncodingModel:
    """Load a trained model.

    Examples:
        >>> model = sensorium.load("hf://owner/name")  # doctest: +SKIP
        >>> responses = model.predict(video, mouse="29515-10-12")  # doctest: +SKIP

    Args:
        target: a trained fold's folder, a folder of folds (their mean is predicted), a published model's folder,
            `models:/NAME@ALIAS` or `models:/NAME/VERSION` of MLflow's registry, `s3://BUCKET/PREFIX`, or
            `hf://OWNER/NAME` of the Hugging Face hub.
        revision: which release of a published model: a tag, branch or commit on the hub, elsewhere the subfolder.
        accelerator: `cpu`, `cuda`, or `auto`, a GPU where there is one.
        precision: arithmetic; by default that of the publisher or the project around the folder.
        batch_size: windows in one forward pass; by default as the precision.

    Raises:
        ConfigError: the target is none of these.
        CheckpointError: files are missing, damaged, changed, or of another format.
        TransferError: the model cannot be fetched.
        TrackingError: the registry has no such version.
    """
    changes = _changes(precision, batch_size)
    address = str(target)
    if address.startswith(REGISTERED):
        return _load_registered(address, revision, changes, accelerator)
    folder = place(address, revision).fetch(revision)
    if is_release(folder):
        return open_release(folder, changes, accelerator)
    return _load_folds(folder, changes, accelerator)


def _changes(precision: Precision | None, batch_size: int | None) -> dict[str, Any]:
    """The settings that are given."""
    if precision not in (None, *get_args(Precision)):
        raise ConfigError(f"precision: {precision!r} is unknown.", f"Choose one of: {', '.join(get_args(Precision))}.")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size: {batch_size} is less than 1.")
    given = {"precision": precision, "batch_size": batch_size}
    return {key: value for key, value in given.items() if value is not None}


def _load_registered(address: str, revision: str | None, changes: Mapping[str, Any], accelerator: str) -> EncodingModel:
    if revision is not None:
        raise ConfigError(
            f"revision: {revision!r} has no meaning for {address}.", "Name the version or the alias in the address."
        )
    from sensorium.registry.registered import find_registered  # with MLflow, which nobody else needs

    paths = project(Path.cwd())
    found = find_registered(address, paths)
    settings = found.prediction.model_copy(update=changes)
    mice = {} if paths is None else known_mice(paths, found.folds)
    return EncodingModel(found.folds, settings, weights=found.weights, mice=mice, accelerator=accelerator)


def _load_folds(folder: Path, changes: Mapping[str, Any], accelerator: str) -> EncodingModel:
    folds, paths = find_folds(folder), project(folder)
    settings = _BARE if paths is None else load_config(paths.root / PARAMS_FILE).prediction
    mice = {} if paths is None else known_mice(paths, folds)
    return EncodingModel(folds, settings.model_copy(update=changes), mice=mice, accelerator=accelerator)


def find_folds(folder: Path) -> dict[str, list[Path]]:
    """The trained folds in a folder, or the one that it is, by experiment.

    Raises:
        ConfigError: there is none, or they are of several experiments.
    """
    single = (folder / checkpoint.CONFIG).is_file()
    found = [folder] if single else [path.parent for path in folder.glob(f"*/{checkpoint.CONFIG}")]
    if not found:
        raise ConfigError(f"{folder}: holds no trained model.", _TARGETS)
    infos = {path: checkpoint.read_info(path) for path in found}
    names = sorted({info.experiment for info in infos.values()})
    if len(names) > 1:
        raise ConfigError(f"{folder}: holds folds of {', '.join(names)}.", "Name a folder of one experiment.")
    return {names[0]: sorted(found, key=lambda path: infos[path].fold)}


def project(place: Path) -> Paths | None:
    """The project around a folder; None where there is none."""
    try:
        return Paths(find_root(place))
    except ConfigError:
        return None


def known_mice(paths: Paths, folds: Mapping[str, Sequence[Path]]) -> dict[str, MouseInfo]:
    """What the stores of a project say of the mice of trained folds; it may lack some."""
    names = {mouse for part in folds.values() for fold in part for mouse in checkpoint.read_info(fold).mice}
    stores = [MouseStore(paths.store(mouse)) for mouse in sorted(names) if paths.store(mouse).is_dir()]
    return {store.name: MouseInfo.of(store) for store in stores}
