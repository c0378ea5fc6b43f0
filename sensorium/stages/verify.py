"""`sensorium verify`: check raw mice against every rule of the format."""

import collections
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from sensorium.config import Config
from sensorium.errors import DataError
from sensorium.files import write_json
from sensorium.paths import Paths
from sensorium.recordings.verify import Finding, Report, verify_mouse

_EXAMPLES = 5
"""Findings of one rule that the table shows; the JSON file holds all."""


def run(config: Config, paths: Paths, mice: list[str], quick: bool = False, json_file: Path | None = None) -> None:
    """Verify mice, print all findings, and fail when one of them is an error.

    Args:
        config: all settings.
        paths: the project's files.
        mice: names of the mice.
        quick: leave values unread.
        json_file: where to write the machine-readable report.

    Raises:
        DataError: at least one finding is an error.
    """
    raw = config.raw_folder(paths.root)
    reports = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for mouse in mice:
            task = progress.add_task(f"Verifying {mouse}", total=None)
            advance = partial(_advance, progress, task)
            reports.append(
                verify_mouse(raw / mouse, config.dataset.mice[mouse], quick, advance, config.window.shortest_trial)
            )
    _print(reports)
    if json_file is not None:
        write_json(json_file, {"raw": str(raw), "mice": [report.as_json() for report in reports]})
    _fail(reports, raw, json_file)


def _advance(progress: Progress, task: TaskID, trials: int) -> None:
    progress.update(task, total=trials, advance=1)


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
