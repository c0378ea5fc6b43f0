"""A copy of the model for inference: norms folded into the weights before them, dropout gone.

In evaluation mode batch norm is a fixed scale and shift of each channel; the convolution or linear map before
it takes both in (as in arXiv:1712.05877, section 3.2). The function is the same, to rounding. Norms without a
map before them, those of the shortcuts, stay.
"""

import copy

import torch
from torch import Tensor, nn

from sensorium.model.cortex import CortexLayer
from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.model.layers import GroupedLinear, SequenceNorm
from sensorium.model.readout import Readout
from sensorium.model.video import ChannelConv, GatedProjection, PointConv, VideoNorm


@torch.no_grad()
def _scale_and_shift(norm: VideoNorm | SequenceNorm) -> tuple[Tensor, Tensor]:
    """What a norm does in evaluation mode: (C,) factor and (C,) summand."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _absorb(layer: nn.Conv2d | nn.Linear | GroupedLinear, norm: VideoNorm | SequenceNorm) -> None:
    """Multiply a norm's scale into the weights of the layer before it; its shift becomes the bias."""
    scale, shift = _scale_and_shift(norm)
    layer.weight = nn.Parameter(layer.weight.detach() * scale.view(-1, *(1,) * (layer.weight.ndim - 1)))
    layer.bias = nn.Parameter(shift)


def _fold(module: nn.Module) -> None:
    match module:
        case PointConv(conv=conv, norm=VideoNorm() as norm):
            _absorb(conv, norm)
            module.norm = None
        case ChannelConv(conv=conv, norm=VideoNorm() as norm):
            _absorb(conv, norm)
            module.norm = nn.SiLU(inplace=True)
        case GatedProjection(project=project, norm=VideoNorm() as norm):
            _absorb(project, norm)
            module.norm = nn.Identity()
        case CortexLayer(mix=mix, norm=SequenceNorm() as norm):
            _absorb(mix, norm)
            module.norm = nn.Identity()
        case Readout():
            module.dropout = nn.Identity()


def fold_batch_norms(model: DwiseNeuro) -> DwiseNeuro:
    """Copy a model for inference.

    Args:
        model: in evaluation mode; it is left as it is.

    Returns:
        A frozen model of the same function; its state entries fit no checkpoint.
    """
    assert not model.training, "only running statistics can be folded"
    fused = copy.deepcopy(model)
    for module in list(fused.modules()):
        _fold(module)
    return fused.requires_grad_(False)
