"""Run the DVC graph with independent stages side by side."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sensorium.commands.options import Executor, Gpus, Jobs
from sensorium.errors import ConfigError, PipelineError
from sensorium.files import exclusive_lock, read_json, write_json
from sensorium.paths import Paths
from sensorium.remote.settings import folder_of
from sensorium.repro import backends, graph, record, variables
from sensorium.repro import gpus as devices
from sensorium.repro.children import install_shell
from sensorium.repro.claims import wait_for_release
from sensorium.repro.coordinator import Folder, Run
from sensorium.repro.executors import GRACE
from sensorium.repro.live import clock, make_view
from sensorium.repro.scheduler import Scheduler, State
from sensorium.tracking.adopted import RUN_VARIABLES
from sensorium.tracking.store import PATIENCE_VARIABLE, patience


@dataclass(frozen=True)
class Options:
    """How to run."""

    targets: Sequence[str] = ()
    """As for `dvc repro`; none for all of dvc.yaml."""

    jobs: int | None = None
    """Stages at once; by default one a GPU, or one."""

    gpus: str | None = None
    """GPUs to lease, joined by commas."""

    gpus_per_stage: int = 0
    """GPUs that each stage asks a cluster for."""

    executor: str = "local"
    """Name of an entry of `backends.EXECUTORS`."""

    keep_going: bool = False
    retries: int = 1
    push: bool = False
    remote: str | None = None


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
        SensoriumError: as for `run_pipeline`.
    """
    run_pipeline(
        paths, Options(tuple(targets or ()), jobs, gpus, gpus_per_stage, executor, keep_going, retries, push, remote)
    )


def run_pipeline(paths: Paths, options: Options) -> None:
    """Bring the targets up to date; the result equals that of `dvc repro`, bit for bit.

    Raises:
        ConfigError: an unknown target, GPU or executor, or more jobs than GPUs.
        PipelineError: stages failed, DVC cannot read the project, or another run is at work.
        KeyboardInterrupt: told to end; everything that was started has ended.
    """
    began = time.monotonic()
    gpus = _gpus(options)
    jobs = _jobs(options, gpus)
    backends.check(options.executor, options.gpus_per_stage)
    _check_remote(paths, options)
    folder = Folder(paths.state / "repro")
    busy = PipelineError(
        "Another `sensorium repro` is at work in this project.", f"Wait for it, or end it: fuser {folder.lock}"
    )
    with exclusive_lock(folder.lock, busy):
        wait_for_release(folder.claims, 2 * GRACE)
        record.heal(paths.root)
        plan = graph.read(paths.root, options.targets)
        _keep_orders(folder, plan)
        scheduler = Scheduler(plan.upstream, jobs, gpus, options.retries, options.keep_going)
        environment = _environment(folder, options)
        view = make_view()
        run = Run(paths.root, plan, scheduler, view, folder, environment, options.push, options.remote)
        try:
            run.execute()
        finally:
            if not run.interrupts:
                folder.journal.unlink(missing_ok=True)
        total, ran = len(plan.upstream), scheduler.count(State.DONE)
        view.say(f"{total} stages: {ran} ran, {total - ran} unchanged; {clock(time.monotonic() - began)}")


def _gpus(options: Options) -> list[str]:
    if options.executor == "local" and options.gpus_per_stage:
        raise ConfigError("--gpus-per-stage: on this machine GPUs are leased by id.", "For example: --gpus 0,1")
    if options.gpus is None:
        return []
    if options.executor != "local":
        raise ConfigError(
            f"--gpus {options.gpus}: --executor {options.executor} leases the cluster's GPUs itself.",
            "Use --gpus-per-stage 1.",
        )
    return devices.parse(options.gpus)


def _jobs(options: Options, gpus: Sequence[str]) -> int:
    jobs = max(1, len(gpus)) if options.jobs is None else options.jobs
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: must be 1 or more.", "For example: --jobs 2")
    if gpus and jobs > len(gpus):
        raise ConfigError(
            f"--jobs {jobs}: more than the {len(gpus)} GPUs of --gpus.", f"Use --jobs {len(gpus)} or name more GPUs."
        )
    if options.retries < 0:
        raise ConfigError(f"--retries {options.retries}: must be 0 or more.", "For example: --retries 1")
    return jobs


def _check_remote(paths: Paths, options: Options) -> None:
    """Refuse to push everything into the repository itself, where the default remote carries a few weights."""
    if not options.push:
        return
    folder = folder_of(paths.root, options.remote)
    if folder is not None and folder.resolve().is_relative_to(paths.root.resolve()):
        raise ConfigError(
            f"--push: the remote {options.remote or 'of core.remote'} is a folder of this repository, {folder}.",
            "Name another one with --remote, or choose a default for this clone: dvc remote default --local NAME",
        )


def _keep_orders(folder: Folder, plan: graph.Plan) -> None:
    """Keep the order of lock entries that an interrupted run set out with, so that it ends in the same bytes."""
    if folder.journal.exists():
        earlier = read_json(folder.journal, PipelineError, f"Remove {folder.journal}.")
        for path, names in plan.locks.items():
            names[:] = dict.fromkeys([*earlier.get(path, []), *names])
    write_json(folder.journal, plan.locks)


def _environment(folder: Folder, options: Options) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in RUN_VARIABLES}
    return {
        **kept,
        # The stages' own programs, also where the environment is not activated.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}",
        "SHELL": str(install_shell(folder.path)),
        variables.USER_SHELL: os.environ.get("SHELL") or "/bin/sh",
        variables.EXECUTOR: options.executor,
        variables.GPUS: str(options.gpus_per_stage),
        # A cluster ends what a job leaves behind, the courier as well.
        **({} if options.executor == "local" else {PATIENCE_VARIABLE: f"{patience():g}"}),
    }
