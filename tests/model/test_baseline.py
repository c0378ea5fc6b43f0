"""The competition's baseline: the figures of its reference, shapes, gradients, draws, and what fusing changes."""

import numpy as np
import pytest
import torch
from small_models import FIXTURES, relative_error
from tiny import TINY_BASELINE, preset_tree
from torch import nn
from torch.nn import functional

from sensorium.config import parse
from sensorium.mice import NEURONS
from sensorium.model.architecture import build
from sensorium.model.baseline import ConvGRU, FactorisedCore, GaussianReadout, RunningNorm
from sensorium.model.baseline_config import BaselineConfig

SMALL = BaselineConfig.model_validate(TINY_BASELINE)
RECURRENT = SMALL.model_copy(update={"recurrent_features": 5, "recurrent_kernel": 3})


def make(config=SMALL, neurons=(6, 4), seed=0):
    """A model in training that has seen a batch, so that no norm is the identity."""
    torch.manual_seed(seed)
    model = build(config, neurons)
    model.locate([torch.rand(count, 3) * 800 for count in neurons])
    model(window())
    return model


def window(count=3, seed=1):
    """Input in the range of recordings: grey levels, pupil dilation and speed, the pupil's centre."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([255.0, 60, 20, 20, 20])[:, None, None, None]
    x = torch.rand(count, 5, 7, *SMALL.canvas, generator=generator) * scale
    planes = x[:, 1:, :, :1, :1].expand(-1, -1, -1, *SMALL.canvas)
    return torch.cat([x[:, :1], planes + torch.tensor([0, 0, 300, 240])[:, None, None, None]], 1)


@pytest.fixture(scope="module")
def figures():
    with np.load(FIXTURES / "baseline_parity.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture
def reference_readout(figures):
    config = SMALL.model_copy(update={"position_features": 7, "response_scale": 1.0})
    readout = GaussianReadout(9, 5, config)
    weights = {name[8:]: entry for name, entry in figures.items() if name.startswith("weights|")}
    odd = readout.load_state_dict(weights, strict=False)
    assert not odd.unexpected_keys
    assert {name.partition(".")[0] for name in odd.missing_keys} == {"places", "pupil"}
    readout.pupil.square.add_(readout.pupil.mean)  # mean 0, variance 1: the identity
    readout.locate(figures["coordinates"])
    return readout


def test_readout_gives_the_reference_figures(reference_readout, figures):
    pupil = figures["pupil"][:, None, None, :].expand(-1, 4, 6, -1)
    features = torch.cat([figures["input"].permute(0, 2, 3, 1), pupil], -1).unflatten(0, (2, 4))
    found = reference_readout.eval()(features)
    expected = figures["output"].unflatten(0, (2, 4)).transpose(1, 2)
    assert relative_error(found, expected) < 1e-5


def test_draws_are_those_of_the_reference(reference_readout, figures, monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda *_, **__: figures["draws"])
    assert relative_error(reference_readout.train().points(8), figures["drawn"]) < 1e-5


def test_core_is_the_factorised_convolution_in_three_dimensions():
    core = FactorisedCore(SMALL)
    for name, entry in core.state_dict().items():
        if name.endswith(("norm.weight", "norm.bias", "running_mean", "running_var")):
            entry.uniform_(0.5, 2)
    x = torch.randn(2, 5, 9, *SMALL.canvas)
    plain = x[:, :3]
    for layer in core.layers:
        plain = functional.conv3d(plain, layer.space.weight[:, :, None], stride=(1, *layer.space.stride))
        plain = functional.conv3d(plain, layer.time.weight[..., None])
        norm = layer.norm
        plain = functional.batch_norm(plain, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        plain = functional.elu(plain)
    found = core.eval()(x).permute(0, 4, 1, 2, 3)
    assert found.shape == (2, 4, 9, *SMALL.map_sizes[-1])
    assert relative_error(found[:, :, -plain.shape[2] :], plain) < 1e-5


def test_recurrent_layer_is_a_gated_unit():
    torch.manual_seed(0)
    layer = ConvGRU(3, 4, 3)
    x = torch.randn(2, 5, 6, 7, 3)
    state = torch.zeros(2, 4, 6, 7)
    for frame, found in zip(x.unbind(1), layer(x).unbind(1), strict=True):
        reset_in, update_in, candidate_in = layer.input(frame.permute(0, 3, 1, 2)).chunk(3, 1)
        reset_state, update_state = layer.gates(state).chunk(2, 1)
        reset, update = (reset_in + reset_state).sigmoid(), (update_in + update_state).sigmoid()
        state = (1 - update) * state + update * (candidate_in + layer.candidate(reset * state)).tanh()
        torch.testing.assert_close(found.permute(0, 3, 1, 2), state)


@pytest.mark.parametrize("config", [SMALL, RECURRENT], ids=["plain", "recurrent"])
def test_every_weight_learns(config):
    model = make(config)
    outputs = model(window())
    assert [tuple(output.shape) for output in outputs] == [(3, 6, 7), (3, 4, 7)]
    assert all((output > 0).all() for output in outputs)
    sum(output.square().sum() for output in outputs).backward()
    assert not [name for name, weight in model.named_parameters() if not weight.grad.abs().max() > 0]


@pytest.mark.parametrize("config", [SMALL, RECURRENT], ids=["plain", "recurrent"])
def test_no_frame_sees_a_later_one(config):
    model, x = make(config).eval(), window()
    later = x.clone()
    later[:, :, 4:] += 10
    with torch.no_grad():
        before, after = model(x, 0), model(later, 0)
    assert torch.equal(before[..., :4], after[..., :4])
    assert not torch.equal(before[..., 4:], after[..., 4:])


def test_positions_are_drawn_in_training_alone():
    model, x = make(), window()

    def draw(seed):
        torch.manual_seed(seed)
        return torch.cat(model(x), 1)

    def settled(seed):
        norms = [part for part in model.modules() if isinstance(part, RunningNorm)]
        for norm in norms:
            norm.eval()  # it would note the same batch again
        return draw(seed)

    assert torch.equal(settled(1), settled(1))
    assert not torch.equal(settled(1), settled(2))
    model.eval()
    assert torch.equal(draw(1), draw(2))


def test_the_pupil_shifts_what_is_seen_and_cortex_places_it():
    model, x = make().eval(), window()
    looking_away = x.clone()
    looking_away[:, 3:] += 15
    with torch.no_grad():
        assert torch.equal(model.core(x), model.core(looking_away))
        assert not torch.allclose(model(x, 0), model(looking_away, 0))
        readout = model.readouts[0]
        before = readout.points(1)
        readout.locate(torch.rand(6, 3))
        assert not torch.allclose(before, readout.points(1))


def test_running_norm_knows_all_batches():
    norm = RunningNorm(2)
    batches = [torch.randn(5, 4, 2) * torch.tensor([3.0, 0.5]) + torch.tensor([10.0, -1.0]) for _ in range(4)]
    for batch in batches:
        norm(batch)
    seen = torch.cat(batches).flatten(0, -2)
    expected = (seen - seen.mean(0)) / seen.std(0, correction=0)
    torch.testing.assert_close(norm.eval()(seen), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [SMALL, RECURRENT], ids=["plain", "recurrent"])
def test_fused_norms_change_nothing_but_rounding(config):
    model, x = make(config).eval(), window()
    fused = model.fused()
    with torch.no_grad():
        for found, expected in zip(fused(x), model(x), strict=True):
            assert relative_error(found, expected) < 1e-5
    assert not [part for part in fused.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())


def test_mixed_precision_stays_close():
    model, x = make().eval(), window()
    with torch.no_grad():
        exact = model(x, 0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert relative_error(model(x, 0).float(), exact) < 0.05


def test_the_competition_has_the_starter_kits_size():
    config = parse(preset_tree("competition"), "competition").experiment("baseline_001").model
    assert isinstance(config, BaselineConfig)
    assert config.map_sizes[-1] == (18, 46)
    with torch.device("meta"):
        model = build(config, list(NEURONS.values()))
    assert model.readouts[0].weight.shape == (7863, 128)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strides": [2]}, "features and strides must have one entry per layer"),
        ({"spatial_kernels": [17, 9]}, "leave nothing of the canvas"),
        ({"recurrent_kernel": 4}, "recurrent_kernel must be odd"),
    ],
)
def test_settings_that_make_no_model_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        BaselineConfig.model_validate(TINY_BASELINE | change)
