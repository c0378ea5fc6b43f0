"""A study gives the same trials whoever works on it, and however often they are killed."""

import random
import signal

import pytest
from optuna.trial import TrialState
from sweep_runs import count, facts, make_plan, pretend, start

from sensorium.errors import ConfigError
from sensorium.sweep.journal import Journal
from sensorium.sweep.study import Sweep


def end(process):
    process.join()
    return process.exitcode


@pytest.mark.parametrize(
    "space",
    [
        {},
        {"pruner": "hyperband"},
        pytest.param({"sampler": "gp", "pruner": "none"}, marks=pytest.mark.slow),
        pytest.param({"sampler": "cmaes"}, marks=pytest.mark.slow),
        pytest.param({"sampler": "random"}, marks=pytest.mark.slow),
    ],
    ids=["tpe", "hyperband", "gp", "cmaes", "random"],
)
def test_a_killed_sweep_gives_the_trials_of_an_undisturbed_one(tmp_path, space):
    whole = make_plan(tmp_path / "whole", **space)
    assert end(start(pretend, whole)) == 0
    killed = make_plan(tmp_path / "killed", **space)
    moments, kills = random.Random(5), 0
    while end(process := start(pretend, killed, kill=moments.randint(2, 14))) != 0:
        assert process.exitcode == -signal.SIGKILL, (killed.folder / "stderr.txt").read_text()
        kills += 1
    assert kills >= 3
    assert facts(Sweep(killed)) == facts(Sweep(whole))
    assert len(Sweep(killed).trials()) == 8


def test_trials_are_pruned_and_their_state_removed(tmp_path):
    plan = make_plan(tmp_path)
    pretend(plan)
    sweep = Sweep(plan)
    assert count(sweep, TrialState.PRUNED) >= 2
    assert count(sweep, TrialState.COMPLETE) >= 2
    assert all(len(trial.intermediate_values) > 1 for trial in sweep.trials()), "the warm-up is not judged"
    assert sweep.is_over()


def test_more_trials_go_on_from_those_that_are_over(tmp_path):
    pretend(make_plan(tmp_path / "grown", trials=5))
    pretend(make_plan(tmp_path / "grown", trials=8))
    pretend(make_plan(tmp_path / "whole", trials=8))
    assert facts(Sweep(make_plan(tmp_path / "grown"))) == facts(Sweep(make_plan(tmp_path / "whole")))


def test_three_processes_share_a_study(tmp_path):
    plan = make_plan(tmp_path, trials=12, pruner="none")
    processes = [start(pretend, plan, pause=0.02) for _ in range(3)]
    assert [end(process) for process in processes] == [0, 0, 0]
    begun = [int(line) for line in (tmp_path / "begun.txt").read_text().split()]
    assert sorted(begun) == list(range(12)), "each trial was begun once"
    assert len({str(trial.params) for trial in Sweep(plan).trials()}) == 12


def test_the_trial_of_a_dead_process_is_taken_over_by_a_living_one(tmp_path):
    plan = make_plan(tmp_path, trials=6, pruner="none")
    doomed, living = start(pretend, plan, kill=4, pause=0.05), start(pretend, plan, pause=0.05)
    assert end(doomed) == -signal.SIGKILL
    assert end(living) == 0
    assert count(Sweep(plan), TrialState.COMPLETE) == 6


def test_a_grid_has_as_many_trials_as_combinations(tmp_path):
    parameters = {"training.ema_decay": {"choices": [0.9, 0.99]}, "model.expansion": {"low": 2, "high": 4}}
    plan = make_plan(tmp_path, trials=20, sampler="grid", parameters=parameters)
    pretend(plan)
    tried = {tuple(trial.params.values()) for trial in Sweep(plan).trials()}
    assert tried == {(decay, expansion) for decay in (0.9, 0.99) for expansion in (2, 3, 4)}
    assert len(Sweep(plan).trials()) == 6


def test_another_search_under_the_same_name_is_refused(tmp_path):
    Sweep(make_plan(tmp_path))
    other = make_plan(tmp_path)
    object.__setattr__(other, "identity", {"settings": "others"})
    with pytest.raises(ConfigError, match="sweep toy: was begun with another settings"):
        Sweep(other)


def fail_halfway(journal):
    with journal.together():
        journal.append_logs([{"d": 4}])
        assert list(journal.read_logs(1)) == [{"c": 3}, {"d": 4}]
        raise RuntimeError


def test_a_torn_line_is_cut_off_and_a_failed_group_leaves_no_trace(tmp_path):
    journal = Journal(tmp_path / "study.jsonl")
    journal.append_logs([{"a": 1}])
    with (tmp_path / "study.jsonl").open("a") as stream:
        stream.write('{"b": ')
    journal.append_logs([{"c": 3}])
    with pytest.raises(RuntimeError):
        fail_halfway(journal)
    assert list(Journal(tmp_path / "study.jsonl").read_logs(0)) == [{"a": 1}, {"c": 3}]
