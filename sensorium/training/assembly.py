"""One fold's training put together: data, initial weights, task and validation."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning_fabric.fabric import Fabric

from sensorium.config import Config, ExperimentConfig
from sensorium.data.augmentation import make_augmentation
from sensorium.data.dataset import TrainingData, ValidationData
from sensorium.data.folds import Folds
from sensorium.data.inputs import Batch
from sensorium.data.store import MouseStore
from sensorium.errors import CheckpointError
from sensorium.files import folder_digest
from sensorium.model import checkpoint
from sensorium.model.architecture import build
from sensorium.paths import Paths
from sensorium.recovery import remedy
from sensorium.seeding import torch_seed
from sensorium.training.learner import Learner
from sensorium.training.loop import BatchSource
from sensorium.training.losses import LOSSES
from sensorium.training.task import Distillation, Supervised
from sensorium.training.transfer import load_start, start_remedy
from sensorium.training.validation import FoldValidation


def assemble(
    fabric: Fabric, config: Config, paths: Paths, experiment: str, fold: int, stores: Sequence[MouseStore]
) -> tuple[Learner, BatchSource, FoldValidation]:
    """Build the learner, its batches, and the validation.

    Args:
        fabric: device, precision and processes.
        config: settings.
        paths: where the folds and the teacher lie.
        experiment: its name.
        fold: fold to hold out.
        stores: all mice, in the order of the readouts.

    Raises:
        DataError: the folds are missing, or do not fit the stores.
        CheckpointError: the teacher, or the fold to start from, is missing or was trained for something else.
    """
    settings, seed, folds = config.experiment(experiment), config.seed, Folds.load(paths.folds)
    recipe, canvas = settings.training, settings.model.canvas
    augmentation = make_augmentation(recipe.cutmix)
    samples, trials = recipe.samples_per_epoch, recipe.trials
    data = TrainingData(stores, folds, fold, config.window, canvas, augmentation, samples, seed, trials)
    held_out = ValidationData(stores, folds, fold, config.window)
    torch.manual_seed(torch_seed(seed, "weights", fold))
    model = build(settings.model, [store.neurons for store in stores])
    model.locate([torch.from_numpy(store.coordinates) for store in stores])
    frozen: tuple[str, ...] = ()
    if settings.start is not None:
        expected = model_info(config, paths, experiment, fold, stores)
        source, frozen = paths.fold(settings.start.experiment, fold), settings.start.frozen
        with start_remedy(config, settings.start, source, fold):
            load_start(model, source, expected)
    task = _task(fabric, config, paths, settings, fold, stores)
    learner = Learner(fabric, model, task, recipe, seed, data.batches(recipe.batch_size), frozen)
    mice = [store.name for store in stores]
    validation = FoldValidation(fabric, held_out, mice, canvas, recipe.batch_size, LOSSES[recipe.loss])

    def batches(epoch: int, first: int) -> Iterable[Batch]:
        workers = config.runtime.workers
        return data.loader(epoch, first, recipe.batch_size, workers, fabric.global_rank, fabric.world_size)

    return learner, batches, validation


def model_info(
    config: Config, paths: Paths, experiment: str, fold: int, stores: Sequence[MouseStore]
) -> checkpoint.ModelInfo:
    """What a fold of an experiment will be; its provenance holds the digest of the folds alone."""
    return checkpoint.ModelInfo(
        experiment=experiment,
        fold=fold,
        model=config.experiment(experiment).model,
        window=config.window,
        mice=neuron_counts(stores),
        units=unit_digests(stores),
        provenance={"folds": folder_digest(paths.folds)},
    )


def neuron_counts(stores: Sequence[MouseStore]) -> dict[str, int]:
    """Number of neurons of each mouse, in the order of the readouts."""
    return {store.name: store.neurons for store in stores}


def unit_digests(stores: Sequence[MouseStore]) -> dict[str, str]:
    """Digest of the unit ids of each mouse."""
    return {store.name: checkpoint.digest_units(store.unit_ids) for store in stores}


def _task(
    fabric: Fabric, config: Config, paths: Paths, settings: ExperimentConfig, fold: int, stores: Sequence[MouseStore]
) -> Supervised:
    canvas, distillation, loss = settings.model.canvas, settings.distillation, LOSSES[settings.training.loss]
    if distillation is None:
        return Supervised(canvas, len(stores), loss)
    folder = paths.fold(distillation.teacher, fold)
    with teacher_remedy(folder, distillation.teacher, fold):
        teacher = checkpoint.load(folder, fabric.device, neuron_counts(stores), unit_digests(stores))
        expected = {"window": config.window, "model.canvas": canvas, "fold": fold}
        found = {"window": teacher.info.window, "model.canvas": teacher.info.model.canvas, "fold": teacher.info.fold}
        for key, value in expected.items():
            if found[key] != value:
                raise CheckpointError(f"{folder}: the teacher's {key} is {found[key]}, the student's is {value}.")
    return Distillation(canvas, teacher.model, distillation.ratio, fabric.autocast, loss)


@contextmanager
def teacher_remedy(folder: Path, teacher: str, fold: int) -> Iterator[None]:
    """Add to an error about a teacher's fold how to get one that fits."""
    try:
        yield
    except CheckpointError as fault:
        otherwise = f"Train the teacher first: dvc repro train@{teacher}-{fold}"
        raise CheckpointError(fault.problem, remedy(folder, otherwise)) from fault
