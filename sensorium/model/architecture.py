"""What training, prediction, serving and `sensorium model` ask of an architecture.

The legend of shapes is in `sensorium.model.layers`.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from sensorium.architectures import ARCHITECTURES, ModelConfig, resolve
from sensorium.model.layers import Layer

Config = TypeVar("Config", bound=ModelConfig, covariant=True)


class Model(nn.Module, ABC, Generic[Config]):
    """A part that all mice share, and one readout per mouse.

    Subclasses set `core`, `cortex` where they have one, and `readouts`, drawing all weights from torch's global
    generator. In training they may draw from it as well: it is seeded anew for every step.
    """

    core: nn.Module
    """(B, 5, T, H, W) input to features; B comes first."""
    cortex: nn.Module | None
    """Features to features, where there is one."""
    readouts: nn.ModuleList
    """Each maps features to the responses of one mouse, (B, N, T), positive."""

    def __init__(self, config: Config, neurons: Sequence[int]) -> None:
        """Make the model.

        Args:
            config: settings of the architecture.
            neurons: number of neurons of each mouse, in the order of the readouts.
        """
        super().__init__()
        self.config = config
        self.neurons = tuple(neurons)
        self.cortex = None

    @abstractmethod
    def widest_activation(self, frames: int) -> int:
        """Numbers in the widest tensor of a forward pass for one window of T frames; it limits prediction batches."""

    def locate(self, coordinates: Sequence[Tensor]) -> None:
        """Give a new model the places of the neurons, before it is trained; most architectures ignore them.

        Args:
            coordinates: (N, 3) of each mouse, positions in cortex, micrometres.
        """

    def features(self, x: Tensor) -> Tensor:
        """The part that all mice share.

        Args:
            x: (B, 5, T, H, W) input.

        Returns:
            (B, ...) features, such as (B, F, T).
        """
        features: Tensor = self.core(x)
        return features if self.cortex is None else self.cortex(features)

    def cpu_features(
        self,
        frames: int,  # noqa: ARG002 - for those that override it
        dtype: torch.dtype,  # noqa: ARG002
        at_once: int,  # noqa: ARG002
    ) -> Callable[[Tensor], Tensor] | None:
        """A faster form of `features` for inference on the CPU, for any number of windows; None for none.

        Args:
            frames: T.
            dtype: of the arithmetic, float32 or that of autocast.
            at_once: windows that suit the CPU at a time.

        The model must be folded; later changes of its weights need not have an effect.
        """
        return None

    def readout(self, features: Tensor, mouse: int) -> Tensor:
        """The part of one mouse.

        Args:
            features: (B, ...), or the rows of it that belong to the mouse.
            mouse: index of the readout.

        Returns:
            (B, N, T) responses, not negative.
        """
        responses: Tensor = self.readouts[mouse](features)
        return responses

    def forward(self, x: Tensor, mouse: int | None = None) -> Tensor | list[Tensor]:
        """Predict one mouse, or all of them in order.

        Args:
            x: (B, 5, T, H, W) input.
            mouse: index of the readout; all by default.

        Returns:
            (B, N, T), or a list with one such tensor per mouse.
        """
        features = self.features(x)
        if mouse is not None:
            return self.readout(features, mouse)
        return [self.readout(features, index) for index in range(len(self.readouts))]

    def keep_readout(self, mouse: int) -> None:
        """Drop the readouts of all mice but one, whose index is 0 from now on."""
        self.readouts = nn.ModuleList([self.readouts[mouse]])
        self.neurons = (self.neurons[mouse],)

    def fused(self) -> Self:
        """Copy the model for inference: norms folded into the weights before them, no dropout.

        The model must be in evaluation mode; it is left as it is. The copy is frozen, computes the same function to
        rounding, and its state entries fit no checkpoint.
        """
        assert not self.training, "only running statistics can be folded"
        fused = copy.deepcopy(self)
        for module in list(fused.modules()):
            if isinstance(module, Layer):
                module.fuse()
        return fused.requires_grad_(False)


AnyModel = Model[ModelConfig]
"""A model of whatever architecture."""


def build(config: ModelConfig, neurons: Sequence[int]) -> AnyModel:
    """Make the model of some settings, with so many neurons per readout; torch's global generator draws the weights."""
    model: AnyModel = resolve(ARCHITECTURES[config.architecture].model)(config, neurons)
    return model


def meta_state(config: ModelConfig, neurons: Sequence[int]) -> dict[str, Tensor]:
    """Names, shapes and types of a model's state entries, without their memory."""
    with torch.device("meta"):
        return build(config, neurons).state_dict()
