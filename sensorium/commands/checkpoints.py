"""`sensorium checkpoints`: the checkpoints of unfinished trainings, and their removal."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from sensorium.callbacks.checkpoints import StoredTraining, stored_checkpoints
from sensorium.callbacks.checkpoints import remove as remove_folder
from sensorium.errors import ConfigError, TrainingError
from sensorium.files import exclusive_lock
from sensorium.paths import Paths

ALL = "all"


def run(
    paths: Paths,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Remove this one, as listed, or `all`; repeatable."),
    ] = None,
) -> None:
    """List the checkpoints of unfinished trainings: fold, epoch, size, age.

    A training continues from its checkpoint. Checkpoints of settings that were given up stay until they are removed
    with `--remove`; those of a training that is running are never removed.

    Raises:
        ConfigError: no checkpoint, or more than one, has such an id; nothing is removed.
        TrainingError: one that was named is being trained.
    """
    console = Console(highlight=False, soft_wrap=True)
    found = stored_checkpoints(paths.state / "train")
    if remove:
        _remove(console, paths, _choose(found, remove), everything=ALL in remove)
    elif found:
        console.print(_table(found))
        console.print(
            f"{_gigabytes(sum(training.size for training in found))} in all. A training with the same settings, data "
            "and code continues from its checkpoint; `sensorium checkpoints --remove ID` removes one for good."
        )
    else:
        console.print("No checkpoints: every training is finished, or none was started.")


def _choose(found: Sequence[StoredTraining], unwanted: Sequence[str]) -> list[StoredTraining]:
    if ALL in unwanted:
        return list(found)
    chosen: dict[Path, StoredTraining] = {}
    for identity in unwanted:
        matches = [training for training in found if identity and training.identity.startswith(identity)]
        if len({training.identity for training in matches}) != 1:
            known = ", ".join(training.identity for training in found) or "there are none"
            raise ConfigError(f"--remove {identity}: names {len(matches)} trainings.", f"Choose among: {known}.")
        chosen |= {training.folder: training for training in matches}
    return list(chosen.values())


def _remove(console: Console, paths: Paths, chosen: Sequence[StoredTraining], *, everything: bool) -> None:
    for training in chosen:
        try:
            with _not_running(paths, training):
                remove_folder(training.folder)
        except TrainingError as fault:
            if not everything:
                raise
            console.print(fault.problem)
            continue
        console.print(f"{training.identity} ({_name(training)}): removed, {_gigabytes(training.size)}.")


def _not_running(paths: Paths, training: StoredTraining) -> ExitStack:
    """Hold the lock of the fold, or those of all folds where it is not known which it is; refuse if one is held."""
    busy = TrainingError(
        f"{training.identity} ({_name(training)}): is being trained, its checkpoints stay.",
        "Wait for it, or stop it; it saves a checkpoint.",
    )
    info = training.info
    locks = [paths.training_lock(info.experiment, info.fold)] if info else sorted(paths.training_locks())
    with ExitStack() as held:
        for lock in locks:
            held.enter_context(exclusive_lock(lock, busy))
        return held.pop_all()


def _name(training: StoredTraining) -> str:
    return f"{training.info.experiment} fold {training.info.fold}" if training.info else "unknown"


def _table(found: Sequence[StoredTraining]) -> Table:
    numbers = (Column(heading, justify="right") for heading in ("epoch", "size", "age"))
    table = Table("id", "training", *numbers, title="Checkpoints", title_justify="left")
    for training in found:
        epochs = f" of {training.info.epochs}" if training.info else ""
        done = "none" if training.epoch is None else f"{training.epoch}{epochs}"
        age = max(0.0, time.time() - training.written) / 86400
        table.add_row(training.identity, _name(training), done, _gigabytes(training.size), f"{age:.1f} days")
    return table


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**27 else f"{count / 2**20:.1f} MiB"
