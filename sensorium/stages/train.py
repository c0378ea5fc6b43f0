"""`sensorium train`: train one fold of an experiment, or continue it, and publish its best weights."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric.fabric import Fabric
from rich.console import Console

from sensorium import tracking
from sensorium.callbacks.checkpoints import CheckpointFolder, TrainingInfo, remove
from sensorium.callbacks.progress import TrainingProgress
from sensorium.callbacks.recorder import Recorder, closing
from sensorium.callbacks.stopping import PrunedError, StopRequest, watch_parents
from sensorium.commands.options import Experiment, Folds, select_folds
from sensorium.config import Config, ExperimentConfig
from sensorium.data.store import MouseStore
from sensorium.errors import TrainingError
from sensorium.files import exclusive_lock
from sensorium.lineage import fingerprint, provenance
from sensorium.model import checkpoint
from sensorium.model.architecture import AnyModel
from sensorium.paths import Paths
from sensorium.training import devices
from sensorium.training.assembly import assemble, neuron_counts, teacher_remedy, unit_digests
from sensorium.training.history import Best, Row, to_csv
from sensorium.training.loop import Callbacks, Pruner, Trainer
from sensorium.training.transfer import start_digest


@dataclass(frozen=True)
class Trial:
    """What a training of a sweep or a learning curve has, and others do not."""

    name: str
    """What the user calls it."""
    checkpoints: Path
    """Where its checkpoints lie."""
    open_recorder: Callable[[str], Recorder]
    """Takes the training's fingerprint."""
    pruner: Pruner | None = None
    """Ends it early; can be pickled where several processes train."""


@dataclass(frozen=True)
class Job:
    """One fold's training, as it is sent to each process."""

    config: Config
    paths: Paths
    experiment: str
    fold: int
    provenance: dict[str, Any]
    open_recorder: Callable[[], Recorder]
    trial: Trial | None = None
    """The trial of a sweep that this is; its weights are not published."""


def run(config: Config, paths: Paths, experiment: Experiment, folds: Folds = None) -> None:
    """Train folds of an experiment; a killed training continues where it was.

    Examples: `sensorium train -e true_batch_001`, `sensorium train -e true_batch_001 -f 0,2`.

    Raises:
        ConfigError: no such experiment, fold or device.
        CheckpointError: the teacher, or the fold to start from, is missing or does not fit.
        TrainingError: another process trains this fold, the training cannot continue, or was asked to stop.
    """
    config.experiment(experiment)
    for fold in select_folds(config, folds):
        train_fold(config, paths, experiment, fold)


def train_fold(config: Config, paths: Paths, experiment: str, fold: int) -> None:
    """Train one fold and publish it."""
    busy = TrainingError(
        f"{experiment} fold {fold}: another process is training it.",
        "Wait for it, or stop it; it saves a checkpoint.",
    )
    with ExitStack() as held:
        if devices.is_first():
            held.enter_context(
                exclusive_lock(paths.training_lock(experiment, fold), busy, paths.fold(experiment, fold))
            )
        _launch(config, paths, experiment, fold)


def try_out(config: Config, paths: Paths, experiment: str, fold: int, trial: Trial) -> float | None:
    """Train a fold for a sweep or a learning curve, or continue; only its checkpoints are written, and stay.

    Returns:
        The validation correlation of the best epoch; None where the pruner ended the training.

    Raises:
        ConfigError: no such device.
        CheckpointError: the teacher is missing or of other mice.
        UntrainableError: the loss is not finite, or memory is full.
        TrainingError: the training cannot continue, or was asked to stop.
    """
    return _launch(config, paths, experiment, fold, trial)


def _launch(config: Config, paths: Paths, experiment: str, fold: int, trial: Trial | None = None) -> float | None:
    settings = config.experiment(experiment)
    known = provenance(
        config,
        paths,
        experiment,
        fold,
        teacher_digest(settings, paths, fold),
        start_digest(config, paths, experiment, fold),
    )
    start = trial.open_recorder if trial else partial(tracking.start_training_run, config, paths, experiment, fold)
    job = Job(config, paths, experiment, fold, known, partial(start, fingerprint(known)), trial)
    fabric = devices.make_fabric(
        config.runtime, settings.training.precision, unused_readouts=settings.distillation is None
    )
    return devices.launch(fabric, _train, job)


def teacher_digest(settings: ExperimentConfig, paths: Paths, fold: int) -> str | None:
    """Digest of the fold that a student learns from; None without a teacher.

    Raises:
        CheckpointError: the teacher is missing.
    """
    if settings.distillation is None:
        return None
    folder = paths.fold(settings.distillation.teacher, fold)
    with teacher_remedy(folder, settings.distillation.teacher, fold):
        return checkpoint.digest(folder)


def _train(fabric: Fabric, job: Job) -> float | None:
    """Train in one of the processes; the validation correlation, None where the pruner ended the training."""
    config, output = job.config, job.paths.fold(job.experiment, job.fold)
    epochs = config.experiment(job.experiment).training.epochs
    devices.make_deterministic(fabric, config.runtime.threads)
    stores = [MouseStore(job.paths.store(mouse)) for mouse in config.dataset.mice]
    info = TrainingInfo(job.experiment, job.fold, epochs)
    parent = job.trial.checkpoints if job.trial else job.paths.state / "train"
    folder = CheckpointFolder(parent, fingerprint(job.provenance), info)
    with StopRequest(watch_parents(between=int(fabric.world_size > 1))) as stop, suppress(PrunedError):
        learner, source, validation = assemble(fabric, config, job.paths, job.experiment, job.fold, stores)
        console = None if fabric.is_global_zero else Console(quiet=True)
        name = job.trial.name if job.trial else f"{job.experiment} fold {job.fold}"
        progress = TrainingProgress(name, learner.steps, epochs, console)
        recorder = job.open_recorder() if fabric.is_global_zero else Recorder()
        with closing(recorder), progress.bar:
            callbacks = Callbacks(recorder, progress, stop, job.trial.pruner if job.trial else None)
            trainer = Trainer(learner, source, validation, folder, config.runtime.checkpoint_steps, callbacks)
            best, rows = trainer.run()
            if fabric.is_global_zero and job.trial is None:
                learner.model.load_state_dict(folder.load_best(best.epoch))
                _publish(job, stores, learner.model, best, rows)
                for name in (checkpoint.CONFIG, checkpoint.HISTORY):
                    recorder.artifact(output / name)
                progress.note(f"validation correlation {best.correlation:.4f} (epoch {best.epoch + 1}), {output}")
        if fabric.is_global_zero and job.trial is None:
            remove(folder.path)
        return best.correlation
    return None


def _publish(job: Job, stores: list[MouseStore], model: AnyModel, best: Best, rows: list[Row]) -> None:
    """Replace the fold's output."""
    info = checkpoint.ModelInfo(
        experiment=job.experiment,
        fold=job.fold,
        model=job.config.experiment(job.experiment).model,
        window=job.config.window,
        mice=neuron_counts(stores),
        units=unit_digests(stores),
        scores={"val_correlation": best.correlation, "epoch": best.epoch},
        provenance=job.provenance,
    )
    checkpoint.save(job.paths.fold(job.experiment, job.fold), model, info, {checkpoint.HISTORY: to_csv(rows)})
