"""The champion moves through the gate alone, one promotion at a time."""

import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sensorium.errors import TrackingError
from sensorium.evaluation.comparison import compare
from sensorium.registry import promotion
from sensorium.registry.manifest import PAIR, TEACHER
from sensorium.registry.promotion import promote, rollback
from sensorium.stages import register


def candidate(project, value, seed, spread=0.01):
    """Register another pair of models with its scores."""
    project.train("distillation_001", seed=seed)
    project.score(value, spread)
    register.run(project.config, project.paths)


@pytest.fixture
def first(trained):
    register.run(trained.config, trained.paths)
    return trained


def champion(project):
    return int(project.store.client().get_model_version_by_alias(PAIR, "champion").version)


def test_the_first_pair_needs_no_gate(first):
    done = promote(first.paths)
    assert (done.version, done.replaced, done.comparison) == (1, None, None)
    assert champion(first) == 1


def test_a_better_pair_replaces_the_champion_and_can_be_rolled_back(first):
    promote(first.paths)
    candidate(first, 0.35, seed=1)
    done = promote(first.paths)
    assert (done.version, done.replaced) == (2, 1)
    assert done.comparison.mean == pytest.approx(0.05)
    assert done.comparison.verdict == "better"
    assert champion(first) == 2
    gate = first.store.client().get_model_version(PAIR, "2").tags["sensorium.gate"]
    assert gate.startswith("+0.0500 (95% interval")
    undone = rollback(first.paths)
    assert (undone.version, undone.replaced) == (1, 2)
    assert champion(first) == 1
    with pytest.raises(TrackingError, match="version 1 is the first champion") as told:
        rollback(first.paths)
    assert "sensorium promote --version" in told.value.remedy


def test_rollback_before_the_first_promotion_names_promote(first):
    with pytest.raises(TrackingError, match="there is no champion yet") as told:
        rollback(first.paths)
    assert told.value.remedy == "Type `sensorium promote` to name one."


def test_a_worse_pair_is_refused_with_the_figures(first):
    promote(first.paths)
    candidate(first, 0.25, seed=1)
    with pytest.raises(TrackingError, match=r"version 2: out of fold -0\.0500 .*: worse than version 1") as told:
        promote(first.paths)
    assert "--margin" in told.value.remedy
    assert champion(first) == 1


def test_no_clear_difference_is_refused_unless_the_margin_allows_it(first):
    first.score(0.3, spread=0.0)
    register.run(first.config, first.paths)
    promote(first.paths)
    candidate(first, 0.301, seed=1, spread=0.02)
    with pytest.raises(TrackingError, match="no clear difference"):
        promote(first.paths)
    assert promote(first.paths, margin=0.1).version == 3


def test_promoting_the_champion_changes_nothing(first):
    promote(first.paths)
    done = promote(first.paths)
    assert done.version == done.replaced == 1


def test_an_older_pair_is_stale(first):
    candidate(first, 0.35, seed=1)
    promote(first.paths)
    with pytest.raises(TrackingError, match="version 1: stale") as told:
        promote(first.paths, version=1)
    assert "rollback" in told.value.remedy


def test_a_pin_is_stale_when_a_fold_was_trained_since(first):
    first.train("true_batch_001", seed=4)
    fold = first.paths.fold("true_batch_001", 0) / "config.json"
    fold.write_text(fold.read_text() + " ")
    with pytest.raises(TrackingError, match=r"stale, true_batch_001 fold_0 was trained again") as told:
        promote(first.paths)
    assert "dvc repro register" in told.value.remedy


def test_scores_on_other_data_are_not_compared(first):
    promote(first.paths)
    lock = "stages:\n  folds:\n    outs:\n    - {path: data/folds, md5: '1'}\n"
    (first.paths.root / "dvc.lock").write_text(lock)
    candidate(first, 0.4, seed=1)
    with pytest.raises(TrackingError, match=r"scored on other data .*: data/folds") as told:
        promote(first.paths)
    assert "--new-data" in told.value.remedy
    assert promote(first.paths, new_data=True).version == 2


