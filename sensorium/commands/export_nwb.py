"""Write recordings and predictions as Neurodata Without Borders files."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from rich.console import Console
from rich.progress import Progress

from sensorium.commands.options import Mouse, require_choice, require_free, select_experiments, select_mice
from sensorium.config import Config
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, PredictionError
from sensorium.files import atomic_file, load_yaml
from sensorium.inference.ensemble import combine
from sensorium.inference.predictions import Predictions
from sensorium.mice import FOLDS_SPLIT, OUT_OF_FOLD, SPLITS
from sensorium.paths import Paths
from sensorium.recordings.nwb.export import PredictedResponses, export_nwb


def run(
    config: Config,
    paths: Paths,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the files, MOUSE.nwb each.")],
    mouse: Mouse = None,
    experiments: Annotated[
        str | None,
        typer.Option("-e", "--experiments", help="Experiments whose predictions are written as well; a,b: their mean."),
    ] = None,
    split: Annotated[
        str, typer.Option("-s", "--split", help=f"Which of their predictions, one of: {', '.join(SPLITS)}.")
    ] = FOLDS_SPLIT,
    metadata: Annotated[
        Path | None,
        typer.Option(
            "--metadata", metavar="FILE", help="YAML of what is known of session and animal, keys: file, subject."
        ),
    ] = None,
) -> None:
    """Write mice as NWB files: videos, trials, responses, running, pupil, and if you like predictions.

    Raises:
        ConfigError: no such mouse, experiment or split, or an unknown key in the metadata.
        DataError: a store is missing or damaged, a file is already there, or pynwb is not installed.
        PredictionError: there are no such predictions, or they are of other recordings.
    """
    mice = select_mice(config, mouse)
    require_choice("split", split, SPLITS)
    names = [] if experiments is None else select_experiments(config, experiments)
    about = {} if metadata is None else _read_metadata(metadata)
    stores = [MouseStore(paths.store(name)) for name in mice]
    targets = [output / f"{store.name}.nwb" for store in stores]
    for target in targets:
        require_free(target)
    predicted = [_predicted(paths, names, split, store) for store in stores]
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for store, target, predictions in zip(stores, targets, predicted, strict=True):
        with atomic_file(target) as partial, Progress(console=console, transient=True) as progress:
            task = progress.add_task(store.name, total=2 * store.trials)
            export_nwb(store, partial, about, predictions, functools.partial(progress.advance, task))
            require_free(target)
        console.print(f"{target}: {store.trials} trials of {store.neurons} neurons.")


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise ConfigError(
            f"{path}: not readable as YAML ({fault}).", "The form is described in docs/how-to/nwb.md."
        ) from fault
    if not isinstance(tree, dict) or not all(isinstance(part, dict) for part in tree.values()):
        raise ConfigError(f"{path}: not two sections of keys.", "Give `file:` and `subject:`, each with its keys.")
    return tree


def _predicted(paths: Paths, experiments: Sequence[str], split: str, store: MouseStore) -> list[PredictedResponses]:
    """The predictions of a mouse, as a list of one, or of none where no experiment is named.

    Out of fold, several experiments are averaged; on a test split their ensemble has a folder of its own.
    """
    if not experiments:
        return []
    joined = ",".join(experiments)
    sources = experiments if split == FOLDS_SPLIT else [joined]
    found = [Predictions.open(paths.predictions(source, split)) for source in sources]
    trials = set.intersection(*(set(predictions.trials(store.name)) for predictions in found))
    if not trials:
        raise PredictionError(
            f"{found[0].folder}: no prediction of mouse {store.name}.",
            f"Choose another split than {split} for this mouse, or predict it: `sensorium predict`.",
        )

    def load(trial: int) -> "np.ndarray[Any, np.dtype[np.float32]] | None":
        shape = (store.neurons, int(store.lengths[trial]))
        return combine([one.load(store.name, trial, shape) for one in found], None) if trial in trials else None

    name = f"{joined.replace(',', '+')}_{OUT_OF_FOLD if split == FOLDS_SPLIT else split}"
    provenance = {source: _of_mouse(one.provenance, store.name) for source, one in zip(sources, found, strict=True)}
    return [PredictedResponses(name, load, provenance)]


def _of_mouse(provenance: dict[str, Any], mouse: str) -> dict[str, Any]:
    """What made the predictions, without what made those of other mice."""
    kept = [part for part in provenance.get("assignments", []) if part.get("mouse") == mouse]
    return provenance | ({"assignments": kept} if kept else {})
