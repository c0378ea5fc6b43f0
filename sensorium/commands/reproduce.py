"""`sensorium reproduce`: train a fold again from what its run or receipt says, and compare the two."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sensorium.commands.options import require_free
from sensorium.config import Config, load
from sensorium.errors import ConfigError, PipelineError, TrackingError
from sensorium.files import exclusive_lock, write_json
from sensorium.paths import PARAMS_FILE, Paths, find_root
from sensorium.processes import die_with_parent
from sensorium.registry.pair import find_weights
from sensorium.reproduction.drift import Drift, Outcome, judge
from sensorium.reproduction.rebuild import clone_commit, clone_repository, place_data
from sensorium.reproduction.receipt import is_receipt, read_receipt, write_receipt
from sensorium.tracking.project_run import log_results
from sensorium.tracking.provenance import hardware
from sensorium.tracking.recorder import CONFIG, HISTORY
from sensorium.tracking.run_links import RunLink
from sensorium.tracking.store import TrackingStore
from sensorium.tracking.timeouts import child_variables, upload_timeout
from sensorium.tracking.training_record import TrainingRecord, note_verdict, read_training_record
from sensorium.tracking.uploader import upload_remaining
from sensorium.tracking.uploader_process import await_end

_FOREIGN = ("MLFLOW_", "SENSORIUM_", "DVC_")
"""Variables that would tie the repetition to the user's store or stage."""
DRIFT = 3
"""Exit code when the training comes out differently."""
_TRAIN = "from sensorium.cli import main; main()"


def run(
    run: Annotated[
        str, typer.Argument(help="Id of a fold's run, a fold such as true_batch_001/fold_0, or a receipt's folder.")
    ],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest relative difference of weights and metrics; 0: equal bits only.")
    ] = 1e-3,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the folder that it was trained in.")] = False,
    repository: Annotated[
        str | None, typer.Option(help="Where to clone the code of a receipt from. Default: the address in it.")
    ] = None,
) -> None:
    """Train a fold again from the code, data and settings that its run or receipt names, and compare bit by bit.

    A receipt needs neither a project nor MLflow: its code is cloned below the working folder, outside of a project.

    The exit code is 0 for bitwise equal and within tolerance, 3 for drift.
    """
    if is_receipt(Path(run)):
        drift = _from_receipt(Path(run), tolerance, keep, repository)
    else:
        root = find_root()
        drift = reproduce(load(root / PARAMS_FILE), Paths(root), run, tolerance, keep)
    if drift.verdict == "drift":
        raise typer.Exit(DRIFT)


def run_receipt(
    config: Config,
    paths: Paths,
    run: Annotated[str, typer.Argument(help="Id of a fold's run, or a fold such as true_batch_001/fold_0.")],
    to: Annotated[
        Path | None, typer.Option(help="Folder to write. Default: reports/receipts/EXPERIMENT-fold_K.")
    ] = None,
) -> None:
    """Write a receipt of a training: a small folder from which `sensorium reproduce` trains it again anywhere.

    The folder is an RO-Crate: commit and uncommitted changes, settings, digests of data and weights, scores, and the
    versions of all packages. Whoever trains again needs the git repository and the DVC remote.

    Example: `sensorium receipt true_batch_001/fold_0`.

    Raises:
        ConfigError: no such name.
        TrackingError: the run is missing or does not record enough.
        PipelineError: the run has no settings or no history.
    """
    upload_remaining(TrackingStore.of(paths))
    record = read_training_record(config, paths, run)
    folder = to or paths.root / "reports" / "receipts" / f"{record.experiment}-fold_{record.fold}"
    if to is not None:
        require_free(to)
    write_receipt(paths.root, record, platform.python_version(), folder)
    Console(soft_wrap=True, highlight=False).print(f"{record.name}: {folder}")


def reproduce(config: Config, paths: Paths, name: str, tolerance: float, keep: bool) -> Drift:
    """Train a fold again, in a folder of its own, with the settings of its run, and compare.

    Nothing in the project's tree is changed but reports/reproduction and `.sensorium`.

    Raises:
        ConfigError: no such name.
        TrackingError: the run is missing or does not record enough.
        PipelineError: commit or data are missing, the training fails, or the run is being reproduced already.
    """
    upload_remaining(TrackingStore.of(paths))  # of a training that ended a moment ago; what cannot arrive stays on disk
    recipe = read_training_record(config, paths, name)
    origin = "whose run is in another store" if recipe.run_id is None else f"run {recipe.run_id}"
    drift = _repeat(paths, recipe, origin, partial(_first, paths, recipe), tolerance, keep)
    note_verdict(paths, recipe, drift.verdict)
    measured = {"weights": drift.weights, "metrics": drift.metrics}
    log_results(paths, {f"difference/{key}": None if d is None else d.relative for key, d in measured.items()})
    return drift


