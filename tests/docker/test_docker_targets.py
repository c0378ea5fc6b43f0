"""The Makefile's Docker targets, with a stand-in for `docker` that notes how it was called."""

import json
import os
import subprocess
import sys

import pytest
from compose_file import ROOT

STAND_IN = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(sys.argv[1] in os.environ["FAILING"].split())
"""


@pytest.fixture
def make(tmp_path):
    """Run make in the repository; returns what it said and how `docker` was called."""
    docker, calls = tmp_path / "docker", tmp_path / "calls"
    docker.write_text(STAND_IN)
    docker.chmod(0o755)

    def run(*arguments, failing="", expect=0):
        calls.write_text("")
        done = subprocess.run(
            ["make", "--no-print-directory", f"DOCKER={docker}", *arguments],
            cwd=ROOT,
            env=os.environ | {"CALLS": str(calls), "FAILING": failing},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == expect, done.stdout
        return done.stdout, [json.loads(line) for line in calls.read_text().splitlines()]

    return run


def flag(call, name):
    """The word after `name` in a call, None when it is not there."""
    return call[call.index(name) + 1] if name in call else None


def test_plain_make_stops_builds_and_runs(make):
    _, calls = make()
    assert [call[0] for call in calls] == ["info", "stop", "build", "run"]
    assert flag(calls[2], "--file") == "docker/Dockerfile"
    assert flag(calls[2], "--target") == "trainer"
    assert flag(calls[3], "--gpus") == "all"
    assert flag(calls[3], "--volume") == f"{ROOT}:/app"
    assert calls[3][-2:] == ["sensorium", "bash"]


def test_plain_make_without_an_engine_lists_the_targets(make):
    said, calls = make(failing="info")
    assert [call[0] for call in calls] == ["info"]
    assert "No Docker engine answers" in said
    assert "demo " in said


@pytest.mark.parametrize(
    ("given", "wanted"), [("all", "all"), ("2", "2"), ('"device=1,2"', '"device=1,2"'), ("none", None)]
)
def test_gpus_as_todays_users_write_them(make, given, wanted):
    _, (call,) = make("run", f"GPUS={given}")
    assert flag(call, "--gpus") == wanted


def test_command_of_run_and_exec(make):
    _, (call,) = make("run", "COMMAND=dvc repro -f")
    assert call[-4:] == ["sensorium", "dvc", "repro", "-f"]
    _, (call,) = make("exec", "COMMAND=nvidia-smi -L")
    assert call[0] == "exec"
    assert call[-3:] == ["sensorium", "nvidia-smi", "-L"]
    _, (call,) = make("exec")
    assert call[-2:] == ["sensorium", "bash"]


def test_container_that_does_not_start_says_what_to_try(make):
    said, _ = make("run", failing="run", expect=2)
    assert "make run GPUS=none" in said


def test_stopping_what_does_not_run_is_no_error(make):
    _, (call,) = make("stop", failing="stop")
    assert call == ["stop", "sensorium"]


def test_logs_and_attach(make):
    assert make("logs")[1] == [["logs", "--follow", "sensorium"]]
    assert make("attach")[1] == [["attach", "sensorium"]]


def test_base_image_and_index_are_build_arguments(make):
    _, (call,) = make("build", "BASE=debian:13", "PIP_EXTRA_INDEX_URL=https://example.org/cpu")
    assert "BASE=debian:13" in call
    assert "PIP_EXTRA_INDEX_URL=https://example.org/cpu" in call


def test_services(make, tmp_path):
    secrets = f"ENV_FILE={tmp_path / 'env'}"
    _, (call,) = make("services", secrets)
    assert call[:3] == ["compose", "--file", "docker/compose.yaml"]
    assert flag(call, "--env-file") == str(tmp_path / "env")
    assert (tmp_path / "env").exists()
    assert call[-4:] == ["up", "--detach", "--build", "--wait"]
    _, (call,) = make("services-run", secrets, "COMMAND=dvc repro", 'GPUS="device=1,2"')
    assert "docker/compose.gpu.yaml" in call
    assert flag(call, "--env") == "CUDA_VISIBLE_DEVICES=1,2"
    assert call[-3:] == ["trainer", "dvc", "repro"]
    _, (call,) = make("services-run", secrets, "GPUS=none")
    assert "docker/compose.gpu.yaml" not in call
    _, (call,) = make("services-stop", secrets)
    assert call[-1] == "down"
