"""The compiled core computes what the layers compute, for any size, type and number of threads."""

import shutil

import pytest
import torch
from small_models import SMALL, random_model, relative_error

from sensorium.model import cpu_inference, kernels
from sensorium.model.cpu_inference import InferenceCore

CONFIGS = {
    "awkward": SMALL,
    "one block": SMALL.model_copy(update={"features": (6,), "strides": (1,)}),
    "other kernels": SMALL.model_copy(update={"spatial_kernel": 5, "temporal_kernel": 7, "canvas": (3, 20)}),
    "several parts": SMALL.model_copy(update={"features": (40, 48, 48), "canvas": (40, 64)}),
    "one column": SMALL.model_copy(update={"canvas": (11, 1)}),
    "long strides": SMALL.model_copy(update={"strides": (3, 1, 2), "spatial_kernel": 1, "canvas": (9, 16)}),
    "long filters": SMALL.model_copy(update={"spatial_kernel": 7, "temporal_kernel": 9, "canvas": (5, 6)}),
}


@pytest.fixture(scope="module")
def compiled():
    found = kernels.load()
    if found is None:
        pytest.skip("no C++ compiler here")
    return found


def both(config, compiled, dtype=torch.float32, frames=6):
    """The folded core, and the compiled one."""
    core = random_model(config).eval().fused().core
    return core, InferenceCore(core, frames, config.canvas, dtype, compiled)


@pytest.mark.parametrize("room", [1, cpu_inference._ROOM])
@pytest.mark.parametrize("frames", [1, 6])
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_equals_the_layers(compiled, monkeypatch, name, frames, room):
    monkeypatch.setattr(cpu_inference, "_ROOM", room)  # bytes; with one the rows go through it one by one
    core, fast = both(CONFIGS[name], compiled, frames=frames)
    window = torch.rand(3, 5, frames, *CONFIGS[name].canvas) * 4
    found, expected = fast(window), core(window)
    assert found.shape == expected.shape
    assert relative_error(found, expected) < 1e-5
    assert relative_error(fast(window[1:2]), expected[1:2]) < 1e-5


@torch.inference_mode()
def test_equals_the_published_model(compiled, published_model, figures):
    model = published_model.eval().fused()
    windows = figures["input"]
    features = model.cpu_features(windows.shape[2], torch.float32, 1)
    for mouse in range(len(model.neurons)):
        assert relative_error(model.readout(features(windows), mouse), figures[f"eval_mouse{mouse}"]) < 1e-5


@torch.inference_mode()
def test_bfloat16_is_no_worse_than_that_of_the_layers(compiled, published_model, figures):
    core, window = published_model.eval().fused().core, figures["input"]
    fast = InferenceCore(core, window.shape[2], tuple(window.shape[3:]), torch.bfloat16, compiled)
    expected = core(window)
    with torch.autocast("cpu", torch.bfloat16):
        rough, found = core(window), fast(window)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < (rough.float() - expected).norm()


@pytest.mark.parametrize("dtype", kernels.TYPES)
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_threads_change_no_bit(compiled, name, dtype):
    window = torch.rand(2, 5, 6, *CONFIGS[name].canvas)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            _, fast = both(CONFIGS[name], compiled, dtype)
            results.append(fast(window))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@torch.inference_mode()
def test_other_windows_than_asked_for_are_refused(compiled):
    _, fast = both(SMALL, compiled)
    window = torch.rand(1, 5, 8, *SMALL.canvas)
    for wrong in (window, window[:, :, :6].double(), window[:, :4, :6]):
        with pytest.raises(ValueError, match="float32 are expected"):
            fast(wrong)


def test_activation_is_exact_to_rounding(compiled):
    values = torch.cat([torch.linspace(-30, 30, 1 << 14), torch.tensor([-1e6, -500.0, 0.0, 500.0, 1e6, torch.nan])])
    values = torch.cat([values, torch.zeros(-len(values) % 16)])
    found = values.clone()
    compiled.activate(found.view(-1, 16), torch.zeros(16))
    expected = torch.nn.functional.silu(values.double())
    fused = torch.backends.cpu.get_cpu_capability().startswith("AVX")  # it has fused multiply-adds
    torch.testing.assert_close(found.double(), expected, rtol=1e-6 if fused else 1e-5, atol=1e-28, equal_nan=True)


def test_rounding_to_bfloat16_is_that_of_torch(compiled):
    values = torch.arange(0x3A80, 0x4280, dtype=torch.int16).view(torch.bfloat16)  # all from 1e-3 to 64
    values = torch.cat([values, -values])
    exact = torch.nn.functional.silu(values.double()).float()
    compiled.activate(values.view(-1, 16), torch.zeros(16))
    differing = values != exact.bfloat16()
    assert differing.float().mean() < 1e-3  # where SiLU itself lies between two numbers
    torch.testing.assert_close(values.float(), exact, rtol=2**-8, atol=0)


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, -1])
def test_no_nan_is_rounded_to_a_number(compiled, bits):
    values = torch.zeros(16, dtype=torch.bfloat16)
    compiled.activate(values.view(1, 16), torch.full((16,), bits, dtype=torch.int32).view(torch.float32))
    assert values.isnan().all()


@pytest.fixture
def unknown(monkeypatch, tmp_path):
    """Nothing compiled so far."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.load.cache_clear()
    yield tmp_path / "sensorium"
    kernels.load.cache_clear()


def test_compiled_once(compiled, unknown):
    first = kernels.load()
    assert first is not None
    (library,) = unknown.iterdir()
    made = library.stat().st_mtime_ns
    kernels.load.cache_clear()
    assert kernels.load() is not first
    assert [path.stat().st_mtime_ns for path in unknown.iterdir()] == [made]


@pytest.mark.parametrize("compiler", ["none", "broken"])
def test_without_a_compiler_the_layers_predict(unknown, monkeypatch, tmp_path, capsys, compiler):
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\n[ $1 = --version ] || { echo 'no such header' >&2; exit 1; }\n")
    script.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(script) if compiler == "broken" else None)
    assert kernels.load() is None
    message = capsys.readouterr().err
    assert ("no such header" in message) == (compiler == "broken")
    model = random_model().eval().fused()
    window = torch.rand(3, 5, 6, *SMALL.canvas)
    with torch.inference_mode():
        found = model.cpu_features(6, torch.float32, 2)(window)
        assert relative_error(found, model.features(window)) < 1e-6


@torch.inference_mode()
def test_an_unwritable_cache_is_no_fault(compiled, unknown, monkeypatch):
    unknown.parent.joinpath("sensorium").write_text("a file where the folder should be")
    assert kernels.load() is not None


@pytest.mark.parametrize("dtype", kernels.TYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@torch.inference_mode()
def test_what_is_not_finite_is_not_hidden(compiled, dtype, value):
    """Predictions refuse such values, so a kernel must not turn them into numbers."""
    _, fast = both(SMALL, compiled, dtype)
    window = torch.rand(1, 5, 6, *SMALL.canvas)
    window[0, 0, 3, 2, 2] = value
    assert not fast(window).isfinite().all()