def _from_receipt(path: Path, tolerance: float, keep: bool, repository: str | None) -> Drift:
    """Train what a receipt describes again: in the project around the working folder, or in a clone below it."""
    receipt, record = read_receipt(path)
    try:
        root = find_root()
    except ConfigError:
        address = repository or receipt.repository
        if address is None:
            raise ConfigError(f"{path}: names no git repository.", "Give its address: --repository ADDRESS.") from None
        root = clone_repository(address, Path.cwd() / "sensorium-code") / receipt.inside
    first = partial(Outcome, record.artifacts[CONFIG], record.artifacts[HISTORY], None)
    return _repeat(Paths(root), record, f"receipt {path}", first, tolerance, keep)


def _repeat(
    paths: Paths, recipe: TrainingRecord, origin: str, outcome: Callable[[], Outcome], tolerance: float, keep: bool
) -> Drift:
    """Train again in a folder of its own, compare with what the original training left, and write the report."""
    folder = paths.state / "reproduce" / recipe.key
    console = Console(soft_wrap=True, highlight=False)
    busy = PipelineError(f"{folder}: this run is being reproduced already.", "Wait for it, or stop it.")
    with exclusive_lock(paths.state / "locks" / f"reproduce-{recipe.key}.lock", busy):
        console.print(f"{recipe.name}, {origin}: commit {recipe.commit[:12]} in {folder}")
        first = outcome()
        project = clone_commit(paths.root, recipe.commit, recipe.patch, folder)
        place_data(paths.root, recipe.inputs, project)
        _train(project, recipe)
        drift = judge(
            first, Outcome.of(Paths(project).fold(recipe.experiment, recipe.fold)), tolerance, _causes(recipe)
        )
        report = paths.root / "reports" / "reproduction" / f"{recipe.key}.json"
        known = {"run": recipe.run_id, "commit": recipe.commit, "inputs": recipe.inputs, "fold": recipe.name}
        write_json(report, {**known, **drift.to_json()})
        if drift.verdict != "drift" and not keep:
            await_end(TrackingStore.of(Paths(project)).state)
            shutil.rmtree(folder)
    _print(console, drift, recipe, report)
    return drift


def _first(paths: Paths, recipe: TrainingRecord) -> Outcome:
    """What the original training left, as far as it is at hand."""
    link, folder = paths.run_link(recipe.experiment, recipe.fold), paths.fold(recipe.experiment, recipe.fold)
    present = link.exists() and folder.exists() and recipe.run_id in {None, RunLink.read(link).run_id}
    if present:
        return Outcome.of(folder)
    outcome = Outcome(recipe.artifacts.get(CONFIG), recipe.artifacts.get(HISTORY), None)
    if outcome.config is None and outcome.history is None:
        raise TrackingError(
            f"run {recipe.run_id}: has neither {CONFIG} nor {HISTORY} to compare with.", "Name another run of the fold."
        )
    if outcome.digest is None:
        return outcome
    weights = find_weights(paths, recipe.experiment, recipe.fold, outcome.digest)
    return Outcome(outcome.config, outcome.history, weights)


def _train(project: Path, recipe: TrainingRecord) -> None:
    """Run the stage's own command with the code of the run; a stopped repetition goes on where it was."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    kept["PYTHONPATH"] = str(project)
    kept |= child_variables(upload_timeout(), idle=0)  # the folder goes with it
    if recipe.threads is not None:
        kept["OMP_NUM_THREADS"] = str(recipe.threads)
    arguments = ["train", "--experiment", recipe.experiment, "--folds", str(recipe.fold)]
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", _TRAIN, *arguments], cwd=project, env=kept, check=False, preexec_fn=die_with_parent
    )
    if done.returncode != 0:
        raise PipelineError(
            f"sensorium {' '.join(arguments)} in {project}: failed with exit code {done.returncode}.",
            "The reason is shown above. Type the command again to go on where it stopped.",
        )


def _causes(recipe: TrainingRecord) -> list[str]:
    """What differs in the machine, or may."""
    present, causes = hardware(), []
    if recipe.hardware not in {"", present}:
        causes.append(f"hardware: {recipe.hardware} before, {present} now")
    if recipe.threads is None:
        causes.append("threads: not recorded before")
    return causes


def _print(console: Console, drift: Drift, recipe: TrainingRecord, report: Path) -> None:
    table = Table("compared", "largest relative difference", "where", title=f"{recipe.name} again")
    for name, found in (("weights", drift.weights), ("metrics", drift.metrics)):
        cells = ("unknown", "no longer available") if found is None else (f"{found.relative:.3g}", found.place)
        table.add_row(name, *cells)
    console.print(table)
    for cause in drift.causes:
        console.print(f"Not the same: {cause}")
    words = {"bitwise": "bitwise equal", "within tolerance": f"within {drift.tolerance:g}", "drift": "drift"}
    console.print(f"{recipe.name}: [bold]{words[drift.verdict]}[/]; {report}")
