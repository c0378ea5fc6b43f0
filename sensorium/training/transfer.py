"""Training that starts from the weights of another experiment, parts of which may stay as they are."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from sensorium.config import Config, StartConfig
from sensorium.errors import CheckpointError
from sensorium.model import checkpoint
from sensorium.model.architecture import AnyModel
from sensorium.model.checkpoint import ModelInfo
from sensorium.model.layers import Layer
from sensorium.paths import Paths
from sensorium.recovery import remedy


@contextmanager
def start_remedy(config: Config, start: StartConfig, folder: Path, fold: int) -> Iterator[None]:
    """Add to an error about the fold that a training starts from how to get one that fits."""
    try:
        yield
    except CheckpointError as fault:
        trained_here = start.experiment in config.experiments
        otherwise = (
            f"Train it first: dvc repro train@{start.experiment}-{fold}"
            if trained_here
            else "Put the trained folds there (`dvc pull`, or `sensorium weights import`), or correct start.experiment."
        )
        raise CheckpointError(fault.problem, remedy(folder, otherwise)) from fault


def start_digest(config: Config, paths: Paths, experiment: str, fold: int) -> str | None:
    """Digest of the fold whose weights a training starts from; None where it starts from random ones.

    Raises:
        CheckpointError: the fold is missing.
    """
    start = config.experiment(experiment).start
    if start is None:
        return None
    folder = paths.fold(start.experiment, fold)
    with start_remedy(config, start, folder, fold):
        return checkpoint.digest(folder)


def load_start(model: AnyModel, folder: Path, expected: ModelInfo) -> list[str]:
    """Give a new model the core and the cortex of a trained fold, and the readouts of the mice that the fold knows.

    Args:
        model: with random weights.
        folder: the trained fold.
        expected: what the model is: fold, architecture, window, mice, digests of their unit ids, and in its provenance
            that of the folds.

    Returns:
        Mice whose readouts were taken over, see `known_mice`.

    Raises:
        CheckpointError: the fold is missing or damaged, holds out other trials, or is of another architecture, shape or
            window.
    """
    trained = checkpoint.load(folder)
    wanted = {"fold": expected.fold, "window": expected.window, "model": expected.model}
    found = {"fold": trained.info.fold, "window": trained.info.window, "model": trained.info.model}
    for key, value in wanted.items():
        if found[key] != value:
            raise CheckpointError(f"{folder}: its {key} is {found[key]}, that of this experiment is {value}.")
    taken = known_mice(trained.info, expected)
    own, foreign = (info.provenance.get("folds") for info in (expected, trained.info))
    if taken and foreign not in (None, own):
        raise CheckpointError(
            f"{folder}: trained on other folds of {', '.join(taken)}, so it may have learnt from the held-out trials."
        )
    known = list(trained.info.mice)
    state = {name: value for name, value in trained.model.state_dict().items() if not name.startswith("readouts.")}
    for mouse in taken:
        state |= _renamed(trained.model.readouts[known.index(mouse)], list(expected.mice).index(mouse))
    odd = set(state) - set(model.state_dict())
    assert not odd, f"one architecture, other weights: {sorted(odd)}"
    model.load_state_dict(state, strict=False)
    return taken


def known_mice(found: ModelInfo, expected: ModelInfo) -> list[str]:
    """Mice of a new model that a trained one knows: of the same name, number of neurons and unit ids."""
    return [
        mouse
        for mouse, neurons in expected.mice.items()
        if found.mice.get(mouse) == neurons and found.units.get(mouse) in (None, expected.units.get(mouse))
    ]


def _renamed(readout: nn.Module, index: int) -> Mapping[str, Tensor]:
    return {f"readouts.{index}.{name}": value for name, value in readout.state_dict().items()}


class Frozen(nn.Module):
    """A trained part that learns nothing: norms folded into the weights, no dropout, no gradient."""

    def __init__(self, part: nn.Module) -> None:
        """Copy a part, which is left as it is."""
        super().__init__()
        self.part = copy.deepcopy(part).eval().requires_grad_(False)
        for module in list(self.part.modules()):
            if isinstance(module, Layer):
                module.fuse()

    def train(self, mode: bool = True) -> "Frozen":  # noqa: ARG002 -- frozen in training as well
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The part's function."""
        result: Tensor = self.part(x)
        return result


def freeze(model: AnyModel, parts: Sequence[str]) -> AnyModel:
    """A view of a model for training, in which some parts are frozen copies and the others are the model's own.

    The model's own frozen parts get no gradient; its state entries stay those of every trained fold.

    Args:
        model: with the weights to keep; its frozen parts must not change any more.
        parts: names of `core` and `cortex`; one that the architecture does not have is left out.
    """
    view = copy.deepcopy(model, {id(part): part for part in model.children()})  # the parts themselves, not copies
    for part in parts:
        module = getattr(model, part)
        if module is not None:
            module.requires_grad_(False)
            setattr(view, part, Frozen(module))
    return view
