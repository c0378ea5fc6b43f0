"""`sensorium weights import` and `export`: trained folds from and to the published form."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sensorium import published
from sensorium.architectures import ModelConfig
from sensorium.commands.options import Experiment, count_neurons
from sensorium.config import Config, WindowConfig
from sensorium.errors import CheckpointError, TrainingError
from sensorium.files import PARTIAL_SUFFIX, RETIRED_SUFFIX, atomic_folder, exclusive_lock, sha256, write_json
from sensorium.model import checkpoint
from sensorium.model.architecture import meta_state
from sensorium.paths import PARAMS_FILE, Paths

_LOG = "log.csv"
_SOURCE = "published weights"
_FETCH = "Fetch the published folder again, whole; nothing was changed."


@dataclass(frozen=True)
class _Source:
    """One fold in the published form."""

    fold: int
    file: Path
    epoch: int
    score: float


_Folder = Annotated[Path, typer.Argument(help="Folder of the published format: EXPERIMENT/fold_K/model-*.pth.")]


def run_import(
    config: Config,
    paths: Paths,
    folder: _Folder,
    experiment: Experiment,
    force: Annotated[bool, typer.Option("--force", help="Replace trained folds that are there already.")] = False,
) -> None:
    """Import published weights as the trained folds of an experiment.

    FOLDER holds the experiment's folder, or is it. All folds of params.yaml are imported, or none: a
    damaged, foreign or incomplete folder changes nothing. `dvc commit` and `dvc push -r REMOTE` publish them then.

    Raises:
        CheckpointError: the folder is incomplete, damaged or foreign, other folds are there, or the experiment's
            architecture has no published form.
        TrainingError: a fold is being trained.
    """
    published.require_form(config.experiment(experiment).model, experiment)
    target = paths.experiment(experiment)
    origin = _experiment_folder(folder, experiment, target)
    sources = [_find(origin / key, fold) for key, fold in config.folds.train.items()]
    console = Console(highlight=False, soft_wrap=True)
    with _locked(config, paths, experiment), atomic_folder(target) as partial:
        for source in sources:
            console.print(f"{source.file}")
            _convert(config, paths, source, experiment, partial / f"fold_{source.fold}")
        _check_free(target, partial, force=force)
        _keep_others(target, partial)
    for source in sources:
        link = paths.run_link(experiment, source.fold)
        write_json(link, {"tracking_uri": None, "experiment_id": None, "run_id": None, "source": _SOURCE})
    mean = sum(source.score for source in sources) / len(sources)
    console.print(f"{len(sources)} folds in {target}, mean validation correlation {mean:.6f}.")
    console.print(
        "[cyan]dvc commit[/] records them as the training's results, [cyan]dvc push -r REMOTE[/] publishes them."
    )


def _experiment_folder(folder: Path, experiment: str, target: Path) -> Path:
    origin = folder / experiment if (folder / experiment).is_dir() else folder
    if not any(origin.glob("fold_*")):
        raise CheckpointError(
            f"{folder}: has neither {experiment}/fold_<k> nor fold_<k> in it.",
            f"Name the folder that holds {experiment}/fold_0/model-<epoch>-<score>.pth.",
        )
    if origin.resolve() == target.resolve():
        raise CheckpointError(
            f"{origin}: the published files lie where the trained folds go.",
            "Move them to another folder first, and import them from there.",
        )
    return origin


def _find(folder: Path, fold: int) -> _Source:
    """The best checkpoint of a fold's folder."""
    matches = [(file, published.FILE_PATTERN.fullmatch(file.name)) for file in sorted(folder.glob("*.pth"))]
    found = [_Source(fold, file, int(match["epoch"]), float(match["score"])) for file, match in matches if match]
    if not found:
        raise CheckpointError(f"{folder}: holds no model-<epoch>-<score>.pth.", _FETCH)
    return max(found, key=lambda source: (source.score, source.epoch))


@contextlib.contextmanager
def _locked(config: Config, paths: Paths, experiment: str) -> Iterator[None]:
    """Keep trainers away from the experiment's folds, and clean up what a killed import left."""
    with contextlib.ExitStack() as held:
        for fold in range(config.folds.count):
            busy = TrainingError(f"{experiment} fold {fold}: is being trained.", "Wait for it, or stop it.")
            outputs = (paths.experiment(experiment), paths.fold(experiment, fold))
            held.enter_context(exclusive_lock(paths.training_lock(experiment, fold), busy, *outputs))
        yield


