"""Runs on a real Ray cluster on this machine: a head without work of its own, and two nodes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from tiny import ROOT, tiny_tree
from toy_project import Project, alive, diamond, meet, wait_until

from sensorium.errors import ConfigError, PipelineError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENT = {"RAY_agent_register_timeout_ms": "120000", "RAY_raylet_start_wait_time_s": "120"}
"""Ray's own limits are short for a machine that is busy with other tests."""


class Cluster:
    """Processes of one Ray cluster on the loopback."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}"]
        self._start(*head, "--disable-usage-stats")
        self.nodes = [self.add_node(), self.add_node()]

    def add_node(self):
        before = self._raylets()
        self._start(f"--address={self.address}", "--num-cpus=2")
        (node,) = self._raylets() - before
        return node

    def _start(self, *options):
        program = Path(sys.executable).with_name("ray")
        call = [program, "start", "--node-ip-address=127.0.0.1", *options]
        done = subprocess.run(call, capture_output=True, text=True, timeout=240, env={**os.environ, **PATIENT})
        assert done.returncode == 0, done.stdout + done.stderr

    def _raylets(self):
        return {process.pid for process in self._members() if process.name() == "raylet"}

    def _members(self):
        """This cluster's processes, known by its folder: other clusters are left alone."""
        found = psutil.process_iter(["cmdline"])
        return [process for process in found if any(str(self.folder) in word for word in process.info["cmdline"] or ())]

    def kill(self, node):
        """Kill a node as a power cut would, and start another in its place."""
        os.kill(node, signal.SIGKILL)
        self.nodes[self.nodes.index(node)] = self.add_node()

    def stop(self):
        for process in self._members():
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster():
    started = Cluster(Path("/tmp", f"ray-{os.getpid()}"))  # short, for the names of the sockets in it
    yield started
    started.stop()


@pytest.fixture
def on_ray(cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return cluster


def node_of(pid):
    return next(parent.pid for parent in psutil.Process(pid).parents() if parent.name() == "raylet")


def hang_once(command):
    return f"if [ ! -e started ]; then {command}; fi"


def hanging(toy):
    wait_until(toy.path("started").exists, "the stage to start")
    wait_until(lambda: toy.path("pid").read_text().strip(), "its process id")
    return int(toy.path("pid").read_text())


HANG = hang_once("echo $$ > pid; touch started; sleep 600 & wait")
SAVE = hang_once("trap 'echo yes > saved; exit 1' TERM; echo $$ > pid; touch started; sleep 600 & wait")


def test_a_run_on_two_nodes_equals_a_serial_one(on_ray, project):
    toy = project(diamond(left=meet("left", "right"), right=meet("right", "left")))
    serial = toy.twin()
    serial.path("left.here").touch()
    serial.path("right.here").touch()
    serial.serial()
    toy.run(jobs=2, executor="ray", retries=0)
    assert toy.lock() == serial.lock()
    assert toy.clean()


def test_a_stage_on_a_dead_node_is_run_again_elsewhere(on_ray, project, processes):
    toy = project(diamond(left=HANG))
    run = toy.start("-j", "2", "--executor", "ray")
    processes.append(run)
    pid = hanging(toy)
    node = node_of(pid)
    assert node in on_ray.nodes
    on_ray.kill(node)
    output, _ = run.communicate()
    assert run.returncode == 0, output
    assert "attempt 2 of 2 follows" in output
    assert not alive(pid)
    serial = toy.twin()
    serial.path("started").touch()
    serial.serial()
    assert toy.lock() == serial.lock()


TRAININGS = [f"train@true_batch_001-{fold}" for fold in range(3)]


class Trainings(Project):
    """The project itself on tiny mice, with trainings long enough to be killed in their midst."""

    def __init__(self, root):
        super().__init__(root, {})
        shutil.copy(ROOT / "dvc.yaml", root)
        shutil.copy(ROOT / ".dvcignore", root)
        shutil.copytree(ROOT / "sensorium", root / "sensorium", ignore=shutil.ignore_patterns("__pycache__"))
        tree = tiny_tree()
        tree["experiments"]["true_batch_001"]["training"] |= {"samples_per_epoch": 360, "cosine_epochs": 2}
        (root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))

    def fold_at_work(self):
        """The stage and the process of a training that has saved a state in its second epoch."""
        folders = {state.parent for state in self.root.glob(".sensorium/train/**/000001-*.pt")}
        stages = {
            f"train@true_batch_001-{json.loads((folder / 'training.json').read_text())['fold']}" for folder in folders
        }
        for process in psutil.process_iter(["cmdline", "environ", "cwd"]):
            stage = (process.info["environ"] or {}).get("DVC_STAGE")
            if stage in stages and "train" in process.info["cmdline"] and process.info["cwd"] == str(self.root):
                return stage, process.pid
        return None

    def digests(self):
        """What dvc.lock records, but links to runs of MLflow and the order, which DVC draws for a group's stages."""
        stages = yaml.safe_load(self.lock())["stages"]
        for entry in stages.values():
            entry["outs"] = [out for out in entry["outs"] if not out["path"].startswith("data/runs/")]
        return stages


