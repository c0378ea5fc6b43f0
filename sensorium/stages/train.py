"""`sensorium train`: train one fold of an experiment, or go on with it, and publish its best weights."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.fabric import Fabric

from sensorium import tracking
from sensorium.config import Config, ExperimentConfig
from sensorium.data.batch import Batch
from sensorium.data.dataset import TrainingData, ValidationData
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import CheckpointError, ConfigError, TrainingError
from sensorium.files import exclusive_lock
from sensorium.model import checkpoint
from sensorium.model.architecture import AnyModel, build
from sensorium.paths import PARAMS_FILE, Paths
from sensorium.recovery import remedy
from sensorium.seeding import torch_seed
from sensorium.training import devices
from sensorium.training.distillation import Distillation
from sensorium.training.fingerprint import fingerprint, provenance
from sensorium.training.history import Best, Row, to_csv
from sensorium.training.learner import Learner
from sensorium.training.loop import BatchSource, Judge, Surroundings, Trainer
from sensorium.training.progress import NullView, TerminalView
from sensorium.training.recorder import NullRecorder, Recorder, closing
from sensorium.training.resume import ResumeFolder
from sensorium.training.states import About
from sensorium.training.stopping import PrunedError, StopRequest, stage_lifeline
from sensorium.training.task import Supervised
from sensorium.training.validation import FoldValidation


@dataclass(frozen=True)
class Trial:
    """What a training of a sweep has, and others do not."""

    name: str
    """What the user calls it."""
    states: Path
    """Where its states lie."""
    judge: Judge
    """Ends it where it is not worth going on with; can be pickled where several processes train."""
    open_recorder: Callable[[str], Recorder]
    """Takes the training's fingerprint."""


@dataclass(frozen=True)
class Job:
    """One fold's training, as it is sent to each process."""

    config: Config
    paths: Paths
    experiment: str
    fold: int
    provenance: dict[str, Any]
    open_recorder: Callable[[], Recorder]
    states: Path
    """Folder of the folders of resume states."""
    trial: Trial | None = None
    """The trial of a sweep that this is; its weights are not published."""

    @property
    def settings(self) -> ExperimentConfig:
        """Settings of the experiment."""
        return self.config.experiment(self.experiment)

    @property
    def output(self) -> Path:
        """Where the result goes."""
        return self.paths.fold(self.experiment, self.fold)

    @property
    def epochs(self) -> int:
        """Epochs of the whole training."""
        return self.settings.training.warmup_epochs + self.settings.training.cosine_epochs

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.trial.name if self.trial else f"{self.experiment} fold {self.fold}"


def run(config: Config, paths: Paths, experiment: str, fold: int) -> None:
    """Train a fold of an experiment.

    Args:
        config: all settings.
        paths: where stores and folds lie and the result goes.
        experiment: name in params.yaml.
        fold: fold to hold out.

    Raises:
        ConfigError: no such fold, or no such device.
        CheckpointError: the teacher is missing or of other mice.
        TrainingError: another process trains this fold, the training cannot go on, or was asked to stop.
    """
    settings = config.experiment(experiment)
    if not 0 <= fold < config.folds.count:
        raise ConfigError(
            f"fold {fold}: out of range.",
            f"{PARAMS_FILE} has folds.count {config.folds.count}: 0 to {config.folds.count - 1}.",
        )
    busy = TrainingError(
        f"{experiment} fold {fold}: another process is training it.", "Wait for it, or stop it; it saves its state."
    )
    with ExitStack() as held:
        if devices.is_first():
            held.enter_context(
                exclusive_lock(paths.training_lock(experiment, fold), busy, paths.fold(experiment, fold))
            )
        known = provenance(config, paths, experiment, fold, teacher_digest(settings, paths, fold))
        recorder = partial(tracking.start_training_run, config, paths, experiment, fold, fingerprint(known))
        fabric = devices.make_fabric(
            config.runtime, settings.training.precision, unused_readouts=settings.distillation is None
        )
        devices.launch(fabric, _train, Job(config, paths, experiment, fold, known, recorder, paths.state / "train"))


def try_out(config: Config, paths: Paths, experiment: str, fold: int, trial: Trial) -> float | None:
    """Train a fold for a sweep, or go on with it; only its states are written, and stay.

    Returns:
        The validation correlation of the best epoch; None where the judge ended the training.

    Raises:
        ConfigError: no such device.
        CheckpointError: the teacher is missing or of other mice.
        UntrainableError: the loss is not finite, or memory is full.
        TrainingError: the training cannot go on, or was asked to stop.
    """
    settings = config.experiment(experiment)
    known = provenance(config, paths, experiment, fold, teacher_digest(settings, paths, fold))
    recorder = partial(trial.open_recorder, fingerprint(known))
    fabric = devices.make_fabric(
        config.runtime, settings.training.precision, unused_readouts=settings.distillation is None
    )
    job = Job(config, paths, experiment, fold, known, recorder, trial.states, trial)
    return devices.launch(fabric, _train, job)


def teacher_digest(settings: ExperimentConfig, paths: Paths, fold: int) -> str | None:
    """Digest of the fold that a student learns from; None without a teacher.

    Raises:
        CheckpointError: the teacher is missing.
    """
    if settings.distillation is None:
        return None
    folder = paths.fold(settings.distillation.teacher, fold)
    with _teacher_remedy(folder, settings.distillation.teacher, fold):
        return checkpoint.digest(folder)