@pytest.mark.parametrize("name", [PAIR, TEACHER])
def test_a_deleted_version_is_not_promoted(first, name):
    first.store.client().delete_model_version(name, "1")
    with pytest.raises(TrackingError, match=f"{name} version 1: not in the model registry"):
        promote(first.paths)


def test_a_damaged_pair_is_not_promoted(first):
    shutil.rmtree(first.paths.root / ".dvc" / "cache")
    with pytest.raises(TrackingError, match="neither in DVC's cache"):
        promote(first.paths)


def test_a_version_that_does_not_exist_is_refused(first):
    with pytest.raises(TrackingError, match=r"version 7: not in the model registry") as told:
        promote(first.paths, version=7)
    assert "Choose one of: 1" in told.value.remedy


def test_a_promotion_that_was_overtaken_is_told(first, monkeypatch):
    promote(first.paths)
    candidate(first, 0.35, seed=1)
    candidate(first, 0.4, seed=2)
    verify = promotion._verified_manifest

    def overtaken(catalog, pair):
        monkeypatch.setattr(promotion, "_verified_manifest", verify)
        promote(first.paths, version=3)
        return verify(catalog, pair)

    monkeypatch.setattr(promotion, "_verified_manifest", overtaken)
    with pytest.raises(TrackingError, match=r"another promotion was faster, the champion is now version 3"):
        promote(first.paths, version=2)
    assert champion(first) == 3


def test_the_lock_of_another_machine_is_respected_until_it_is_stale(first):
    client = first.store.client()
    client.create_registered_model("sensorium-pair-promotion", tags={"sensorium.until": str(time.time() + 60)})
    with pytest.raises(TrackingError, match="another promotion is at work"):
        promote(first.paths)
    client.set_registered_model_tag("sensorium-pair-promotion", "sensorium.until", str(time.time() - 1))
    assert promote(first.paths).version == 1
    assert [model.name for model in client.search_registered_models("name LIKE '%promotion'")] == []


@pytest.mark.slow
def test_promotions_at_once_leave_one_winner(first):
    promote(first.paths)
    for seed in (1, 2, 3):
        candidate(first, 0.3 + 0.05 * seed, seed=seed)
    commands = [[Path(sys.executable).parent / "sensorium", "promote", "--version", str(n)] for n in (2, 3, 4)]
    root = first.paths.root
    started = [
        subprocess.Popen(c, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands
    ]
    outputs = [process.communicate() for process in started]
    codes = Counter(process.returncode for process in started)
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0 or "another promotion" in errors or "stale" in errors, errors
        assert "Traceback" not in errors
    assert codes[0] >= 1
    winner = champion(first)
    assert winner in {2, 3, 4}
    assert first.store.client().get_model_version(PAIR, str(winner)).tags["sensorium.previous_champion"]


def test_the_interval_covers_what_it_should():
    """Mice differ by a constant of their own: the interval is wide, however many folds there are."""
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(40):
        effects = 0.1 + 0.1 * random.standard_normal(10)
        noise = 0.02 * random.standard_normal((10, 7))
        first = {f"m{m}": {str(f): 0.3 + effects[m] + noise[m, f] for f in range(7)} for m in range(10)}
        second = {f"m{m}": {str(f): 0.3 for f in range(7)} for m in range(10)}
        found = compare(first, second)
        hits += found.low <= 0.1 <= found.high
    assert 32 <= hits <= 40


def test_only_what_both_have_is_compared():
    first = {"a": {"0": 0.5, "1": 0.6}, "b": {"0": 0.1}}
    second = {"a": {"1": 0.5, "2": 0.9}, "c": {"0": 0.2}}
    found = compare(first, second)
    assert found.differences.index.tolist() == ["a"]
    assert found.differences.columns.tolist() == ["1"]
    assert found.mean == pytest.approx(0.1)
    assert compare({"a": {"0": 1.0}}, {"b": {"0": 1.0}}) is None


def test_the_pair_that_was_lost_is_not_served_by_the_alias(first, fresh_database):
    promote(first.paths)
    shutil.copyfile(fresh_database, first.paths.root / "mlflow.db")
    with pytest.raises(TrackingError, match="not in the model registry"):
        promote(first.paths)
