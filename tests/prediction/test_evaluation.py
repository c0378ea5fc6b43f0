"""Scores against plain NumPy over everything in memory; faults of predictions on disk."""

import json
from itertools import groupby

import numpy as np
import pandas as pd
import pytest
from prediction_runs import forget_checksums
from rich.console import Console

from sensorium.commands import results
from sensorium.config import SubmissionConfig
from sensorium.errors import CheckpointError, PredictionError
from sensorium.evaluation.scores import score_mouse
from sensorium.metrics import correlation, response_precision
from sensorium.mice import NEURONS, TEST_TIERS, short_name
from sensorium.stages import evaluate

NEW_MOUSE = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"
OLD_MOUSE = "dynamic29156-11-10-Video-8744edeac3b4d1ce16b680916b5267ce"
TEACHER, STUDENT = "true_batch_001", "distillation_001"


@pytest.fixture
def evaluated(tiny_config, project, make_predictions, pretend_training):
    make_predictions(TEACHER, "folds", noise=3.0, seed=1)
    make_predictions(STUDENT, "folds", noise=2.0, seed=2)
    pretend_training()
    evaluate.run(tiny_config, project)
    return pd.read_csv(project.evaluation / "scores.csv")


def _row(scores, **keys):
    found = scores
    for key, value in keys.items():
        found = found[found[key].astype(str) == str(value)]
    assert len(found) == 1
    return found.iloc[0]


def _series(project, store, trials, experiments, frames=slice(10, 60)):
    """Targets and mean predictions (N, frames) of trials, and the precision of those frames."""
    targets = [store.responses(trial).T[:, frames] for trial in trials]
    predictions = [
        np.mean([np.load(project.predictions(e, "folds") / store.name / f"{trial}.npy") for e in experiments], 0)
        for trial in trials
    ]
    precision = response_precision(store.statistics("responses", "std").T)[:, frames]
    return targets, [p[:, frames] for p in predictions], precision


@pytest.mark.parametrize(("source", "experiments"), [(TEACHER, [TEACHER]), ("ensemble", [STUDENT, TEACHER])])
def test_scores_equal_a_plain_computation(evaluated, project, stores, table, source, experiments):
    pooled, variants = [], []
    for store in stores:
        trials = np.flatnonzero(table.of(store.name) >= 0).tolist()
        targets, predictions, precision = _series(project, store, trials, experiments)
        official = correlation(
            np.concatenate([t * precision for t in targets], 1), np.concatenate([p * precision for p in predictions], 1)
        )
        variant = correlation(np.concatenate(targets, 1).astype(float), np.concatenate(predictions, 1).astype(float))
        row = _row(evaluated, source=source, mouse=store.name, fold="all", tier="all")
        assert row["single_trial_correlation"] == pytest.approx(official.mean(), abs=1e-5)
        assert row["published_variant"] == pytest.approx(variant.mean(), abs=1e-5)
        assert row["trials"] == len(trials)
        assert row["frames"] == 50 * len(trials)
        pooled.append(official)
        variants.append(variant.mean())
    whole = _row(evaluated, source=source, mouse="all", fold="all", tier="all")
    assert whole["single_trial_correlation"] == pytest.approx(np.concatenate(pooled).mean(), abs=1e-5)
    assert whole["published_variant"] == pytest.approx(np.mean(variants), abs=1e-5)


def test_a_fold_and_tier_holds_its_own_trials_only(evaluated, project, stores, table):
    store = stores[0]
    fold = int(table.of(store.name)[np.flatnonzero(store.tiers == "oracle")[0]])
    trials = np.flatnonzero((table.of(store.name) == fold) & (store.tiers == "oracle")).tolist()
    targets, predictions, precision = _series(project, store, trials, [STUDENT])
    expected = correlation(
        np.concatenate([t * precision for t in targets], 1), np.concatenate([p * precision for p in predictions], 1)
    )
    row = _row(evaluated, source=STUDENT, mouse=store.name, fold=fold, tier="oracle")
    assert row["single_trial_correlation"] == pytest.approx(expected.mean(), abs=1e-5)


