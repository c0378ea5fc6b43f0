"""What a kill left beside outputs goes with the next run, and what it took away comes back."""

from pathlib import Path

import pytest

from sensorium.errors import PredictionError, SensoriumError
from sensorium.files import exclusive_lock
from sensorium.stages import ensemble, evaluate, report, submission

PAIR = ["distillation_001", "true_batch_001"]
NAMES = ",".join(PAIR)
TIER = "live_test_main"


def leave(output: Path) -> None:
    """What a writer of a folder leaves when it is killed between its two renames."""
    for suffix in ("retired", "partial"):
        folder = output.with_name(f".{output.name}.0a1b2c3d.{suffix}")
        folder.mkdir(parents=True)
        (folder / suffix).touch()


@pytest.fixture
def runs(tiny_config, project, make_predictions):
    """A function a stage, and the output that it writes."""
    for split in (TIER, "final_test_main"):
        for name in (*PAIR, NAMES):
            make_predictions(name, split)
    return {
        "submission": (
            lambda: submission.run(tiny_config, project, NAMES, "main"),
            project.submission("main"),
        ),
        "mean": (
            lambda: ensemble.run(tiny_config, project, NAMES, TIER),
            project.predictions(NAMES, TIER),
        ),
    }


@pytest.mark.parametrize("stage", ["submission", "mean"])
def test_leftovers_go(runs, stage):
    run, output = runs[stage]
    leave(output)
    run()
    assert not [path for path in output.parent.iterdir() if path.name.startswith(".")]
    assert not (output / "retired").exists()


def test_a_submission_that_a_kill_took_away_comes_back(runs, project):
    run, output = runs["submission"]
    leave(output)
    max(project.predictions(NAMES, TIER).rglob("*.npy")).unlink()
    with pytest.raises(PredictionError, match="is missing"):
        run()
    assert [path.name for path in output.parent.iterdir()] == ["main"]
    assert [path.name for path in output.iterdir()] == ["retired"]


@pytest.mark.parametrize(
    ("stage", "lock"), [("submission", "submission-main"), ("mean", f"ensemble-{','.join(PAIR)}-{TIER}")]
)
def test_a_second_writer_is_told(runs, project, stage, lock):
    run, output = runs[stage]
    leave(output)
    with exclusive_lock(project.lock(lock), SensoriumError("held")):
        with pytest.raises(PredictionError, match="another process is writing"):
            run()
        assert output.with_name(f".{output.name}.0a1b2c3d.retired").exists()


def test_scores_leave_nothing_of_killed_runs(tiny_config, project, make_predictions, pretend_training):
    for name in PAIR:
        make_predictions(name, "folds")
    pretend_training()
    for name in ("scores.csv", "plots/mice.csv"):
        path = project.evaluation / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f".{path.name}.0a1b2c3d.partial").touch()
    evaluate.run(tiny_config, project)
    assert not [path for path in project.evaluation.rglob("*") if path.name.startswith(".")]


def test_a_report_that_a_kill_took_away_comes_back(tiny_config, project, monkeypatch):
    monkeypatch.setattr(report, "_gather", lambda *_: None)
    leave(project.report)
    with exclusive_lock(project.lock("report"), SensoriumError("held")), pytest.raises(PredictionError, match="report"):
        report.run(tiny_config, project)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "draw_all", interrupt)
    with pytest.raises(KeyboardInterrupt):
        report.run(tiny_config, project)
    assert [path.name for path in project.report.parent.iterdir()] == ["report"]
    assert [path.name for path in project.report.iterdir()] == ["retired"]
