"""The model gives the published figures, and what the plain form gives: outputs, gradients, statistics."""

import pytest
import torch
from small_models import SMALL, random_model, relative_error
from tiny import preset_tree

from sensorium.config import parse
from sensorium.mice import NEURONS
from sensorium.model.architecture import meta_state
from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.model.layers import drop_path, shuffle_channels, tile_channels


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_published_figures(published_model, figures, mode):
    published_model.train(mode == "train")
    with torch.no_grad():
        outputs = published_model(figures["input"])
    for mouse, output in enumerate(outputs):
        expected = figures[f"{mode}_mouse{mouse}"]
        assert output.shape == expected.shape
        assert relative_error(output, expected) < 1e-5
        assert ((output - expected).abs() / expected.abs().clamp(min=1e-6)).max() < 1e-4


def test_published_size():
    config = parse(preset_tree("competition"), "competition")
    with torch.device("meta"):
        model = DwiseNeuro(config.experiment("true_batch_001").model, list(NEURONS.values()))
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert sum(count.values()) == 170_656_070
    assert count["core"] == pytest.approx(3.67e6, rel=2e-3)
    assert count["cortex"] == pytest.approx(5.40e6, rel=2e-3)


def no_drops(**changes):
    return SMALL.model_copy(update={"drop_path": 0.0, "cortex_drop_path": 0.0, "readout_dropout": 0.0, **changes})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(9, 14), (8, 6), (1, 1)])
def test_equals_plain_form(plain_form, training, shape):
    config = no_drops(canvas=shape)
    model = random_model(config).train(training)
    plain = plain_form.PlainDwiseNeuro(config, model.neurons).train(training)
    plain_form.match(plain, model)
    window = torch.rand(3, 5, 7, *shape) * 4
    window.requires_grad_()
    results = {}
    for form in (model, plain):
        outputs = form(window)
        sum((output * (index + 1)).square().sum() for index, output in enumerate(outputs)).backward()
        grads = {name: parameter.grad.clone() for name, parameter in form.named_parameters()}
        results[form] = (outputs, grads | {"window": window.grad.clone()})
        window.grad = None
    for found, expected in zip(results[model][0], results[plain][0], strict=True):
        assert relative_error(found, expected) < 1e-5
    scale = max(float(grad.abs().max()) for grad in results[plain][1].values())
    for name, expected in results[plain][1].items():
        found = results[model][1][name].reshape(expected.shape)
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max() + 1e-6 * scale, name
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name].reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


def test_gradients_agree_with_differences():
    model = random_model(no_drops(canvas=(4, 3), features=(4, 6), strides=(2, 1)), (3,)).double().train()
    window = torch.rand(2, 5, 3, 4, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: model(x, 0), (window,), atol=1e-4, rtol=1e-3)


def test_rows_of_features_are_enough_for_a_readout():
    model = random_model().eval()
    features = model.features(torch.rand(4, 5, 6, *SMALL.canvas))
    assert features.shape == (4, SMALL.cortex_features[-1], 6)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(model.readout(features[rows], 1), model.readout(features, 1)[rows])


def test_forward_of_one_mouse_is_that_of_all():
    model = random_model().eval()
    window = torch.rand(2, 5, 6, *SMALL.canvas)
    outputs = model(window)
    assert [tuple(output.shape) for output in outputs] == [(2, 5, 6), (2, 3, 6)]
    assert torch.equal(model(window, 1), outputs[1])
    assert all((output >= 0).all() for output in outputs)


def test_equal_seeds_give_equal_results_with_all_drops():
    model = random_model().train()
    window = torch.rand(4, 5, 6, *SMALL.canvas)

    def draw(seed):
        torch.manual_seed(seed)
        return torch.cat(model(window), 1)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_training_notes_running_statistics():
    model = random_model().train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.rand(2, 5, 6, *SMALL.canvas))
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]) == ("inverse_frequencies" in name), name


def test_first_weights():
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"features": (64, 64), "strides": (1, 1), "expansion": 6, "se_reduction": 6})
    model = DwiseNeuro(config.model_copy(update={"cortex_features": (256, 512)}), [600])
    block = model.core.blocks[0]
    fan_out = {
        block.expand.conv.weight: 384,
        block.space.conv.weight: 9,
        block.time.conv.weight: 3,
        block.project.project.weight: 64,
        block.project.reduce.weight: 64,
        model.cortex[0].mix.weight: 128,
        model.readouts[0].linear.weight: 300,
    }
    for weight, expected in fan_out.items():
        assert weight.std().item() == pytest.approx((2 / expected) ** 0.5, rel=0.05)
        assert abs(weight.mean().item()) < 0.1 * weight.std().item()
    assert not any(entry.any() for name, entry in model.state_dict().items() if name.endswith("bias"))
    assert all(entry.eq(1).all() for name, entry in model.state_dict().items() if name.endswith("norm.weight"))


def test_meta_state_names_all_entries():
    model = random_model()
    found = meta_state(model.config, model.neurons)
    expected = model.state_dict()
    assert {name: (entry.shape, entry.dtype) for name, entry in found.items()} == {
        name: (entry.shape, entry.dtype) for name, entry in expected.items()
    }


def test_drop_path_drops_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(4000, 3, 2)
    dropped = drop_path(x, 0.25, training=True)
    values = dropped.flatten(1)
    assert (values == values[:, :1]).all()
    assert values.unique().tolist() == pytest.approx([0, 4 / 3])
    assert values.mean().item() == pytest.approx(1, abs=0.05)
    assert drop_path(x, 0.25, training=False) is x


def test_tiling_repeats_and_cuts():
    x = torch.arange(3.0)[None, :, None]
    assert tile_channels(x, 7, dim=1).flatten().tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert tile_channels(x, 2, dim=1).flatten().tolist() == [0, 1]


def test_shuffle_interleaves_groups():
    x = torch.arange(6.0)[None, :, None]
    assert shuffle_channels(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("size", ["published", "small"])
def test_folded_norms_change_nothing_but_rounding(published_model, figures, size):
    model = published_model.eval() if size == "published" else random_model().eval()
    window = figures["input"] if size == "published" else torch.rand(3, 5, 6, *SMALL.canvas)
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    fused = model.fused()
    with torch.no_grad():
        for found, expected in zip(fused(window), model(window), strict=True):
            assert relative_error(found, expected) < 1e-5
    assert all(torch.equal(entry, before[name]) for name, entry in model.state_dict().items())
    norms = [name for name, part in fused.named_modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    assert all("shortcut" in name for name in norms)
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_folding_a_model_in_training_is_refused():
    with pytest.raises(AssertionError, match="running statistics"):
        random_model().train().fused()


def test_mixed_precision_stays_close():
    model = random_model(no_drops()).train()
    window = torch.rand(4, 5, 6, *SMALL.canvas)
    exact = torch.cat([output.detach() for output in model(window)], 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = torch.cat(model(window), 1)
    rough.float().sum().backward()
    assert relative_error(rough.detach().float(), exact) < 0.05
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