def test_correlation_to_average_averages_repeats_first(evaluated, project, stores, table):
    store = stores[2]  # an old mouse: its test tiers repeat videos, too
    groups, tiers = table.group(store.name).tolist(), store.tiers.tolist()
    labelled = sorted(np.flatnonzero(table.of(store.name) >= 0).tolist(), key=lambda t: (tiers[t], groups[t]))
    truths, means = [], []
    for _, repeats in groupby(labelled, key=lambda t: (tiers[t], groups[t])):
        trials = list(repeats)
        targets, predictions, precision = _series(project, store, trials, [TEACHER])
        if len(trials) > 1:
            truths.append(np.mean(targets, 0) * precision)
            means.append(np.mean(predictions, 0) * precision)
    assert len(truths) > 2
    expected = correlation(np.concatenate(truths, 1), np.concatenate(means, 1)).mean()
    row = _row(evaluated, source=TEACHER, mouse=store.name, fold="all", tier="all")
    assert row["correlation_to_average"] == pytest.approx(expected, abs=1e-5)
    assert row["correlation_to_average"] > row["single_trial_correlation"]
    assert np.isnan(
        _row(evaluated, source=TEACHER, mouse=store.name, fold="all", tier="train")["correlation_to_average"]
    )


def test_nothing_beats_the_ceiling(evaluated):
    whole = evaluated[(evaluated["fold"] == "all") & (evaluated["tier"] == "all")]
    for _, rows in whole.groupby("mouse"):
        scores = rows.set_index("source")["single_trial_correlation"]
        assert scores["ceiling"] == scores.max()
        assert scores["ensemble"] > scores[TEACHER]


def test_metrics_and_plots_agree_with_the_table(evaluated, tiny_config, project):
    metrics = json.loads((project.evaluation / "metrics.json").read_text())
    whole = _row(evaluated, source=STUDENT, mouse="all", fold="all", tier="all")
    assert metrics["single_trial_correlation"][STUDENT] == pytest.approx(whole["single_trial_correlation"], abs=2e-6)
    assert set(metrics["mice"]) == set(tiny_config.dataset.mice)
    assert set(metrics["mice"][OLD_MOUSE]["published_variant"]) == {TEACHER, STUDENT, "ensemble", "ceiling"}
    neurons = pd.read_parquet(project.evaluation / "neurons.parquet")
    mine = neurons[(neurons["mouse"] == NEW_MOUSE) & (neurons["source"] == STUDENT)]
    score = metrics["mice"][NEW_MOUSE]["single_trial_correlation"][STUDENT]
    assert mine["single_trial_correlation"].mean() == pytest.approx(score, abs=2e-6)
    overall = json.loads((project.evaluation / "overall.json").read_text())
    assert overall == metrics["single_trial_correlation"]
    histogram = pd.read_csv(project.evaluation / "plots" / "neurons.csv").groupby("source")["share"].sum()
    assert histogram.to_dict() == pytest.approx(dict.fromkeys([TEACHER, STUDENT, "ensemble", "ceiling"], 1), abs=1e-4)
    assert len(pd.read_csv(project.evaluation / "plots" / "mice.csv")) == 4 * 4


def test_learning_curves_are_means_over_folds(evaluated, project):
    curves = pd.read_csv(project.evaluation / "plots" / "training.csv")
    assert curves["source"].unique().tolist() == [TEACHER, STUDENT]
    mine = curves[curves["source"] == STUDENT]
    assert mine["epoch"].to_list() == [0, 1, 2]
    assert mine["correlation"].to_list() == pytest.approx([0.01, 0.11, 0.21])


