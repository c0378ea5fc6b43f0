"""Verbs that help around the pipeline."""

from typing import Annotated

import typer

from sensorium.errors import ConfigError


def add_commands(app: typer.Typer) -> None:
    """Register the verbs of this group."""
    app.command(rich_help_panel="Tools")(repro)
    app.command(rich_help_panel="Tools")(config)
    experiment = typer.Typer(no_args_is_help=True, help="Add experiments to the pipeline.")
    experiment.command("new")(new_experiment)
    experiment.command("add")(add_experiment)
    app.add_typer(experiment, name="experiment", rich_help_panel="Tools")
    remote = typer.Typer(no_args_is_help=True, help="Look after DVC's remotes.")
    remote.command("check")(check_remote)
    app.add_typer(remote, name="remote", rich_help_panel="Tools")


def repro(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Stages or groups of stages, as for `dvc repro`; all by default.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("-j", "--jobs", help="Stages at once. Default: one a GPU, or 1.")] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs to lease, one a stage, joined by commas: 0,1,2,3.")] = None,
    executor: Annotated[str, typer.Option(help="Where the commands run: local, slurm or ray.")] = "local",
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
    """Run the pipeline with independent stages side by side; equal to `dvc repro`, bit for bit.

    Examples: `sensorium repro -j 2`, `sensorium repro train --gpus 0,1,2,3 -k --push`.
    """
    from sensorium.paths import Paths, find_root
    from sensorium.stages import repro as stage

    options = stage.Options(
        tuple(targets or ()), jobs, gpus, gpus_per_stage, executor, keep_going, retries, push, remote
    )
    stage.run(Paths(find_root()), options)


def config(
    preset: Annotated[str | None, typer.Option(help="Preset of conf/preset/; params.yaml by default.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("-S", "--set", help="Change the preset, such as `dataset.raw=/folder`.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Compose the preset into params.yaml.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite changes of params.yaml not committed.")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Derive the section pipeline anew after editing params.yaml by hand.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Check them, and note it in data/settings.txt.")] = False,
) -> None:
    """Print the settings in force, or a preset's, after checking them; or write them.

    Examples: `sensorium config`, `sensorium config --preset competition --write`.
    """
    from sensorium.paths import Paths, find_root
    from sensorium.stages import config as stage

    paths = Paths(find_root())
    if preset is None and (overrides or write):
        raise ConfigError("--preset: -S and --write need one.", "Add for example --preset demo.")
    if check:
        stage.check(paths)
    elif update:
        stage.update(paths)
    elif write and preset is not None:
        stage.write(paths, preset, overrides or [], force=force)
    else:
        stage.show(paths, preset, overrides or [])


def new_experiment(
    name: Annotated[str, typer.Argument(help="Name of the new experiment.")],
    like: Annotated[str, typer.Option("--like", help="Experiment that it is based on.")],
    settings: Annotated[
        list[str] | None, typer.Option("-S", "--set", help="What differs, such as `training.learning_rate=0.005`.")
    ] = None,
) -> None:
    """Write conf/experiment/NAME.yaml, and add the experiment to the pipeline.

    Example: `sensorium experiment new slow --like true_batch_001 -S training.learning_rate=0.005`.
    """
    from sensorium.paths import Paths, find_root
    from sensorium.stages import experiment as stage

    stage.new(Paths(find_root()), name, like, settings or [])


def add_experiment(name: Annotated[str, typer.Argument(help="Name of a file in conf/experiment/.")]) -> None:
    """Add an experiment that has a file to the preset in force and to params.yaml."""
    from sensorium.paths import Paths, find_root
    from sensorium.stages import experiment as stage

    stage.add(Paths(find_root()), name)


def check_remote(
    name: Annotated[
        str | None, typer.Argument(help="Remote of DVC's configuration; the default one if not given.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Write nothing: for those who only pull.")] = False,
    objects: Annotated[bool, typer.Option("--objects", help="Read every object of this project; name damage.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Replace damaged objects by the intact copies of this clone's cache.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a server may take to answer.")] = 10,
) -> None:
    """Try a DVC remote out: reach it, sign in, read, write, measure; say what is wrong.

    Without --read-only a small object is written, read back and removed.
    """
    from sensorium.paths import Paths, find_root
    from sensorium.stages import remote as stage

    stage.run(Paths(find_root()), name, read_only, objects, repair, timeout)
