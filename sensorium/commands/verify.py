"""`sensorium verify`: check raw mice against every rule of the format."""

import collections
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from sensorium.commands.options import Mouse, select_mice
from sensorium.config import Config
from sensorium.data.mapped import REBUILD
from sensorium.data.metadata import check_mouse
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, DataError
from sensorium.files import write_json
from sensorium.paths import Paths
from sensorium.recordings.verify import Finding, Report, verify_mouse

_EXAMPLES = 5  # findings of one rule that the table shows; the JSON file holds all


def run(
    config: Config,
    paths: Paths,
    mouse: Mouse = None,
    quick: Annotated[bool, typer.Option("--quick", help="Check files, shapes and meta files; read no values.")] = False,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all findings as JSON.")] = None,
    stores: Annotated[
        bool, typer.Option("--stores", help="Check the checksums of the stores, not the raw mice.")
    ] = False,
) -> None:
    """Check raw mice against every rule of the format; all findings at once.

    The exit code is 1 when a finding is an error; warnings leave it at 0.

    Raises:
        ConfigError: options that exclude each other.
        DataError: at least one finding is an error.
    """
    mice = select_mice(config, mouse)
    if stores:
        if quick or json:
            raise ConfigError("--stores: checks checksums alone, without --quick and --json.", "Omit them.")
        verify_stores(paths, mice)
        return
    raw = config.raw_folder(paths.root)
    reports = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name in mice:
            task = progress.add_task(f"Verifying {name}", total=None)
            reports.append(
                verify_mouse(
                    raw / name,
                    config.dataset.mice[name],
                    quick,
                    lambda trials, task=task: progress.update(task, total=trials, advance=1),  # type: ignore[misc]
                    config.window.shortest_trial,
                )
            )
    _print(reports)
    if json is not None:
        write_json(json, {"raw": str(raw), "mice": [report.as_json() for report in reports]})
    _fail(reports, raw, json)


def _print(reports: list[Report]) -> None:
    console = Console(highlight=False)
    for report in reports:
        errors, warnings = report.count("error"), report.count("warning")
        verdict = f"[red]{errors} errors[/]" if errors else "[green]sound[/]"
        scope = ", values unread" if report.quick else ""
        console.print(
            f"{report.mouse} ({report.mouse_set}): {report.trials} trials, {report.neurons} neurons: "
            f"{verdict}, {warnings} warnings{scope}",
            soft_wrap=True,
        )
        if report.findings:
            console.print(_table(report))


def _table(report: Report) -> Table:
    groups: dict[tuple[str, str], list[Finding]] = collections.defaultdict(list)
    for finding in report.findings:
        groups[finding.level, finding.rule].append(finding)
    table = Table("level", "rule", "file", "finding")
    for (level, rule), findings in sorted(groups.items()):
        for finding in findings[:_EXAMPLES]:
            table.add_row(level, rule, escape(finding.file), escape(finding.message))
        if len(findings) > _EXAMPLES:
            table.add_row(level, rule, "...", f"and {len(findings) - _EXAMPLES} more, all of them with --json")
    return table


def _fail(reports: list[Report], raw: Path, json_file: Path | None) -> None:
    unsound = [report for report in reports if report.count("error")]
    if not unsound:
        return
    first = next(finding for finding in unsound[0].findings if finding.level == "error")
    total = sum(report.count("error") for report in unsound)
    where = f"{json_file} holds" if json_file else "The table above shows"
    place = "" if first.rule == "folder" else f"{raw / unsound[0].mouse / first.file}: "
    raise DataError(
        f"{total} errors in {len(unsound)} of {len(reports)} mice, the first: {place}{first.message}",
        f"{where} them. Restore the files named there, or remove the mouse's folder and provide it again.",
    )


def verify_stores(paths: Paths, mice: list[str]) -> None:
    """Read the stores whole and name what is damaged, the first file of each mouse.

    Raises:
        DataError: a store is missing, or a chunk or an array of it is missing or damaged.
    """
    console = Console(highlight=False, soft_wrap=True)
    problems = []
    for mouse in mice:
        try:
            store = MouseStore(paths.store(mouse))
            check_mouse(store.path)
            store.verify()
        except DataError as fault:
            problems.append(fault.problem)
            console.print(f"{mouse}: [red]damaged[/]")
        else:
            console.print(f"{mouse}: [green]sound[/]")
    if problems:
        raise DataError("\n".join(problems), REBUILD)