def test_equal_predictions_give_equal_bytes(evaluated, tiny_config, project):
    files = sorted(path for path in project.evaluation.rglob("*") if path.is_file())
    before = [path.read_bytes() for path in files]
    evaluate.run(tiny_config, project)
    assert [path.read_bytes() for path in files] == before


def test_results_show_a_row_per_experiment(evaluated, tiny_config, project, capsys):
    results.run(tiny_config, project)
    shown = capsys.readouterr().out
    assert all(short_name(mouse).split("-")[0] in shown for mouse in tiny_config.dataset.mice)
    whole = evaluated[(evaluated["fold"] == "all") & (evaluated["tier"] == "all")]
    for source, name in {TEACHER: TEACHER, "ensemble": "ensemble", "ceiling": "noise ceiling"}.items():
        (row,) = [line for line in shown.splitlines() if line.startswith(f"{name} ")]
        expected = whole[whole["source"] == source].set_index("mouse")["single_trial_correlation"]
        order = ["all", *tiny_config.dataset.mice]
        assert row.removeprefix(name).split() == [f"{expected[mouse]:.3f}" for mouse in order]
    assert "make ui" in shown
    assert f"submission -e {','.join(sorted(tiny_config.ensemble.members))} -t main" in shown


def test_results_without_tracks_propose_no_submission(evaluated, tiny_config, project, capsys):
    results.run(tiny_config.model_copy(update={"submission": SubmissionConfig(tracks=())}), project)
    shown = capsys.readouterr().out
    assert "insilico tuning" in shown
    assert "submission" not in shown
    assert "_test_" not in shown


def test_results_of_many_mice_and_experiments_fit_a_terminal():
    scores = {f"distillation_{number:03}": 0.25 for number in range(12)} | {"ensemble": 0.3}
    mice = {mouse: {"single_trial_correlation": scores} for mouse in NEURONS}
    metrics = {"single_trial_correlation": scores, "mice": mice}
    console = Console(width=80, record=True)
    for part in results.score_tables(metrics, [name for name in scores if name != "ensemble"], list(mice), 80):
        console.print(part)
    shown = console.export_text()
    assert shown.count("0.250") == 12 * 11
    assert "\u2026" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_results_before_evaluation_say_what_to_do(tiny_config, project):
    with pytest.raises(PredictionError, match="dvc repro"):
        results.run(tiny_config, project)


def test_memory_does_not_grow_with_trials(stores, table, tiny_config):
    """One trial's arrays are alive at a time: every load sees the one before it released."""
    import weakref

    alive = []

    def load(store, trial):
        array = store.truth(trial).T.copy()
        alive.append(weakref.ref(array))
        assert sum(ref() is not None for ref in alive) <= 3
        return {"teacher": array}

    store = stores[0]
    score_mouse(store, table.of(store.name), table.group(store.name), load, tiny_config.evaluation)
    assert len(alive) == (table.of(store.name) >= 0).sum()


def test_a_silent_neuron_counts_as_zero_and_is_counted(evaluated, tiny_config, project):
    forget_checksums(project.predictions(TEACHER, "folds"))
    for path in (project.predictions(TEACHER, "folds") / NEW_MOUSE).glob("*.npy"):
        array = np.load(path)
        array[2] = 0
        np.save(path, array)
    before = _row(evaluated, source=TEACHER, mouse=NEW_MOUSE, fold="all", tier="all")
    neurons = pd.read_parquet(project.evaluation / "neurons.parquet").query(
        "source == @TEACHER and mouse == @NEW_MOUSE"
    )
    evaluate.run(tiny_config, project)
    after = _row(
        pd.read_csv(project.evaluation / "scores.csv"), source=TEACHER, mouse=NEW_MOUSE, fold="all", tier="all"
    )
    assert (before["undefined_neurons"], after["undefined_neurons"]) == (0, 1)
    lost = neurons["single_trial_correlation"].iloc[2] / len(neurons)
    assert after["single_trial_correlation"] == pytest.approx(before["single_trial_correlation"] - lost, abs=2e-6)