def _train(fabric: Fabric, job: Job) -> float | None:
    """Train in one of the processes; the validation correlation, None where a judge ended the training."""
    devices.make_deterministic(fabric, job.config.runtime.threads)
    stores = [MouseStore.open(job.paths.store(mouse)) for mouse in job.config.dataset.mice]
    about = About(job.experiment, job.fold, job.epochs)
    folder = ResumeFolder(job.states, fingerprint(job.provenance), about)
    with StopRequest(stage_lifeline(between=int(fabric.world_size > 1))) as stop, suppress(PrunedError):
        learner, source, validation = assemble(fabric, job, stores)
        view = TerminalView(job.name, learner.steps, job.epochs) if fabric.is_global_zero else NullView()
        recorder = job.open_recorder() if fabric.is_global_zero else NullRecorder()
        with closing(recorder), view:
            around = Surroundings(recorder, view, stop, job.trial.judge if job.trial else None)
            trainer = Trainer(learner, source, validation, folder, job.config.runtime.checkpoint_steps, around)
            best, rows = trainer.run()
            if fabric.is_global_zero and job.trial is None:
                learner.model.load_state_dict(folder.load_best(best.epoch))
                _publish(job, stores, learner.model, best, rows)
                for name in (checkpoint.CONFIG, checkpoint.HISTORY):
                    recorder.artifact(job.output / name)
                view.note(f"validation correlation {best.correlation:.4f} (epoch {best.epoch + 1}), {job.output}")
        if fabric.is_global_zero and job.trial is None:
            folder.remove()
        return best.correlation
    return None


def assemble(fabric: Fabric, job: Job, stores: Sequence[MouseStore]) -> tuple[Learner, BatchSource, FoldValidation]:
    """Data, first weights and task of one training, and how it is validated.

    Raises:
        CheckpointError: the teacher is missing, or was trained for something else.
    """
    config, recipe, canvas = job.config, job.settings.training, job.settings.model.canvas
    folds = Folds.load(job.paths.folds)
    data = TrainingData(
        stores, folds, job.fold, config.window, canvas, recipe.cutmix, recipe.samples_per_epoch, config.seed
    )
    held_out = ValidationData(stores, folds, job.fold, config.window)
    torch.manual_seed(torch_seed(config.seed, "weights", job.fold))
    model = build(job.settings.model, [store.neurons for store in stores])
    model.locate([torch.from_numpy(store.coordinates) for store in stores])
    task = _task(fabric, job, stores)
    learner = Learner(fabric, model, task, recipe, config.seed, data.batches(recipe.batch_size))
    validation = FoldValidation(fabric, held_out, list(config.dataset.mice), canvas, recipe.batch_size)

    def source(epoch: int, first: int) -> Iterable[Batch]:
        workers, rank, processes = config.runtime.workers, fabric.global_rank, fabric.world_size
        return data.loader(epoch, first, recipe.batch_size, workers, rank, processes)

    return learner, source, validation


def _task(fabric: Fabric, job: Job, stores: Sequence[MouseStore]) -> Supervised:
    """What to learn from.

    Raises:
        CheckpointError: the teacher is missing, or was trained for something else.
    """
    canvas, distillation = job.settings.model.canvas, job.settings.distillation
    if distillation is None:
        return Supervised(canvas, len(stores))
    folder = job.paths.fold(distillation.teacher, job.fold)
    mice, units = _mice(stores), _units(stores)
    with _teacher_remedy(folder, distillation.teacher, job.fold):
        teacher = checkpoint.load(folder, fabric.device, mice, units)
        expected = {"window": job.config.window, "model.canvas": canvas, "fold": job.fold}
        found = {"window": teacher.info.window, "model.canvas": teacher.info.model.canvas, "fold": teacher.info.fold}
        for key, value in expected.items():
            if found[key] != value:
                raise CheckpointError(f"{folder}: the teacher's {key} is {found[key]}, the student's is {value}.")
    return Distillation(canvas, teacher.model, distillation.ratio, fabric.autocast)


def _mice(stores: Sequence[MouseStore]) -> dict[str, int]:
    return {store.name: store.neurons for store in stores}


def _units(stores: Sequence[MouseStore]) -> dict[str, str]:
    return {store.name: checkpoint.digest_units(store.unit_ids) for store in stores}


@contextmanager
def _teacher_remedy(folder: Path, teacher: str, fold: int) -> Iterator[None]:
    """Tell the user how to get a teacher that fits."""
    try:
        yield
    except CheckpointError as fault:
        otherwise = f"Train the teacher first: dvc repro train@{teacher}-{fold}"
        raise CheckpointError(fault.problem, remedy(folder, otherwise)) from fault


def _publish(job: Job, stores: Sequence[MouseStore], model: AnyModel, best: Best, rows: list[Row]) -> None:
    """Replace the fold's output."""
    info = checkpoint.ModelInfo(
        experiment=job.experiment,
        fold=job.fold,
        model=job.settings.model,
        window=job.config.window,
        mice=_mice(stores),
        units=_units(stores),
        scores={"val_correlation": best.correlation, "epoch": best.epoch},
        provenance=job.provenance,
    )
    checkpoint.save(job.output, model, info, {checkpoint.HISTORY: to_csv(rows)})
