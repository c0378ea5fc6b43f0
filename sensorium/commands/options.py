"""Option types that several verbs share, and the choices among what params.yaml lists."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from sensorium.config import MOUSE_NAME, Config
from sensorium.errors import ConfigError, DataError
from sensorium.mice import NEURONS, SPLITS, TRACKS
from sensorium.paths import PARAMS_FILE, Paths

Experiment = Annotated[
    str, typer.Option("-e", "--experiment", help="Experiment of params.yaml, such as true_batch_001.")
]
Experiments = Annotated[
    str, typer.Option("-e", "--experiments", help="Experiments, joined by commas: distillation_001,true_batch_001.")
]
Split = Annotated[str, typer.Option("-s", "--split", help=f"What to predict, one of: {', '.join(SPLITS)}.")]
Track = Annotated[str, typer.Option("-t", "--track", help=f"Track, one of: {', '.join(TRACKS)}.")]
Mouse = Annotated[str | None, typer.Option("-m", "--mouse", help="One mouse of params.yaml; all of them by default.")]
Folds = Annotated[str | None, typer.Option("-f", "--folds", help="Folds, joined by commas: 0,2. Default: all.")]
Jobs = Annotated[int | None, typer.Option("-j", "--jobs", help="Processes at once. Default: one per GPU, or 1.")]
Gpus = Annotated[str | None, typer.Option(help="GPUs to assign, one per process, joined by commas: 0,1,2,3.")]
Executor = Annotated[str, typer.Option(help="Where the commands run: local, slurm or ray.")]


def select_mice(config: Config, mouse: str | None) -> list[str]:
    """The chosen mouse, or all of them.

    Raises:
        ConfigError: params.yaml does not list the mouse.
    """
    known = list(config.dataset.mice)
    if mouse is None:
        return known
    if mouse not in known:
        raise ConfigError(f"mouse {mouse!r}: not in {PARAMS_FILE}.", f"Choose one of: {', '.join(known)}.")
    return [mouse]


def new_mouse(name: str) -> str:
    """The name of a mouse that is to be imported.

    Raises:
        ConfigError: it cannot name a folder, a stage and an argument alike.
    """
    if not MOUSE_NAME.fullmatch(name):
        raise ConfigError(
            f"mouse {name!r}: cannot name a folder and a stage alike.",
            "Name it with -m: letters, digits, '.', '_' and '-', beginning with a letter or digit.",
        )
    return name


def picture_size(text: str) -> tuple[int, int]:
    """Parse `36x64`.

    Raises:
        ConfigError: not a size.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ConfigError(f"--frame-size {text}: not a size.", "Give rows and columns, such as 36x64.")
    return int(match[1]), int(match[2])


def require_free(place: Path) -> None:
    """Refuse to write where something is.

    Raises:
        DataError: a file, a folder or a link is there.
    """
    if os.path.lexists(place):
        raise DataError(f"{place}: already there.", "Choose another name or folder, or move it away first.")


def select_folds(config: Config, text: str | None) -> list[int]:
    """Parse `0,2` or `fold_0`; the folds of params.yaml by default.

    Raises:
        ConfigError: not a list of folds, or a fold out of range.
    """
    if text is None:
        return list(config.folds.train.values())
    count = config.folds.count
    folds = []
    for part in text.split(","):
        match = re.fullmatch(r"(?:fold_)?(-?\d+)", part.strip())
        if match is None:
            raise ConfigError(f"fold {part.strip()!r}: not a whole number.", f"Choose among 0 to {count - 1}.")
        if not 0 <= int(match[1]) < count:
            raise ConfigError(f"fold {part.strip()!r}: out of range.", f"Choose among 0 to {count - 1}.")
        folds.append(int(match[1]))
    return sorted(set(folds))


def select_experiments(config: Config, text: str) -> list[str]:
    """Parse `a,b` into sorted, known experiments.

    Raises:
        ConfigError: an experiment is not in params.yaml.
    """
    names = sorted({part.strip() for part in text.split(",")})
    for name in names:
        config.experiment(name)
    return names


def require_choice(kind: str, name: str, known: tuple[str, ...]) -> None:
    """Refuse an option, a split for example, that is none of the known names.

    Raises:
        ConfigError: it does not exist.
    """
    if name not in known:
        raise ConfigError(f"{kind} {name!r}: does not exist.", f"Choose one of: {', '.join(known)}.")


def count_neurons(config: Config, paths: Paths) -> dict[str, int]:
    """Neurons of the mice of params.yaml, in their order.

    Known from its store; without one, from the settings of the simulation where mice are simulated, or from the list
    of the competition's mice.

    Raises:
        ConfigError: it is not known for some mouse.
        DataError: a store is damaged.
    """
    return {mouse: _count(config, paths, mouse) for mouse in config.dataset.mice}


def _count(config: Config, paths: Paths, mouse: str) -> int:
    if paths.store(mouse).exists():
        from sensorium.data.store import MouseStore

        return MouseStore(paths.store(mouse)).neurons
    if config.dataset.get == "synthesize" and config.synthetic is not None:
        return config.synthetic.neurons[mouse]
    if mouse not in NEURONS:
        raise ConfigError(f"mouse {mouse}: its number of neurons is not known yet.", "Run `dvc repro ingest` first.")
    return NEURONS[mouse]
