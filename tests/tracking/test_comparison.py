"""Differences between models, and how sure they are."""

import numpy as np
import pytest
from typer.testing import CliRunner

from sensorium.cli.app import app
from sensorium.commands import compare
from sensorium.errors import ConfigError, TrackingError
from sensorium.evaluation.comparison import Videos
from sensorium.stages import register


def recordings(videos, gain, seed=0, neurons=5, frames=40):
    """Trials of two models, the candidate's noise smaller by `gain`."""
    random = np.random.default_rng(seed)
    for video in range(videos):
        target = random.gamma(2.0, 1.0, (neurons, frames)) + 1000
        noise = random.standard_normal((2, neurons, frames))
        yield video, target, target + noise[0] * (1 - gain), target + noise[1]


def test_the_estimate_is_the_difference_of_the_correlations():
    videos, series = Videos(), []
    for video, *trial in recordings(6, gain=0.5):
        videos.add(("mouse", 0), video, *trial)
        series.append(trial)
    target, first, second = (np.concatenate(parts, axis=1) for parts in zip(*series, strict=True))
    expected = np.mean(
        [np.corrcoef(t, a)[0, 1] - np.corrcoef(t, b)[0, 1] for t, a, b in zip(target, first, second, strict=True)]
    )
    cells, whole = videos.differences()
    assert cells["mouse", 0].mean == pytest.approx(expected, abs=1e-9)
    assert whole.mean == pytest.approx(expected, abs=1e-9)
    assert whole.low < expected < whole.high


@pytest.mark.parametrize(("gain", "verdict"), [(0.5, "better"), (-0.5, "worse")])
def test_a_planted_difference_is_found(gain, verdict):
    videos = Videos()
    for fold in range(2):
        for video, *trial in recordings(20, gain, seed=fold):
            videos.add(("mouse", fold), 100 * fold + video, *trial)
    cells, whole = videos.differences()
    assert whole.verdict == verdict
    assert {interval.verdict for interval in cells.values()} == {verdict}


def test_equal_models_are_not_told_apart():
    videos = Videos()
    for video, target, first, _ in recordings(10, 0.0):
        videos.add(("mouse", 0), video, target, first, first)
    _, whole = videos.differences()
    assert (whole.mean, whole.low, whole.high) == (0, 0, 0)
    assert whole.verdict == "no clear difference"


def test_repeats_of_a_video_are_not_independent():
    """Ten copies of every trial carry no more evidence than one."""
    once, often = Videos(), Videos()
    for video, *trial in recordings(12, 0.1):
        once.add(("mouse", 0), video, *trial)
        for _ in range(10):
            often.add(("mouse", 0), video, *trial)
    first, second = once.differences()[1], often.differences()[1]
    assert second.mean == pytest.approx(first.mean)
    assert (second.low, second.high) == pytest.approx((first.low, first.high))


def test_a_constant_prediction_counts_as_no_correlation():
    videos = Videos()
    for video, target, first, _ in recordings(8, 0.9):
        videos.add(("mouse", 0), video, target, first, np.full_like(target, 3.0))
    assert videos.differences()[1].mean > 0.9


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("nonsense", "true_batch_001"), "'nonsense': neither an experiment"),
        (("true_batch_001", "3"), "of different kinds, experiment and pair"),
        (("true_batch_001", "0" * 32), "of different kinds, experiment and run"),
    ],
)
def test_what_cannot_be_compared_is_refused(bare_project, names, problem):
    result = CliRunner().invoke(app, ["compare", *names])
    assert isinstance(result.exception, ConfigError)
    assert problem in result.exception.problem


def test_pairs_and_runs_are_compared_by_their_scores(trained, capsys):
    register.run(trained.config, trained.paths)
    trained.train("distillation_001", seed=1)
    trained.score(0.35)
    register.run(trained.config, trained.paths)
    compare.run(trained.config, trained.paths, "2", "1")
    assert "2 against 1: +0.0500 (95% interval +0.0500 to +0.0500): better." in capsys.readouterr().out
    figure = trained.paths.root / "reports" / "comparison" / "2-1.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TrackingError, match="there is no champion yet"):
        compare.run(trained.config, trained.paths, "2", "champion")
    with pytest.raises(TrackingError, match=r"run 0+: not at sqlite"):
        compare.run(trained.config, trained.paths, "0" * 32, "1" * 32)