def _convert(config: Config, paths: Paths, source: _Source, experiment: str, folder: Path) -> None:
    """Write one fold in our form."""
    settings, name = config.experiment(experiment), str(source.file)
    mice = count_neurons(config, paths)
    params, entries = published.read(source.file)
    model, window, neurons = published.settings(params, settings.model.canvas, name)
    _compare(name, model, settings.model, f"experiments.{experiment}.model")
    _compare(name, window, config.window, "window")
    if neurons != list(mice.values()):
        raise CheckpointError(
            f"{name}: has readouts of {neurons} neurons, the mice of {PARAMS_FILE} have {list(mice.values())}.",
            "Set dataset.mice to the mice of the weights, in their order.",
        )
    state = published.from_published(entries, meta_state(model, neurons), name)
    info = checkpoint.ModelInfo(
        experiment=experiment,
        fold=source.fold,
        model=model,
        window=window,
        mice=mice,
        scores={"val_correlation": source.score, "epoch": source.epoch},
        provenance={
            "source": _SOURCE,
            "file": source.file.name,
            "sha256": sha256(source.file),
            "params": published.to_json(params, name),
        },
    )
    log = source.file.with_name(_LOG)  # of its training; its columns are not those of our history
    folder.mkdir()
    checkpoint.fill(folder, state, info, {_LOG: log.read_bytes()} if log.is_file() else {})


def _compare(name: str, found: ModelConfig | WindowConfig, expected: ModelConfig | WindowConfig, section: str) -> None:
    expected_values = dict(expected)
    odd = {key: value for key, value in dict(found).items() if value != expected_values[key]}
    if odd:
        lines = [f"{section}.{key} is {value} there and {expected_values[key]} here" for key, value in odd.items()]
        raise CheckpointError(f"{name}: {'; '.join(lines)}.", f"Set these in {PARAMS_FILE}, or name other weights.")


def _check_free(target: Path, partial: Path, *, force: bool) -> None:
    """Refuse to replace a fold by a different one unasked."""
    for fold in sorted(partial.iterdir()):
        there = target / fold.name
        if force or not there.exists() or _same(there, fold):
            continue
        raise CheckpointError(
            f"{there}: a trained fold is there already; nothing was changed.",
            "Add --force to replace it by the published one.",
        )


def _same(there: Path, fold: Path) -> bool:
    return (there / checkpoint.CONFIG).exists() and checkpoint.digest(there) == checkpoint.digest(fold)


def _keep_others(target: Path, partial: Path) -> None:
    """Carry along what is not imported, without copying it."""
    for other in sorted(target.iterdir()) if target.is_dir() else ():
        if (partial / other.name).exists() or other.name.endswith((PARTIAL_SUFFIX, RETIRED_SUFFIX)):
            continue
        if other.is_dir():
            shutil.copytree(other, partial / other.name, copy_function=os.link)
        else:
            os.link(other, partial / other.name)


def run_export(config: Config, paths: Paths, folder: _Folder, experiment: Experiment) -> None:
    """Export the trained folds of an experiment in the published format.

    They go to FOLDER/EXPERIMENT, which must not exist yet. Every tensor is the same to the last bit.

    Raises:
        CheckpointError: a fold is missing or damaged, the target is there already, or the experiment's architecture
            has no published form.
    """
    published.require_form(config.experiment(experiment).model, experiment)
    target = folder / experiment
    if target.exists():
        raise CheckpointError(f"{target}: is there already; nothing was changed.", "Name another folder.")
    console = Console(highlight=False, soft_wrap=True)
    with atomic_folder(target) as partial:
        for key, fold in config.folds.train.items():
            name = _write_published(config, paths.fold(experiment, fold), partial / key)
            console.print(f"{target / key / name}")


def _write_published(config: Config, origin: Path, folder: Path) -> str:
    """Write one fold in the published form; return its file name."""
    trained = checkpoint.load(origin)
    info = trained.info
    name, params = info.provenance.get("file"), info.provenance.get("params")
    if info.provenance.get("source") != _SOURCE:
        name = f"model-{info.scores['epoch']:03d}-{info.scores['val_correlation']:.6f}.pth"
        recipe = config.experiment(info.experiment).training
        shape = published.require_form(info.model, info.experiment)
        plain: Any = published.make_params(shape, info.window, list(info.mice.values()), recipe)
    else:
        plain = published.from_json(params)
    folder.mkdir()
    assert isinstance(name, str)
    try:
        published.write(folder / name, plain, trained.model.state_dict())
        logs = [origin / kind for kind in (_LOG, checkpoint.HISTORY) if (origin / kind).exists()]
        if logs:
            shutil.copyfile(logs[0], folder / _LOG)
    except (OSError, RuntimeError) as fault:  # torch reports a full disk as a RuntimeError
        raise CheckpointError(f"{folder / name}: cannot be written ({fault}).", "Free space on the disk.") from fault
    return name
