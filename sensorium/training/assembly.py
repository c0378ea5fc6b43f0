"""One fold's training put together: data, initial weights, task and validation."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning_fabric.fabric import Fabric

from sensorium.config import ExperimentConfig, WindowConfig
from sensorium.data.augmentation import make_augmentation
from sensorium.data.batch import Batch
from sensorium.data.dataset import TrainingData, ValidationData
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import CheckpointError
from sensorium.model import checkpoint
from sensorium.model.architecture import build
from sensorium.recovery import remedy
from sensorium.seeding import torch_seed
from sensorium.training.distillation import Distillation
from sensorium.training.learner import Learner
from sensorium.training.loop import BatchSource
from sensorium.training.losses import LOSSES
from sensorium.training.task import Supervised
from sensorium.training.validation import FoldValidation


@dataclass(frozen=True)
class FoldSetup:
    """What a fold's training is assembled from."""

    settings: ExperimentConfig
    window: WindowConfig
    seed: int
    stores: Sequence[MouseStore]
    folds: Folds
    fold: int
    """Fold to hold out."""
    teacher: Path | None
    """Folder of the teacher's model of this fold, for a student."""
    workers: int
    """Processes that load batches."""

    @property
    def mice(self) -> dict[str, int]:
        """Number of neurons of each mouse, in the order of the readouts."""
        return {store.name: store.neurons for store in self.stores}

    @property
    def units(self) -> dict[str, str]:
        """Digest of the unit ids of each mouse."""
        return {store.name: checkpoint.digest_units(store.unit_ids) for store in self.stores}


def assemble(fabric: Fabric, setup: FoldSetup) -> tuple[Learner, BatchSource, FoldValidation]:
    """Build the learner, its batches, and the validation.

    Raises:
        CheckpointError: the teacher is missing, or was trained for something else.
    """
    recipe, canvas, stores, folds = setup.settings.training, setup.settings.model.canvas, setup.stores, setup.folds
    augmentation = make_augmentation(recipe.cutmix)
    data = TrainingData(
        stores, folds, setup.fold, setup.window, canvas, augmentation, recipe.samples_per_epoch, setup.seed
    )
    held_out = ValidationData(stores, folds, setup.fold, setup.window)
    torch.manual_seed(torch_seed(setup.seed, "weights", setup.fold))
    model = build(setup.settings.model, [store.neurons for store in stores])
    model.locate([torch.from_numpy(store.coordinates) for store in stores])
    learner = Learner(fabric, model, _task(fabric, setup), recipe, setup.seed, data.batches(recipe.batch_size))
    validation = FoldValidation(fabric, held_out, list(setup.mice), canvas, recipe.batch_size, LOSSES[recipe.loss])
    return learner, partial(_batches, data, recipe.batch_size, setup.workers, fabric), validation


def _batches(
    data: TrainingData, batch_size: int, workers: int, fabric: Fabric, epoch: int, first: int
) -> Iterable[Batch]:
    return data.loader(epoch, first, batch_size, workers, fabric.global_rank, fabric.world_size)


def _task(fabric: Fabric, setup: FoldSetup) -> Supervised:
    canvas, distillation = setup.settings.model.canvas, setup.settings.distillation
    loss = LOSSES[setup.settings.training.loss]
    if distillation is None:
        return Supervised(canvas, len(setup.stores), loss)
    assert setup.teacher is not None
    with teacher_remedy(setup.teacher, distillation.teacher, setup.fold):
        teacher = checkpoint.load(setup.teacher, fabric.device, setup.mice, setup.units)
        expected = {"window": setup.window, "model.canvas": canvas, "fold": setup.fold}
        found = {"window": teacher.info.window, "model.canvas": teacher.info.model.canvas, "fold": teacher.info.fold}
        for key, value in expected.items():
            if found[key] != value:
                raise CheckpointError(
                    f"{setup.teacher}: the teacher's {key} is {found[key]}, the student's is {value}."
                )
    return Distillation(canvas, teacher.model, distillation.ratio, fabric.autocast, loss)


@contextmanager
def teacher_remedy(folder: Path, teacher: str, fold: int) -> Iterator[None]:
    """Add to an error about a teacher's fold how to get one that fits."""
    try:
        yield
    except CheckpointError as fault:
        otherwise = f"Train the teacher first: dvc repro train@{teacher}-{fold}"
        raise CheckpointError(fault.problem, remedy(folder, otherwise)) from fault
