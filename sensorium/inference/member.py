"""A trained model reduced to what the prediction of one mouse needs.

Of the 171 million weights of a full-size model, the readouts of ten mice are 95 %: with the asked
mouse's readout alone a model takes a seventh of the memory, and the fourteen of the published ensemble
fit a GPU of 6 GB together.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from sensorium.config import WindowConfig
from sensorium.data.store import MouseStore
from sensorium.errors import CheckpointError
from sensorium.model import checkpoint
from sensorium.model.architecture import AnyModel


class Member(nn.Module):
    """Core, cortex where there is one, and one readout; norms folded into the weights before them."""

    def __init__(self, model: AnyModel, mouse: int, window: WindowConfig) -> None:
        """Take the parts of a model; the model is not usable afterwards.

        Args:
            model: a trained model.
            mouse: index of the readout.
            window: the stretch of frames that the model was trained on.
        """
        super().__init__()
        self.window = window
        self.canvas = model.config.canvas
        model.keep_readout(mouse)
        (self.neurons,) = model.neurons
        self.window_bytes = 4 * model.widest_activation(window.frames)  # float32
        self.model = model.eval().fused()

    def forward(self, windows: Tensor) -> Tensor:
        """(B, 5, T, H, W) to (B, N, T)."""
        responses: Tensor = self.model.readout(self.model.features(windows), 0)
        return responses

    def cpu_forward(self, autocast: torch.dtype | None, at_once: int) -> Callable[[Tensor], Tensor] | None:
        """A faster form of this for inference on the CPU, of the present weights; None for none.

        Args:
            autocast: what the form will be called under.
            at_once: windows whose widest tensor suits the CPU.
        """
        features = self.model.cpu_features(self.window.frames, autocast or torch.float32, at_once)
        return None if features is None else lambda windows: self.model.readout(features(windows), 0)

    @property
    def bytes(self) -> int:
        """Size of all weights."""
        return sum(entry.nbytes for entry in self.state_dict().values())

    @contextlib.contextmanager
    def resident(self, device: torch.device) -> Iterator[None]:
        """Lie on a device for a while, and where it was after that."""
        home = next(self.parameters()).device
        self.to(device)
        try:
            yield
        finally:
            self.to(home)


def load_member(folder: Path, store: MouseStore) -> Member:
    """Load one trained fold for one mouse, on the CPU.

    Args:
        folder: the trained fold, its weights verified on reading.
        store: the mouse.

    Raises:
        CheckpointError: the weights are missing or damaged, or do not know the mouse or its neurons.
    """
    trained = checkpoint.load(folder, units={store.name: checkpoint.digest_units(store.unit_ids)})
    known = trained.info.mice
    if known.get(store.name) != store.neurons:
        state = f"knows it with {known[store.name]}" if store.name in known else f"knows only {', '.join(known)}"
        raise CheckpointError(
            f"{folder}: cannot predict {store.name} with {store.neurons} neurons, the model {state}.",
            "Train with this mouse in `dataset.mice`, or restore the data that the model was trained on.",
        )
    return Member(trained.model, list(known).index(store.name), trained.info.window)
