"""Fitted weights: a known optimum, an honest gain, files that cannot be used."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.optimize import approx_fprime

from sensorium.cli import main
from sensorium.commands import fit_ensemble as weigh
from sensorium.commands import results
from sensorium.errors import PredictionError
from sensorium.evaluation.weights import Moments, _Objective, fit, maximise
from sensorium.inference.ensemble import combine, read_weights
from sensorium.metrics import correlation
from sensorium.stages import ensemble, evaluate, report

TEACHER, STUDENT, THIRD = "true_batch_001", "distillation_001", "third"
TIER = "live_test_main"


def simulated(noise, neurons=40, folds=3, frames=400, seed=0):
    """Moments of one mouse by fold; each member sees the rate through independent noise of its own size."""
    rng = np.random.default_rng(seed)
    series = {}
    for fold in range(folds):
        rate = rng.normal(size=(neurons, frames))
        members = [rate + size * rng.normal(size=rate.shape) for size in noise]
        series[fold] = [rate + 0.5 * rng.normal(size=rate.shape), *members]
    return series


def moments_of(series):
    found = {}
    for fold, parts in series.items():
        found[fold] = Moments(len(parts[0]), len(parts) - 1)
        for piece in np.array_split(np.stack(parts), 5, axis=2):
            found[fold].update(list(piece))
    return found


@pytest.mark.parametrize("noise", [(1.0, 0.5), (0.5, 1.0, 2.0), (1.0, 1.0)])
def test_independent_noise_is_weighted_by_its_inverse_variance(noise):
    found = fit([moments_of(simulated(noise, frames=4000))], "abc"[: len(noise)])
    expected = 1 / np.square(noise)
    np.testing.assert_allclose(list(found.weights.values()), expected / expected.sum(), atol=0.02)
    assert sum(found.weights.values()) == pytest.approx(1, abs=1e-12)


def test_a_member_that_only_harms_gets_nothing():
    series = simulated((0.5, 1.0))
    series = {fold: [y, good, -bad] for fold, (y, good, bad) in series.items()}
    found = fit([moments_of(series)], "ab")
    np.testing.assert_array_equal(list(found.weights.values()), [1, 0])
    assert found.nested.fitted > found.nested.equal + 0.1


def test_the_gain_is_that_of_weights_that_have_not_seen_the_fold():
    series = simulated((1.0, 0.4), frames=60)
    found = fit([moments_of(series)], "ab")
    assert list(found.folds) == [0, 1, 2]
    blended = {"fitted": [], "equal": []}
    for fold, (_, *members) in series.items():
        own = maximise([moments_of({0: np.concatenate([v for k, v in series.items() if k != fold], axis=2)})[0]])
        np.testing.assert_array_equal(list(found.folds[fold].weights.values()), own)
        blended["fitted"].append(np.tensordot(own, members, 1))
        blended["equal"].append(np.mean(members, 0))
        alone = correlation(series[fold][0], blended["fitted"][-1]).mean()
        assert found.folds[fold].fitted == pytest.approx(alone, rel=1e-6)
    measured = np.concatenate([parts[0] for parts in series.values()], 1)
    for name in ("fitted", "equal"):
        whole = correlation(measured, np.concatenate(blended[name], 1)).mean()
        assert getattr(found.nested, name) == pytest.approx(whole, rel=1e-6)


def test_the_gradient_is_that_of_the_score():
    objective = _Objective(list(moments_of(simulated((1.0, 0.4, 0.7), folds=1)).values()))
    point = np.array([0.2, 0.5, 0.3])
    numeric = approx_fprime(point, lambda weights: objective(weights)[0], 1e-7)
    np.testing.assert_allclose(objective(point)[1], numeric, atol=1e-6)


def test_constant_and_broken_neurons_do_not_spoil_the_search():
    series = simulated((1.0, 0.5), folds=1)[0]
    clean = maximise([moments_of({0: series})[0]])
    more = [np.concatenate([part, np.zeros((1, 400)), np.full((1, 400), np.nan)]) for part in series]
    np.testing.assert_allclose(maximise([moments_of({0: more})[0]]), clean, atol=1e-4)


def test_equal_weights_stay_where_nothing_is_better():
    series = simulated((0.5,), folds=2)
    twice = {fold: [y, member, member] for fold, (y, member) in series.items()}
    np.testing.assert_array_equal(list(fit([moments_of(twice)], "ab").weights.values()), [0.5, 0.5])


def test_one_fold_tells_nothing_about_the_gain():
    with pytest.raises(PredictionError, match="two folds at least, found 1") as caught:
        fit([moments_of(simulated((1.0, 0.5), folds=1))], "ab")
    assert "folds.train" in str(caught.value)


def test_combining_by_weight():
    parts = [np.full((2, 3), value, np.float32) for value in (1.0, 2.0, 4.0)]
    np.testing.assert_allclose(combine(parts, [0.5, 0.25, 0.25]), 2.0)
    np.testing.assert_allclose(combine(parts, None), 7 / 3, rtol=1e-6)
    assert combine(parts[:1], [1.0]) is parts[0]


@pytest.fixture
def fitted_config(tiny_config):
    return tiny_config.model_copy(update={"ensemble": tiny_config.ensemble.model_copy(update={"weights": "fitted"})})


@pytest.fixture
def predicted(make_predictions, pretend_training):
    make_predictions(TEACHER, "folds", noise=9.0, seed=1)
    make_predictions(STUDENT, "folds", noise=2.0, seed=2)
    pretend_training()


def test_the_evaluation_scores_the_weighted_ensemble_beside_the_equal_one(predicted, fitted_config, project, capsys):
    evaluate.run(fitted_config, project)
    metrics = json.loads((project.evaluation / "metrics.json").read_text())["single_trial_correlation"]
    found = json.loads((project.evaluation / "weights.json").read_text())
    assert found["method"] == "fitted"
    assert found["weights"][STUDENT] > found["weights"][TEACHER]
    assert set(found["folds"]) == {"0", "1", "2"}
    assert metrics["ensemble"] == pytest.approx(found["nested"]["fitted"], abs=1e-5)
    assert metrics["equal_weights"] == pytest.approx(found["nested"]["equal"], abs=1e-5)
    assert metrics["ensemble"] > metrics["equal_weights"]
    shown = capsys.readouterr().out
    assert "gain" in shown
    assert f"{found['nested']['gain']:+.5f}" in shown
    table = pd.read_csv(project.evaluation / "scores.csv")
    results.run(fitted_config, project)
    assert "equal weights" in capsys.readouterr().out
    report.run(fitted_config, project)
    assert f"gain over equal weights {found['nested']['gain']:+.5f}" in (project.report / "index.html").read_text()
    assert (table["source"] == "equal_weights").sum() == (table["source"] == "ensemble").sum()


def test_equal_weights_are_the_default(predicted, tiny_config, project):
    evaluate.run(tiny_config, project)
    found = json.loads((project.evaluation / "weights.json").read_text())
    assert (found["method"], found["weights"]) == ("equal", {TEACHER: 0.5, STUDENT: 0.5})
    assert "equal_weights" not in (project.evaluation / "scores.csv").read_text()


@pytest.fixture
def three_config(tiny_config):
    experiments = tiny_config.experiments | {THIRD: tiny_config.experiments[TEACHER]}
    return tiny_config.model_copy(update={"experiments": experiments})


def test_weights_of_three_experiments_and_their_ensemble(predicted, make_predictions, three_config, project, stores):
    names = [STUDENT, THIRD, TEACHER]
    make_predictions(THIRD, "folds", noise=2.2, seed=3)
    path = project.weights(names)
    weigh.run(three_config, project, ",".join(names), path)
    weights = read_weights(path, names)
    assert list(weights) == names
    assert weights[STUDENT] > weights[THIRD] > weights[TEACHER]
    for seed, name in enumerate(names):
        make_predictions(name, TIER, seed=seed)
    ensemble.run(three_config, project, ",".join(names), TIER, weights=path)
    place = f"{stores[0].name}/{int(np.flatnonzero(stores[0].tiers == TIER)[0])}.npy"
    parts = [weights[name] * np.load(project.predictions(name, TIER) / place) for name in names]
    blend = np.load(project.predictions(",".join(names), TIER) / place)
    np.testing.assert_allclose(blend, np.sum(parts, 0), rtol=1e-5)


def test_a_missing_prediction_of_one_experiment(predicted, tiny_config, project):
    path = max(project.predictions(TEACHER, "folds").rglob("*.npy"))
    path.unlink()
    with pytest.raises(PredictionError) as caught:
        weigh.run(tiny_config, project, f"{STUDENT},{TEACHER}")
    assert f"{path}: the prediction of this trial is missing" in str(caught.value)
    assert not project.weights([STUDENT, TEACHER]).parent.exists()


def test_an_experiment_without_predictions_out_of_fold(predicted, three_config, project):
    with pytest.raises(PredictionError, match="third/out-of-fold: there are no predictions"):
        weigh.run(three_config, project, f"{STUDENT},{THIRD}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the file does not exist"),
        ("{", "not valid JSON"),
        ("[]", "there are no weights in it"),
        ('{"weights": {"a": 1.0}}', "weights of a, not of a, b"),
        ('{"weights": {"a": -0.5, "b": 1.5}}', "-0.5 is no weight for a"),
        ('{"weights": {"a": "1", "b": 0}}', "'1' is no weight for a"),
        ('{"weights": {"a": 0.5, "b": 0.6}}', "add up to 1.1, not to 1"),
        ('{"weights": {"a": NaN, "b": 1}}', "nan is no weight for a"),
    ],
)
def test_files_of_weights_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "weights.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PredictionError, match=message) as caught:
        read_weights(path, ["a", "b"])
    assert str(path) in str(caught.value)
    assert "sensorium fit-ensemble -e a,b" in str(caught.value)


@pytest.fixture
def command(fitted_config, project, monkeypatch, capsys):
    """A function that types a command, and returns its exit code and what it tells."""
    (project.root / "params.yaml").write_text(yaml.safe_dump(fitted_config.model_dump(mode="json")))
    monkeypatch.chdir(project.root)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["sensorium", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        streams = capsys.readouterr()
        return ended.value.code, streams.out + streams.err

    return run


def test_the_commands_weigh_and_average(predicted, make_predictions, command, project):
    pair = f"{STUDENT},{TEACHER}"
    for seed, name in enumerate((STUDENT, TEACHER)):
        make_predictions(name, TIER, seed=seed)
    code, told = command("ensemble", "-e", pair, "-s", TIER)
    assert code == 1
    assert f"{project.weights([STUDENT, TEACHER])}: the file does not exist" in told
    assert f"sensorium fit-ensemble -e {pair}" in told
    assert command("weigh", "-e", f"{TEACHER},{STUDENT}")[0] == 0
    assert command("ensemble", "-e", pair, "-s", TIER)[0] == 0
    weights = read_weights(project.weights([STUDENT, TEACHER]), [STUDENT, TEACHER])
    provenance = json.loads((project.predictions(pair, TIER) / "provenance.json").read_text())
    assert provenance["weights"] == list(weights.values())


def test_a_registered_pair_brings_its_own_weights(command):
    code, told = command("ensemble", "-e", TEACHER, "-s", TIER, "--pin", "pair.json", "--weights", "weights.json")
    assert code == 2
    assert "--weights: a registered pair has its own." in told
