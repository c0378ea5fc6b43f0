"""Settings of DwiseNeuro, apart from the model so that reading them imports no torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sensorium.architectures import Fraction, ModelConfig, Positive


class DwiseNeuroConfig(ModelConfig):
    """DwiseNeuro: a core of inverted residual blocks, a cortex, and one readout per mouse."""

    architecture: Literal["dwiseneuro"] = "dwiseneuro"
    features: tuple[Positive, ...] = Field(min_length=1)
    """Output width of the stem, and the input width of each block after it; the last block keeps its width."""
    strides: tuple[Positive, ...]
    """Spatial stride of each block."""
    spatial_kernel: Positive = 3
    """Side of the depth-wise spatial kernel, pixels."""
    temporal_kernel: Positive = 5
    """Length of the depth-wise temporal kernel, window frames."""
    expansion: Positive
    """Width of a block's inside over its input's."""
    se_reduction: Positive = 32
    """Width of a block's inside over that of its squeeze-and-excitation bottleneck."""
    drop_path: Fraction
    """Largest rate of stochastic depth in the core; block i has i / blocks of it."""
    cortex_features: tuple[Positive, ...] = Field(min_length=1)
    """Output width of each cortex layer."""
    cortex_groups: Positive = 2
    """Groups of the cortex convolutions, shuffled between layers."""
    cortex_drop_path: Fraction
    """Rate of stochastic depth in the cortex."""
    readout_groups: Positive = 2
    """Groups of the readout convolution."""
    readout_dropout: Fraction
    """Rate of channel dropout before the readout."""
    softplus_beta: Annotated[float, Field(gt=0)] = 0.07
    """Sharpness of the output nonlinearity."""

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        if len(self.features) != len(self.strides):
            raise ValueError("features and strides must have one entry per block each")
        for name in ("spatial_kernel", "temporal_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd, so that frames and pixels keep their place")
        if min(self.features) * self.expansion < self.se_reduction:
            raise ValueError("se_reduction must not exceed the smallest of features times expansion")
        if any(width % self.cortex_groups for width in (self.features[-1], *self.cortex_features)):
            raise ValueError("cortex_groups must divide the last of features and all cortex_features")
        if self.cortex_features[-1] % self.readout_groups:
            raise ValueError("readout_groups must divide the last of cortex_features")
        return self
