"""PyTorch's bfloat16 arithmetic on this processor is right, for the shapes that a model of the competition has.

Its kernels are chosen by processor (AMX, AVX-512, none), and some were wrong: pytorch/pytorch#83863, #163347, #169688.
"""

import pytest
import torch
from small_models import relative_error
from torch.nn import functional

ROUNDING = 2.0**-8
"""Relative error of one number in bfloat16."""
WIDTHS = [(64, 448), (448, 64), (128, 896), (896, 256), (256, 1792), (1792, 256), (6, 40), (1, 16)]


def rounded(*shape):
    """Random numbers that bfloat16 holds exactly."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).bfloat16()


@pytest.mark.parametrize("rows", [1, 7, 1024])
@pytest.mark.parametrize(("inner", "outer"), WIDTHS)
def test_products(rows, inner, outer):
    x, weight = rounded(rows, inner), rounded(inner, outer)
    expected = x.double() @ weight.double()
    assert relative_error(torch.mm(x, weight), expected) < ROUNDING
    assert relative_error(torch.mm(x, weight.t().contiguous().t()), expected) < ROUNDING
    assert relative_error(torch.bmm(x[None], weight[None])[0], expected) < ROUNDING
    assert relative_error(torch.mm(x, weight, out=torch.empty(rows, outer).bfloat16()), expected) < ROUNDING


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "channels"), [((3, 3), 448), ((5, 1), 896), ((3, 3), 1792), ((3, 3), 5)])
def test_depthwise_convolutions_and_their_gradients(size, channels, stride):
    images, weight = rounded(2, channels, 8, 8).to(memory_format=torch.channels_last), rounded(channels, 1, *size)
    padding = (size[0] // 2, size[1] // 2)
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (images, weight)]
        y = functional.conv2d(*leaves, stride=stride, padding=padding, groups=channels)
        results.append([y.detach(), *torch.autograd.grad(y.double().square().sum(), leaves)])
    for found, expected in zip(*results, strict=True):
        # Rounded are y, the sums on processors without the type, and the result.
        assert relative_error(found, expected) < 3 * ROUNDING


@pytest.mark.parametrize(("inner", "outer"), WIDTHS)
def test_pointwise_convolutions_and_their_gradients(inner, outer):
    images, weight = rounded(2, inner, 9, 16).to(memory_format=torch.channels_last), rounded(outer, inner, 1, 1)
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (images, weight)]
        y = functional.conv2d(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y.double().square().sum(), leaves)])
    for found, expected in zip(*results, strict=True):
        assert relative_error(found, expected) < 2 * ROUNDING
