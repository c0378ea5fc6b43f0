"""`sensorium run`: run the DVC graph with independent stages in parallel."""

import time
from collections.abc import Sequence
from typing import Annotated

import typer

from sensorium.commands.options import Executor, Gpus, Jobs
from sensorium.errors import ConfigError
from sensorium.paths import Paths
from sensorium.remote.config import folder_of
from sensorium.scheduler import executors, graph
from sensorium.scheduler import gpus as devices
from sensorium.scheduler.coordinator import Run, lock_project
from sensorium.scheduler.display import Display, duration
from sensorium.scheduler.environment import command_environment
from sensorium.scheduler.shell import install_shell
from sensorium.scheduler.tasks import Scheduler, State


def run(
    paths: Paths,
    targets: Annotated[
        list[str] | None, typer.Argument(help="Stages or groups of stages, as for `dvc repro`; all by default.")
    ] = None,
    jobs: Jobs = None,
    gpus: Gpus = None,
    executor: Executor = "local",
    gpus_per_stage: Annotated[
        int, typer.Option(min=0, help="GPUs that each stage asks the cluster of --executor for.")
    ] = 0,
    keep_going: Annotated[
        bool, typer.Option("-k", "--keep-going", help="Skip only what depends on a failed stage.")
    ] = False,
    retries: Annotated[int, typer.Option(help="Times that a failed stage is run again.")] = 1,
    push: Annotated[bool, typer.Option("--push", help="Push the outputs of each stage as soon as it is done.")] = False,
    remote: Annotated[str | None, typer.Option("-r", "--remote", help="Remote to push to. Default: DVC's.")] = None,
) -> None:
    """Run the pipeline with independent stages in parallel; equal to `dvc repro`, bit for bit.

    Examples: `sensorium run -j 2`, `sensorium run train --gpus 0,1,2,3 -k --push`.

    Raises:
        ConfigError: an unknown target, GPU or executor, or more jobs than GPUs.
        PipelineError: stages failed, DVC cannot read the project, or another run is at work.
        KeyboardInterrupt: a stop was requested; everything that was started has ended.
    """
    began = time.monotonic()
    leased = _gpus(gpus, executor, gpus_per_stage)
    count = _jobs(jobs, leased)
    if retries < 0:
        raise ConfigError(f"--retries {retries}: must be 0 or more.", "For example: --retries 1")
    executors.check(executor, gpus_per_stage)
    if push:
        _check_remote(paths, remote)
    folder = paths.state / "scheduler"
    with lock_project(folder) as lock:
        stages = graph.read(paths.root, targets or [])
        install_shell(folder / "shell", executor, gpus_per_stage)
        environment = {**command_environment(executor), "SHELL": str(folder / "shell")}
        scheduler = Scheduler(stages.upstream, count, leased, retries, keep_going)
        display = Display()
        Run(paths.root, stages, scheduler, display, folder, lock, environment, push, remote).execute()
        total, ran = len(stages.upstream), scheduler.count(State.DONE)
        display.event(f"{total} stages: {ran} ran, {total - ran} unchanged; {duration(time.monotonic() - began)}")


def _gpus(gpus: str | None, executor: str, gpus_per_stage: int) -> list[str]:
    if executor == "local" and gpus_per_stage:
        raise ConfigError("--gpus-per-stage: on this machine GPUs are leased by id.", "For example: --gpus 0,1")
    if gpus is None:
        return []
    if executor != "local":
        raise ConfigError(
            f"--gpus {gpus}: --executor {executor} leases the cluster's GPUs itself.", "Use --gpus-per-stage 1."
        )
    return devices.parse(gpus)


def _jobs(jobs: int | None, gpus: Sequence[str]) -> int:
    count = max(1, len(gpus)) if jobs is None else jobs
    if count < 1:
        raise ConfigError(f"--jobs {count}: must be 1 or more.", "For example: --jobs 2")
    if gpus and count > len(gpus):
        raise ConfigError(
            f"--jobs {count}: more than the {len(gpus)} GPUs of --gpus.", f"Use --jobs {len(gpus)} or name more GPUs."
        )
    return count


def _check_remote(paths: Paths, remote: str | None) -> None:
    """Refuse to push everything into the repository itself, where the default remote carries a few weights."""
    folder = folder_of(paths.root, remote)
    if folder is not None and folder.resolve().is_relative_to(paths.root.resolve()):
        raise ConfigError(
            f"--push: the remote {remote or 'of core.remote'} is a folder of this repository, {folder}.",
            "Name another one with --remote, or choose a default for this clone: dvc remote default --local NAME",
        )
