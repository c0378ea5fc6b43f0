"""Settings of the competition's baseline, apart from the model so that reading them imports no torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sensorium.architectures import ModelConfig, Positive


class BaselineConfig(ModelConfig):
    """The competition's baseline: a factorised 3D convolutional core, and one Gaussian readout per mouse."""

    architecture: Literal["baseline"] = "baseline"
    features: tuple[Positive, ...] = Field(min_length=1)
    """Output width of each layer of the core."""
    strides: tuple[Positive, ...]
    """Spatial stride of each layer; 1 as published."""
    spatial_kernels: tuple[Positive, ...]
    """Side of each layer's spatial kernel, pixels; 11, 5, 5 as published. Nothing is padded."""
    temporal_kernels: tuple[Positive, ...]
    """Length of each layer's causal temporal kernel, window frames; 11, 5, 5 frames at 30 Hz as published."""
    recurrent_features: Positive | None = None
    """Width of a convolutional GRU after the core; null leaves it out."""
    recurrent_kernel: Positive = 9
    """Side of the GRU's kernels, pixels, odd."""
    position_features: Positive = 30
    """Width of the hidden layer that maps a neuron's place in cortex to its position in the image."""
    position_sigma: Annotated[float, Field(ge=0)]
    """Largest entry of the square root of a position's first covariance; positions are drawn in training. The image
    reaches from -1 to 1."""
    shifter_features: Positive = 5
    """Width of the two hidden layers that map the pupil's centre to a shift of all positions."""
    response_scale: Annotated[float, Field(gt=0)]
    """Response at a drive of 0; as published responses are divided by their standard deviation and this is 1."""

    @property
    def map_sizes(self) -> list[tuple[int, int]]:
        """Rows and columns of the output of each layer of the core."""
        sizes = [self.canvas]
        for kernel, stride in zip(self.spatial_kernels, self.strides, strict=True):
            sizes.append(((sizes[-1][0] - kernel) // stride + 1, (sizes[-1][1] - kernel) // stride + 1))
        return sizes[1:]

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        for name in ("strides", "spatial_kernels", "temporal_kernels"):
            if len(getattr(self, name)) != len(self.features):
                raise ValueError(f"features and {name} must have one entry per layer each")
        if min(self.map_sizes[-1]) < 1:
            raise ValueError("spatial_kernels and strides leave nothing of the canvas; make them smaller, or it larger")
        if self.recurrent_kernel % 2 == 0:
            raise ValueError("recurrent_kernel must be odd, so that pixels keep their place")
        return self
