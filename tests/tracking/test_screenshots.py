"""What a user sees in MLflow's UI, in a real browser."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from PIL import Image

from sensorium.registry.promotion import promote
from sensorium.stages import register
from sensorium.tracking import start_training_run

ROOT = Path(__file__).parents[2]
MOUSE = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="needs the extra `browser`"),
    pytest.mark.skipif(
        not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), reason="needs Chromium"
    ),
]


@pytest.fixture
def screenshots():
    described = importlib.util.spec_from_file_location("screenshots", ROOT / "tools" / "screenshots.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def test_the_pages_show_runs_curves_and_the_champion(trained, inline, screenshots, tmp_path):
    (trained.paths.root / "dvc.lock").write_text(
        "stages:\n  folds:\n    outs:\n    - {path: data/folds, md5: 0123456789abcdef0123456789abcdef.dir}\n"
    )
    for experiment in ("true_batch_001", "distillation_001"):
        for fold in range(3):
            run = start_training_run(trained.config, trained.paths, experiment, fold, f"{experiment}-{fold}")
            for step in range(1, 4):
                run.metrics({"val/correlation": 0.1 * step + fold / 100, f"val/correlation/{MOUSE}": 0.1 * step}, step)
            run.close("FINISHED")
    register.run(trained.config, trained.paths)
    promote(trained.paths)
    texts = screenshots.draw(trained.paths, tmp_path / "images")

    for name in ("distillation_001", "ensemble", "Best 0.300", "score/ci_low", "0.28", "0.29"):
        assert name in texts["leaderboard"], name
    assert "fold_0" not in texts["leaderboard"]
    for name in ("fold_0", "fold_1", "fold_2", "evaluation", "With folds"):
        assert name in texts["folds"], name
    for name in ("Learning curves", "Differences", "val/correlation/29515-10-12"):
        assert name in texts["charts"], name
    assert "Score 0.290" in texts["row"]
    for text in ("fold_0", "val/correlation", "data/folds", "sensorium.seed", "true_batch_001"):
        assert text in texts["run"], text
    assert "sensorium-pair" in texts["registry"]
    assert "champion" in texts["registry"]
    for text in ("champion", "teacher", "student", "ensemble", "0.3000"):
        assert text in texts["version"], text
    pictures = sorted((tmp_path / "images").glob("mlflow-*.png"))
    assert [path.stem.removeprefix("mlflow-") for path in pictures] == sorted(texts)
    for path in pictures:
        assert path.stat().st_size < 250_000
        with Image.open(path) as image:
            assert len(image.getcolors(1 << 16)) > 10  # something is drawn
