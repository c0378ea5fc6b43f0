"""Option types that several verbs share, and the context that every verb needs."""

import re
from dataclasses import dataclass
from typing import Annotated

import typer

from sensorium.config import Config, load
from sensorium.errors import ConfigError
from sensorium.mice import SPLITS
from sensorium.paths import PARAMS_FILE, Paths, find_root

Experiment = Annotated[
    str, typer.Option("-e", "--experiment", help="Experiment of params.yaml, such as true_batch_001.")
]
Experiments = Annotated[
    str, typer.Option("-e", "--experiments", help="Experiments, joined by commas: distillation_001,true_batch_001.")
]
Split = Annotated[str, typer.Option("-s", "--split", help=f"What to predict, one of: {', '.join(SPLITS)}.")]
Mouse = Annotated[str | None, typer.Option("-m", "--mouse", help="One mouse of params.yaml; all of them by default.")]
Folds = Annotated[str | None, typer.Option("-f", "--folds", help="Folds, joined by commas: 0,2. Default: all.")]


@dataclass(frozen=True)
class Context:
    """The project a command works in."""

    config: Config
    paths: Paths

    def mice(self, mouse: str | None) -> list[str]:
        """The chosen mouse, or all of them.

        Raises:
            ConfigError: params.yaml does not list the mouse.
        """
        known = list(self.config.dataset.mice)
        if mouse is None:
            return known
        if mouse not in known:
            raise ConfigError(f"mouse {mouse!r}: not in {PARAMS_FILE}.", f"Choose one of: {', '.join(known)}.")
        return [mouse]

    def folds(self, text: str | None) -> list[int]:
        """Parse `0,2` or `fold_0`; the folds of params.yaml by default.

        Raises:
            ConfigError: not a list of folds, or a fold out of range.
        """
        if text is None:
            return list(self.config.folds.train.values())
        count = self.config.folds.count
        folds = []
        for part in text.split(","):
            match = re.fullmatch(r"(?:fold_)?(-?\d+)", part.strip())
            if match is None:
                raise ConfigError(f"fold {part.strip()!r}: not a whole number.", f"Choose among 0 to {count - 1}.")
            if not 0 <= int(match[1]) < count:
                raise ConfigError(f"fold {part.strip()!r}: out of range.", f"Choose among 0 to {count - 1}.")
            folds.append(int(match[1]))
        return sorted(set(folds))

    def experiments(self, text: str) -> list[str]:
        """Parse `a,b` into sorted, known experiments.

        Raises:
            ConfigError: an experiment is not in params.yaml.
        """
        names = sorted({part.strip() for part in text.split(",")})
        for name in names:
            self.config.experiment(name)
        return names


def check_split(split: str) -> str:
    """Return the split.

    Raises:
        ConfigError: it does not exist.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split!r}: does not exist.", f"Choose one of: {', '.join(SPLITS)}.")
    return split


def context() -> Context:
    """Read params.yaml of the project around the working folder."""
    root = find_root()
    return Context(load(root / PARAMS_FILE), Paths(root))