def test_withheld_responses_are_not_scored(evaluated, stores, table):
    """New mice have responses of zeros in the test tiers; old mice have released ones."""
    for store in stores:
        tiers = set(evaluated.loc[evaluated["mouse"] == store.name, "tier"]) - {"all"}
        released = {tier for tier in TEST_TIERS if store.mouse_set == "old"}
        assert tiers == {"train", "oracle"} | released
        withheld = np.flatnonzero(np.isin(store.tiers, TEST_TIERS) & (table.of(store.name) < 0))
        assert len(withheld) == (0 if store.mouse_set == "old" else np.isin(store.tiers, TEST_TIERS).sum())
        assert not any(store.responses(int(trial)).any() for trial in withheld)


def test_the_scored_frames_are_a_setting(evaluated, tiny_config, project, stores, table):
    later = tiny_config.evaluation.model_copy(update={"first_frame": 30, "frames": 25})
    evaluate.run(tiny_config.model_copy(update={"evaluation": later}), project)
    store = stores[0]
    trials = np.flatnonzero(table.of(store.name) >= 0).tolist()
    targets, predictions, precision = _series(project, store, trials, [TEACHER], slice(30, 55))
    expected = correlation(
        np.concatenate([t * precision for t in targets], 1), np.concatenate([p * precision for p in predictions], 1)
    )
    row = _row(pd.read_csv(project.evaluation / "scores.csv"), source=TEACHER, mouse=store.name, fold="all", tier="all")
    assert row["frames"] == 25 * len(trials)
    assert row["single_trial_correlation"] == pytest.approx(expected.mean(), abs=1e-5)


@pytest.fixture
def damaged(tiny_config, project, make_predictions, pretend_training):
    """Evaluates after a change to one prediction; returns the message."""
    pretend_training()
    make_predictions(TEACHER, "folds", seed=1)
    folder = make_predictions(STUDENT, "folds", seed=2) / NEW_MOUSE
    path = min(folder.glob("*.npy"))

    def evaluate_after(change):
        change(path)
        with pytest.raises(PredictionError) as caught:
            evaluate.run(tiny_config, project)
        assert not project.evaluation.exists()
        assert str(path) in str(caught.value)
        return str(caught.value)

    return evaluate_after


def test_a_missing_prediction(damaged):
    assert "missing" in damaged(lambda path: path.unlink())


def test_a_prediction_of_another_mouse(damaged, project):
    other = min((project.predictions(STUDENT, "folds") / OLD_MOUSE).glob("*.npy"))
    assert "has 8 neurons" in damaged(lambda path: path.write_bytes(other.read_bytes()))


def test_a_prediction_with_nan(damaged):
    def spoil(path):
        array = np.load(path)
        array[3, 5:7] = np.nan
        np.save(path, array)

    assert "2 values are NaN" in damaged(spoil)


def test_a_prediction_with_a_flipped_bit(damaged):
    def spoil(path):
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(bytes(content))

    assert "changed since it was predicted, or damaged" in damaged(spoil)


def test_a_prediction_of_another_type(damaged):
    assert "float64 instead of float32" in damaged(lambda path: np.save(path, np.load(path).astype(float)))


def test_a_truncated_prediction(damaged):
    assert "not a readable" in damaged(lambda path: path.write_bytes(path.read_bytes()[:200]))


def test_a_fold_that_is_not_trained(evaluated, tiny_config, project):
    (project.fold(STUDENT, 1) / "history.csv").unlink()
    project.fold(STUDENT, 1).rmdir()
    with pytest.raises(CheckpointError, match="dvc repro train@distillation_001-1"):
        evaluate.run(tiny_config, project)


def test_no_predictions_at_all(tiny_config, project):
    with pytest.raises(PredictionError, match="there are no predictions"):
        evaluate.run(tiny_config, project)
