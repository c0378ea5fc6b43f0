"""The benchmark of a training step: a variant that fails is a row, and not the end of the table."""

import importlib.util
import sys
from types import ModuleType

import pytest
from small_models import ROOT


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which the program adds its folder
    spec = importlib.util.spec_from_file_location("training_step", ROOT / "benchmarks" / "training_step.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "training_step", module)  # where its dataclasses look for their module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_variants_that_fail_are_rows(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the processes that measure memory
    known = benchmark.VARIANTS
    refused = known["ours"]._replace(optimizer="both")
    monkeypatch.setitem(benchmark.OPTIMIZERS, "both", {"fused": True, "foreach": True})
    monkeypatch.setattr(benchmark, "VARIANTS", {**known, "refused": refused, "unknown to the child": known["ours"]})
    names = ["refused", "unknown to the child", "AdamW by foreach"]
    benchmark.compare_variants("cpu", 1, 1, "medium", names)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    found = {row[0]: row[1:] for row in rows[2:]}
    assert list(found) == names
    assert found["refused"][0].startswith("RuntimeError: ")
    assert float(found["unknown to the child"][1]) > 0
    assert "invalid choice: 'unknown to the child'" in found["unknown to the child"][2]
    peak, added = map(float, found["AdamW by foreach"][2:])
    assert peak > added > 0


def test_the_roofline_counts_the_work_of_a_step(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "product_rate", lambda *_: 1e9)
    benchmark.print_roofline("cpu", 1, 1, "medium")
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    kinds = [tuple(line[:2]) for line in lines[2:-1]]
    assert kinds == [(phase, kind) for phase in benchmark.PHASES[:2] for kind in benchmark.KINDS] + [
        ("optimizer", "AdamW")
    ]
    forward, backward = (float(lines[2 + offset][3]) for offset in (0, len(benchmark.KINDS)))
    assert backward == pytest.approx(2 * forward, abs=1)  # gradients of inputs and of weights
