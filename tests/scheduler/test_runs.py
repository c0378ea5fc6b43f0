"""Whole runs on small graphs: what runs, what is recorded, what is said."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from toy_project import diamond, meet, stage

from sensorium.errors import ConfigError, PipelineError
from sensorium.scheduler.processes import FAILED


def test_the_result_equals_a_serial_run_bit_for_bit(project):
    parallel = project(diamond(left="sleep 0.5"))
    serial = parallel.twin()
    serial.serial()
    parallel.run(jobs=4)
    assert parallel.lock() == serial.lock()
    for name in ("one", "two", "three", "four"):
        assert parallel.path(name).read_bytes() == serial.path(name).read_bytes()
    assert parallel.clean()


def test_stages_that_do_not_need_each_other_run_at_the_same_time(project):
    toy = project(diamond(left=meet("left", "right"), right=meet("right", "left")))
    toy.run(jobs=2)
    assert toy.path("four").read_text() == "1\n2\n1\n3\n"


def test_one_job_runs_one_stage_at_a_time(project):
    alone = "mkdir busy && sleep 0.1 && rmdir busy"
    toy = project(diamond(left=alone, right=alone))
    toy.run(jobs=1, retries=0)
    assert toy.clean()


def test_a_second_run_does_nothing(project, capsys):
    count = "echo x >> count"
    toy = project(diamond(count, count, count, count))
    toy.run(jobs=2)
    before = toy.lock()
    capsys.readouterr()
    toy.run(jobs=2)
    assert toy.path("count").read_text() == "x\n" * 4
    assert toy.lock() == before
    assert capsys.readouterr().out.startswith("4 stages: 0 ran, 4 unchanged")


def test_only_what_changed_runs_again(project):
    count = "echo {} >> count"
    toy = project(diamond(*(count.format(name) for name in ("first", "left", "right", "last"))))
    toy.run(jobs=2)
    toy.path("count").unlink()
    toy.path("three").unlink()
    stages = diamond(*(count.format(name) for name in ("first", "LEFT", "right", "last")))
    toy.write(stages)
    toy.run(jobs=2)
    assert toy.path("count").read_text() == "LEFT\n"  # right is restored from the cache, last sees the same inputs
    assert toy.clean()


def test_targets_bring_what_they_need_and_no_more(project):
    toy = project(diamond())
    toy.run("left", jobs=2)
    assert toy.recorded() == ["first", "left"]
    assert not toy.path("three").exists()


def test_a_group_of_stages_is_a_target(project):
    fold = {"foreach": [0, 1, 2], "do": stage("echo ${item} > fold${item}", outs=["fold${item}"])}
    toy = project({"fold": fold, "other": stage("echo > other", outs=["other"])})
    toy.run("fold", jobs=2)
    assert toy.recorded() == ["fold@0", "fold@1", "fold@2"]


def test_new_stages_are_recorded_after_old_ones_as_serially(project):
    toy = project({"zebra": stage("echo z > z", outs=["z"])})
    serial = toy.twin()
    for each in (toy, serial):
        each.serial()
        each.write(diamond(left="sleep 0.4") | {"zebra": stage("echo z > z", outs=["z"])})
    serial.serial()
    toy.run(jobs=4)
    assert toy.lock() == serial.lock()
    assert toy.recorded()[0] == "zebra"


def test_a_failure_lets_the_running_stages_end_and_names_the_log(project, capsys):
    toy = project(diamond(left=meet("left", "right") + "; echo broken lens >&2; exit 3", right=meet("right", "left")))
    with pytest.raises(PipelineError) as fault:
        toy.run(jobs=2, retries=0)
    assert "1 of 4 stages failed, 1 were not run: left." in fault.value.problem
    assert "logs/left.log" in fault.value.remedy
    assert "| broken lens" in capsys.readouterr().out
    assert toy.recorded() == ["first", "right"]
    toy.write(diamond(right=meet("right", "left")))
    toy.run(jobs=2)
    assert toy.clean()


def test_without_keep_going_nothing_more_starts(project):
    toy = project({"bad": stage("exit 1", outs=["x"]), "other": stage("echo > y", outs=["y"])})
    with pytest.raises(PipelineError, match="1 of 2 stages failed, 1 were not run: bad"):
        toy.run(jobs=1, retries=0)
    assert not toy.path("y").exists()


def test_keep_going_finishes_the_other_branches(project):
    toy = project(diamond(left="exit 1") | {"tail": stage("cat three > five", ["three"], ["five"])})
    with pytest.raises(PipelineError, match="1 of 5 stages failed, 1 were not run: left"):
        toy.run(jobs=1, retries=0, keep_going=True)
    assert toy.recorded() == ["first", "right", "tail"]


def test_a_stage_that_fails_once_is_run_again(project, capsys):
    toy = project(diamond(left="echo try >> tries; [ $(wc -l < tries) = 2 ]"))
    toy.run(jobs=2, retries=1)
    assert toy.clean()
    assert "left: failed after" in (said := capsys.readouterr().out)
    assert "attempt 2 of 2 follows" in said
    assert toy.log("left").count("Running stage 'left'") == 2


def test_an_unknown_target_is_named_with_its_neighbours(project):
    toy = project(diamond())
    with pytest.raises(ConfigError) as fault:
        toy.run("lefft")
    assert "target 'lefft'" in fault.value.problem
    assert "left" in fault.value.remedy
    assert not toy.path("one").exists()


def test_a_broken_pipeline_file_is_the_users_to_mend(project):
    toy = project(diamond())
    toy.path("dvc.yaml").write_text("stages: [")
    with pytest.raises(PipelineError, match=r"dvc\.yaml"):
        toy.run()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jobs": 0}, "--jobs 0"),
        ({"retries": -1}, "--retries -1"),
        ({"executor": "cloud"}, "--executor 'cloud'"),
        ({"gpus": "7"}, "no GPU '7' on this machine"),
        ({"gpus": "0,0"}, "name each GPU once"),
        ({"gpus": "0,1", "jobs": 3}, "--jobs 3: more than the 2 GPUs"),
    ],
)
def test_a_bad_option_is_refused_before_anything_runs(project, two_gpus, options, words):
    toy = project(diamond())
    with pytest.raises(ConfigError, match=words):
        toy.run(**options)
    assert not toy.path("one").exists()


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    script = tmp_path / "bin" / "nvidia-smi"
    script.parent.mkdir()
    lines = [f"GPU {i}: NVIDIA H200 (UUID: GPU-0000000{i}-aaaa-bbbb-cccc-dddddddddddd)" for i in range(2)]
    script.write_text("#!/bin/sh\ncat <<END\n" + "\n".join(lines) + "\nEND\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")


def test_stages_that_run_together_see_different_gpus(project, two_gpus):
    show = " && echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER > {0}.gpu"
    commands = [meet("left", "right") + show.format("left"), meet("right", "left") + show.format("right")]
    toy = project(diamond(left=commands[0], right=commands[1]))
    toy.run(gpus="0,1")
    seen = {toy.path(f"{name}.gpu").read_text() for name in ("left", "right")}
    assert seen == {"0 PCI_BUS_ID\n", "1 PCI_BUS_ID\n"}


def test_without_a_driver_no_gpu_is_known(project, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="no GPU '0'") as fault:
        project(diamond()).run(gpus="0")
    assert "none" in fault.value.remedy


def test_stages_find_the_projects_programs_and_no_foreign_mlflow_run(project, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("MLFLOW_RUN_ID", "of whoever called")
    toy = project(diamond(first="command -v sensorium > where; echo [$MLFLOW_RUN_ID] $SHELL >> where"))
    toy.run(retries=0)
    program, rest = toy.path("where").read_text().splitlines()
    assert Path(program).parent == Path(sys.executable).parent
    assert rest == f"[] {os.environ.get('SHELL') or '/bin/sh'}"


def configure(toy, **remotes):
    with Repo(str(toy.root)) as repo, repo.config.edit() as config:
        config["core"]["remote"] = next(iter(remotes))
        config["remote"] = {name: {"url": str(url)} for name, url in remotes.items()}


def missing_on_remote(toy):
    with Repo(str(toy.root)) as repo:
        return repo.status(cloud=True)


def test_each_finished_stage_is_pushed(project, tmp_path):
    toy = project(diamond(last="exit 1"))
    configure(toy, store=tmp_path / "remote")
    with pytest.raises(PipelineError, match="failed"):
        toy.run(jobs=2, retries=0, push=True)
    pushed = [file for file in (tmp_path / "remote").rglob("*") if file.is_file()]
    assert len(pushed) == 3
    toy.write(diamond())
    toy.run(jobs=2, push=True)
    assert missing_on_remote(toy) == {}


def test_nothing_is_pushed_into_the_repository_itself(project):
    toy = project(diamond())
    with Repo(str(toy.root)) as repo, repo.config.edit() as config:
        config["remote"]["embedded"] = {"url": str(toy.path("weights"))}
        config["core"]["remote"] = "embedded"
    with pytest.raises(ConfigError, match="is a folder of this repository"):
        toy.run(jobs=2, push=True)
    assert not toy.path("one").exists()
    assert not toy.path("weights").exists()


def test_stages_of_an_earlier_run_are_pushed_too(project, tmp_path):
    toy = project(diamond())
    configure(toy, default=tmp_path / "default", other=tmp_path / "other")
    toy.run(jobs=2)
    toy.run(jobs=2, push=True, remote="other")
    assert not (tmp_path / "default").exists()
    assert len([file for file in (tmp_path / "other").rglob("*") if file.is_file()]) == 4


def test_a_push_that_fails_costs_no_result_and_is_named(project, tmp_path):
    (tmp_path / "file").write_text("in the way")
    toy = project(diamond())
    configure(toy, broken=tmp_path / "file" / "below")
    with pytest.raises(PipelineError) as fault:
        toy.run(jobs=2, push=True)
    assert "All stages are done, but some were not pushed" in fault.value.problem
    assert "dvc push " in fault.value.remedy
    assert toy.clean()


def test_the_log_of_a_push_holds_no_password(project):
    toy = project(diamond())
    call = [sys.executable, "-m", "sensorium.scheduler.stage", "push", "https://me:hidden@host", "x"]
    done = subprocess.run(call, cwd=toy.root, capture_output=True, text=True, check=False)
    assert done.returncode == FAILED
    assert "https://me:***@host" in done.stderr
    assert "hidden" not in done.stderr


def test_the_record_holds_what_dvc_would_write(project):
    foreach = {"foreach": {"a": 1, "b": 2}, "do": stage("echo ${item} > ${key}", outs=["${key}"], params=["seed"])}
    toy = project({"each": foreach, "folder": stage("mkdir f; echo 1 > f/1; echo 2 > f/2", outs=["f"])})
    serial = toy.twin()
    serial.serial()
    toy.run(jobs=3)
    assert toy.lock() == serial.lock()
    assert yaml.safe_load(toy.lock())["schema"] == "2.0"
