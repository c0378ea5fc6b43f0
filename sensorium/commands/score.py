"""Check and score a submission: a zip, or one of its files."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from sensorium.config import Config
from sensorium.errors import DataError, PredictionError
from sensorium.paths import Paths
from sensorium.submission.reader import submission_files
from sensorium.submission.scorer import FileResult, score_file
from sensorium.tracking.project_run import log_results


def run(
    config: Config,
    paths: Paths,
    file: Annotated[Path, typer.Argument(help="A submission: the zip of a track, or one parquet file.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the raw mice. Default: dataset.raw of params.yaml.")
    ] = None,
) -> dict[str, float | None]:
    """Check a submission, anybody's, and score it where the responses are known.

    Returns:
        Single-trial correlation by file, None where responses are withheld.

    Raises:
        PredictionError: something is wrong; the message lists it all.
        DataError: there are no raw mice, or one is damaged.
    """
    raw = data or config.raw_folder(paths.root)
    if not raw.is_dir():
        raise DataError(
            f"{raw}: the folder of the raw mice does not exist.",
            "Name another with --data, or provide them by `sensorium synthesize` or `sensorium download`.",
        )
    with submission_files(file) as (tables, faults):
        results = [score_file(table, raw, config.evaluation) for table in tables]
    console = Console()
    for result in results:
        console.print(_table(result))
        faults += [f"{result.name}: {fault}" for fault in result.faults]
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in faults)
        raise PredictionError(f"{file}: {len(faults)} faults:\n{listed}", "Mend them before handing it in.")
    console.print("The form is right.", style="green")
    scores = {f"single_trial_correlation/{result.name}": result.score for result in results}
    log_results(paths, scores)
    return scores


def _table(result: FileResult) -> Table:
    headings = ("trials", "single-trial correlation", "against the noiseless rate")
    numbers = (Column(heading, justify="right") for heading in headings)
    table = Table("mouse", *numbers, title=f"{result.name} ({result.tier or 'tier unknown'})", title_justify="left")
    for mouse in result.mice:
        table.add_row(mouse.name, str(mouse.trials), _show(mouse.score, "withheld"), _show(mouse.noiseless, "unknown"))
    table.add_section()
    rows = str(sum(mouse.trials for mouse in result.mice))
    table.add_row("all neurons", rows, _show(result.score, "withheld"), "", style="bold")
    return table


def _show(score: float | None, otherwise: str) -> str:
    return otherwise if score is None else f"{score:.4f}"
