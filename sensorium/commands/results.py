"""Print the scores, and what to type next."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from sensorium.config import Config
from sensorium.errors import PredictionError
from sensorium.evaluation.sources import CEILING, ENSEMBLE, EQUAL, PAIR
from sensorium.evaluation.tables import SINGLE_TRIAL, read_metrics
from sensorium.mice import TRACKS, short_name
from sensorium.paths import Paths

_NAMES = {ENSEMBLE: "ensemble", PAIR: "registered pair", EQUAL: "equal weights", CEILING: "noise ceiling"}
"""Sources besides the experiments, in their order, and what the table calls them."""
_ALL = "all\nneurons"
_PADDING = 2  # spaces between two columns
_NEXT = (
    ("make ui", "look at the runs, their curves and the registered models in MLflow"),
    ("dvc metrics show", "the scores over all mice; `dvc plots show` draws them"),
    ("sensorium compare", "is the best experiment better than the others by more than chance?"),
    ("sensorium insilico tuning", "show gratings to the registered pair"),
    ("dvc exp run --no-hydra -S evaluation.frames=250", "change a setting and run what depends on it"),
)
_NEXT_OF_TRACK = (
    ("sensorium predict -e {student} -s {split}", "predict a test tier"),
    ("sensorium submission -e {members} -t {track}", "write the file to hand in"),
)


def run(config: Config, paths: Paths) -> None:
    """Print the scores, one row per experiment, and what to type next.

    Raises:
        PredictionError: nothing is evaluated yet.
    """
    path = paths.evaluation / "metrics.json"
    metrics = read_metrics(path, PredictionError, "Type `dvc repro` first, or `sensorium evaluate`.")
    console = Console()
    for table in score_tables(metrics, list(config.experiments), list(config.dataset.mice), console.width):
        console.print(table)
        console.print()
    console.print("What to type next:", style="bold")
    words = {"student": config.registry.student, "members": ",".join(sorted(config.ensemble.members))}
    for track in config.submission.tracks[:1]:
        words |= {"track": track, "split": TRACKS[track][0]}
    for command, purpose in _NEXT + (_NEXT_OF_TRACK if config.submission.tracks else ()):
        console.print(f"  [cyan]{command.format(**words)}[/]  {purpose}", highlight=False, soft_wrap=True)


def score_tables(
    metrics: Mapping[str, Any], experiments: Sequence[str], mice: Sequence[str], width: int
) -> list[Table]:
    """The single-trial correlations of metrics.json, as many tables as fit into `width` characters each."""
    columns = {_ALL: metrics[SINGLE_TRIAL]}
    columns |= {
        short_name(m).replace("-", "\n", 1): metrics["mice"][m][SINGLE_TRIAL] for m in mice if m in metrics["mice"]
    }
    rows = {name: name for name in experiments} | _NAMES
    scored = {source: name for source, name in rows.items() if any(source in scores for scores in columns.values())}
    widest = max(len(line) for heading in columns for line in heading.splitlines()) + _PADDING
    fit = max(1, (width - max(map(len, scored.values())) - _PADDING) // widest)
    headings = list(columns)
    parts = [headings[first : first + fit] for first in range(0, len(headings), fit)]
    return [_table(scored, {heading: columns[heading] for heading in part}) for part in parts]


def _table(rows: Mapping[str, str], columns: Mapping[str, Mapping[str, float]]) -> Table:
    title = "Single-trial correlation, out of fold" if _ALL in columns else None
    numbers = (Column(heading, justify="right", no_wrap=True) for heading in columns)
    table = Table(
        "", *numbers, title=title, title_justify="left", box=None, padding=(0, _PADDING, 0, 0), pad_edge=False
    )
    for source, name in rows.items():
        cells = [f"{scores[source]:.3f}" if source in scores else "-" for scores in columns.values()]
        table.add_row(name, *cells, style="bold" if source == ENSEMBLE else None, end_section=True)
    return table