def test_a_fold_whose_node_dies_in_its_midst_ends_in_the_same_bits(on_ray, tmp_path, processes):
    toy, serial = Trainings(tmp_path / "parallel"), Trainings(tmp_path / "serial")
    one_thread = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(toy.root)}
    run = toy.start(*TRAININGS, "-j", "2", "--executor", "ray", **one_thread)
    processes.append(run)
    wait_until(lambda: toy.fold_at_work() or run.poll() is not None, "a fold in its second epoch", seconds=300)
    stage, pid = toy.fold_at_work()
    on_ray.kill(node_of(pid))
    output, _ = run.communicate()
    assert run.returncode == 0, output
    assert f"{stage}: failed after" in output
    assert "continues in epoch 2" in toy.log(stage)
    again = serial.start(*TRAININGS, "-j", "1", **{**one_thread, "PYTHONPATH": str(serial.root)})
    processes.append(again)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert toy.digests() == serial.digests()


def test_ctrl_c_lets_a_command_on_the_cluster_save_its_state(on_ray, project, processes):
    toy = project(diamond(left=SAVE))
    run = toy.start("-j", "2", "--executor", "ray")
    processes.append(run)
    pid = hanging(toy)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate()
    assert run.returncode == 130, output
    assert not alive(pid)
    assert toy.path("saved").exists()


def test_a_killed_run_leaves_nothing_on_the_cluster(on_ray, project, processes):
    toy = project(diamond(left=HANG))
    run = toy.start("-j", "2", "--executor", "ray")
    processes.append(run)
    pid = hanging(toy)
    run.kill()
    wait_until(lambda: not alive(pid), "the command to end")
    toy.run(jobs=2, executor="ray")
    assert toy.clean()


def test_a_failing_command_is_a_failed_stage(on_ray, project):
    toy = project(diamond(first="echo no lens >&2; exit 7"))
    with pytest.raises(PipelineError, match="1 of 4 stages failed, 3 were not run: first"):
        toy.run(executor="ray", retries=0)
    assert "no lens" in toy.log("first")
    assert "exited with 7" in toy.log("first")


def test_more_gpus_than_the_cluster_has_are_refused(on_ray, project):
    with pytest.raises(ConfigError, match="the Ray cluster has 0 GPUs"):
        project(diamond()).run(executor="ray", gpus_per_stage=1)


def test_a_dead_head_is_named_and_nothing_is_lost(on_ray, project, monkeypatch):
    toy = project(diamond())
    toy.run("left", executor="ray")
    before = toy.lock()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(PipelineError, match="Ray: no") as fault:
        toy.run(executor="ray")
    assert "RAY_ADDRESS" in fault.value.remedy
    assert toy.lock() == before
    monkeypatch.setenv("RAY_ADDRESS", on_ray.address)
    toy.run(executor="ray")
    assert toy.clean()


def test_workers_of_a_sweep_run_on_the_cluster(on_ray, tmp_path):
    """In a process of its own, as Ray starts threads: two commands that wait for each other, one of which fails."""
    code = (
        "import os; from pathlib import Path; from sensorium.scheduler import workers;"
        "from sensorium.scheduler.executors import make_executor; root = Path.cwd();"
        "meet = 'touch here.$N; until [ -e here.0 ] && [ -e here.1 ]; do sleep 0.1; done; echo met; exit $N';"
        "started = [workers.Worker(meet, {**os.environ, 'N': str(n)}, root / f'{n}.log') for n in range(2)];"
        "print(workers.run(make_executor('ray', 0), started, root, lambda: None))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.endswith("[0, 1]\n"), done.stdout + done.stderr
    assert "met" in (tmp_path / "0.log").read_text()
