"""`sensorium doctor`: examine a project, and mend what can be mended safely."""

import json
from collections import Counter
from collections.abc import Sequence
from threading import Lock
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from sensorium.doctor import content, environment, leftovers, outputs, settings, storage, tracking
from sensorium.doctor.finding import SEVERITIES, Check, Finding, Project, examine
from sensorium.errors import SensoriumError
from sensorium.paths import Paths

CHECKS: tuple[Check, ...] = (
    settings.check_params,
    environment.check_packages,
    environment.check_git,
    environment.check_gpu,
    environment.check_disk,
    settings.check_dvc_state,
    settings.check_pipeline,
    outputs.check_outputs,
    storage.check_cache,
    storage.check_remotes,
    content.check_stores,
    content.check_folds,
    content.check_weights,
    content.check_predictions,
    tracking.check_registry,
    leftovers.check_checkpoints,
    leftovers.check_event_logs,
    leftovers.check_siblings,
    leftovers.check_damaged_databases,
)
"""In this order: later checks leave out what an earlier one has named."""
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def run(
    paths: Paths,
    deep: Annotated[
        bool, typer.Option("--deep/--quick", help="Read every byte, or trust sizes and time stamps.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended without losing anything.")] = False,
) -> None:
    """Examine the whole project: what is wrong, how bad it is, and the command that mends it.

    Looks at the environment, git, settings, the pipeline, outputs, DVC's cache and remotes, stores, folds, weights,
    predictions, registry, MLflow's database, checkpoints and event logs. Exit code 1 if there are errors.

    Examples: `sensorium doctor`, `sensorium doctor --deep --fix`.
    """
    found = _examine(paths, deep=deep)
    done: list[str] = []
    if fix and any(finding.fix for finding in found):
        done = _mend(found)
        found = _examine(paths, deep=deep)
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    console = Console(highlight=False, soft_wrap=True)
    if as_json:
        listed = [{"severity": each.severity, "what": each.what, "remedy": each.remedy} for each in found]
        typer.echo(json.dumps({"findings": listed, "fixed": done}, indent=2))
    else:
        for text in done:
            console.print(escape(text))
        _print(console, found)
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(1)


def _examine(paths: Paths, *, deep: bool) -> list[Finding]:
    """All findings in the order of the checks, which is also that of their fixes: a registry needs its folds."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not deep, transient=True) as progress:
        lock, task = Lock(), progress.add_task("", total=None, visible=False)

        def begin(title: str, total: int) -> None:
            progress.reset(task, total=total, description=title, visible=True)

        def read(count: int) -> None:
            with lock:
                progress.advance(task, count)

        project = Project(paths, deep=deep, begin=begin, read=read)
        return [finding for check in CHECKS for finding in examine(check, project)]


def _mend(found: Sequence[Finding]) -> list[str]:
    """Apply every fix once, though several findings may have the same; returns what was done."""
    fixes = {finding.remedy: finding.fix for finding in found if finding.fix is not None}
    done = []
    for fix in fixes.values():
        try:
            done.append(f"fixed: {fix()}.")
        except SensoriumError as fault:
            done.append(f"not fixed: {fault.problem}")
    return done


def _print(console: Console, found: Sequence[Finding]) -> None:
    for finding in found:
        console.print(f"[{_STYLES[finding.severity]}]{finding.severity}[/] {escape(finding.what)}")
        if finding.remedy:
            console.print(f"    {escape(finding.remedy)}")
    counts = Counter(finding.severity for finding in found)
    listed = ", ".join(
        f"{counts[each]} {each}{'' if counts[each] == 1 else 's'}" for each in SEVERITIES if counts[each]
    )
    console.print(listed or "Nothing is wrong.")
