"""The decisions of a run, without any process."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.scheduler.tasks import FINAL, Scheduler, State

DIAMOND = {"first": [], "left": ["first"], "right": ["first"], "last": ["left", "right"]}


def names(scheduler):
    return [task.name for task in scheduler.start()]


def states(scheduler):
    return {name: task.state.value for name, task in scheduler.tasks.items()}


def test_a_stage_waits_for_all_it_needs():
    scheduler = Scheduler(DIAMOND, jobs=4)
    assert names(scheduler) == ["first"]
    assert names(scheduler) == []
    scheduler.finish("first", True)
    assert names(scheduler) == ["left", "right"]
    scheduler.finish("right", True)
    assert names(scheduler) == []
    scheduler.finish("left", True, changed=False)
    assert names(scheduler) == ["last"]
    scheduler.finish("last", True)
    assert scheduler.finished
    assert states(scheduler) == {"first": "done", "left": "unchanged", "right": "done", "last": "done"}


def test_the_longest_chain_goes_first():
    scheduler = Scheduler({"short": [], "long": [], "middle": ["long"], "end": ["middle"]}, jobs=1)
    assert names(scheduler) == ["long"]


def test_no_more_run_than_jobs():
    scheduler = Scheduler({str(i): [] for i in range(9)}, jobs=3)
    assert names(scheduler) == ["0", "1", "2"]
    scheduler.finish("1", True)
    assert names(scheduler) == ["3"]


def test_each_running_stage_has_a_gpu_of_its_own():
    scheduler = Scheduler({str(i): [] for i in range(4)}, jobs=2, gpus=["2", "3"])
    first, second = scheduler.start()
    assert {first.gpu, second.gpu} == {"2", "3"}
    scheduler.finish(second.name, False)
    (third,) = Scheduler({"a": []}, jobs=1, gpus=["2", "3"]).start()
    assert third.gpu == "2"


def test_a_failed_stage_is_run_again_until_its_retries_are_spent():
    scheduler = Scheduler({"a": [], "b": ["a"]}, retries=2)
    for expected in (State.WAITING, State.WAITING, State.FAILED):
        assert names(scheduler) == ["a"]
        assert scheduler.finish("a", False) is expected
    assert states(scheduler) == {"a": "failed", "b": "skipped"}
    assert scheduler.tasks["a"].attempts == 3


def test_a_failure_stops_what_has_not_started():
    scheduler = Scheduler({"bad": [], "good": [], "other": []}, jobs=2)
    assert names(scheduler) == ["bad", "good"]
    scheduler.finish("bad", False)
    assert names(scheduler) == []
    assert not scheduler.finished
    scheduler.finish("good", True)
    assert scheduler.finished
    assert states(scheduler) == {"bad": "failed", "good": "done", "other": "skipped"}


def test_keep_going_skips_only_dependents():
    scheduler = Scheduler(DIAMOND | {"alone": []}, jobs=1, keep_going=True)
    for name, good in (("first", True), ("left", False), ("right", True), ("alone", True)):
        assert names(scheduler) == [name]
        scheduler.finish(name, good)
    assert scheduler.finished
    assert states(scheduler)["last"] == "skipped"


def test_after_stop_nothing_starts_and_nothing_is_retried():
    scheduler = Scheduler({"a": [], "b": []}, jobs=1, retries=5)
    assert names(scheduler) == ["a"]
    scheduler.stop()
    assert scheduler.finish("a", False) is State.FAILED
    assert names(scheduler) == []
    assert scheduler.finished


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 2), st.booleans(), st.booleans())
def test_any_graph_ends_and_keeps_the_rules(seed, jobs, retries, keep_going, leased):
    chance = random.Random(seed)
    graph = {str(i): [str(j) for j in range(i) if chance.random() < 0.3] for i in range(chance.randrange(12))}
    gpus = [f"gpu{i}" for i in range(jobs + 1)] if leased else []
    scheduler = Scheduler(graph, jobs, gpus, retries, keep_going)
    running = {}
    while not scheduler.finished:
        for task in scheduler.start():
            assert all(scheduler.tasks[need].state in (State.DONE, State.UNCHANGED) for need in graph[task.name])
            running[task.name] = task.gpu
        assert 0 < len(running) <= jobs
        if leased:
            assert len(set(running.values())) == len(running)
            assert set(running.values()) <= set(gpus)
        name = chance.choice(sorted(running))
        del running[name]
        scheduler.finish(name, chance.random() < 0.7, chance.random() < 0.5)
    assert all(task.state in FINAL and task.attempts <= retries + 1 for task in scheduler.tasks.values())
    bad = {name for name, task in scheduler.tasks.items() if task.state is State.FAILED}
    if keep_going:
        for name, needs in graph.items():
            lost = any(scheduler.tasks[need].state in (State.FAILED, State.SKIPPED) for need in needs)
            assert (scheduler.tasks[name].state is State.SKIPPED) == lost
    elif not bad:
        assert scheduler.count(State.SKIPPED) == 0
