"""Print the scores, and what to type next."""

from typing import Any

from rich.console import Console
from rich.table import Table

from sensorium import files
from sensorium.config import Config
from sensorium.errors import PredictionError
from sensorium.evaluation.sources import CEILING, ENSEMBLE, EQUAL, STUDENT, TEACHER
from sensorium.evaluation.tables import SINGLE_TRIAL
from sensorium.mice import short_name
from sensorium.paths import Paths
from sensorium.recovery import later_remedy

_COLUMNS = {
    TEACHER: "teacher",
    STUDENT: "student",
    ENSEMBLE: "ensemble",
    EQUAL: "equal weights",
    CEILING: "noise ceiling",
}
_OPTIONAL = (EQUAL,)

_NEXT = (
    ("make ui", "look at the runs, their curves and the registered models in MLflow"),
    ("dvc metrics show", "the scores over all mice; `dvc plots show` draws them"),
    ("sensorium predict -e {student} -s live_test_main", "predict a test tier"),
    ("sensorium submission -e {pair} -t main", "write the file to hand in"),
    ("dvc exp run --no-hydra -S evaluation.frames=250", "change a setting and run what depends on it"),
)


def run(config: Config, paths: Paths) -> None:
    """Print a table with a row a mouse, and the next commands.

    Args:
        config: all settings.
        paths: the project.

    Raises:
        PredictionError: nothing is evaluated yet.
    """
    path = paths.evaluation / "metrics.json"
    otherwise = "Type `dvc repro` first, or `sensorium evaluate`."
    metrics = files.read_json(path, PredictionError, later_remedy(path, otherwise))
    console = Console()
    console.print(score_table(metrics))
    pair = ",".join(sorted((config.registry.teacher, config.registry.student)))
    console.print("\nWhat to type next:", style="bold")
    for command, purpose in _NEXT:
        typed = command.format(student=config.registry.student, pair=pair)
        console.print(f"  [cyan]{typed}[/]  {purpose}", highlight=False, soft_wrap=True)


def score_table(metrics: dict[str, Any]) -> Table:
    """The single-trial correlations of metrics.json: a row a mouse, then all mice."""
    table = Table(title="Single-trial correlation, out of fold", title_justify="left")
    table.add_column("mouse")
    sources = [source for source in _COLUMNS if source not in _OPTIONAL or source in metrics[SINGLE_TRIAL]]
    for source in sources:
        table.add_column(_COLUMNS[source], justify="right")
    for mouse, scores in metrics["mice"].items():
        table.add_row(short_name(mouse), *_cells(scores[SINGLE_TRIAL], sources))
    table.add_section()
    table.add_row("all neurons", *_cells(metrics[SINGLE_TRIAL], sources), style="bold")
    return table


def _cells(scores: dict[str, float], sources: list[str]) -> list[str]:
    return [f"{scores[source]:.3f}" if source in scores else "-" for source in sources]
