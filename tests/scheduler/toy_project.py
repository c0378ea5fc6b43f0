"""Small DVC projects whose stages are shell commands."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml
from dvc.repo import Repo

from sensorium.commands import run as command
from sensorium.paths import Paths

TIMEOUT = 60.0
"""Seconds after which a test gives up waiting."""


def wait_until(condition, what="the condition", seconds=TIMEOUT):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)


class Project:
    """A DVC repository without git in a folder."""

    def __init__(self, root, stages):
        self.root = root
        root.mkdir(parents=True)
        (root / "params.yaml").write_text("seed: 0\n")
        with Repo.init(root, no_scm=True):
            pass
        self.write(stages)

    def write(self, stages):
        (self.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))

    def twin(self):
        """The project as it was made, elsewhere, for a serial run."""
        other = Project(self.root.with_name(self.root.name + "-serial"), {})
        shutil.copy(self.root / "dvc.yaml", other.root)
        return other

    def serial(self, *targets):
        with contextlib.chdir(self.root), Repo(str(self.root)) as repo:
            return [stage.addressing for stage in repo.reproduce(list(targets) or None)]

    def run(self, *targets, **options):
        command.run(Paths(self.root), list(targets), **options)

    def start(self, *arguments, **environment):
        """`sensorium run` in a process of its own."""
        return subprocess.Popen(
            [Path(sys.executable).with_name("sensorium"), "run", *arguments],
            cwd=self.root,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def lock(self):
        return (self.root / "dvc.lock").read_bytes()

    def recorded(self):
        return list(yaml.safe_load(self.lock())["stages"]) if (self.root / "dvc.lock").exists() else []

    def clean(self):
        with Repo(str(self.root)) as repo:
            return repo.status() == {}

    def path(self, name):
        return self.root / name

    def log(self, name):
        return (self.root / ".sensorium/scheduler/logs" / f"{name}.log").read_text()


def stage(command, deps=(), outs=(), **more):
    entry = {"cmd": command, "outs": list(outs), **more}
    return {**entry, "deps": list(deps)} if deps else entry


def diamond(first="true", left="true", right="true", last="true"):
    """Four stages; each may run a command before it writes its output."""
    return {
        "first": stage(f"({first}) && echo 1 > one", outs=["one"]),
        "left": stage(f"({left}) && cat one > two && echo 2 >> two", ["one"], ["two"]),
        "right": stage(f"({right}) && cat one > three && echo 3 >> three", ["one"], ["three"]),
        "last": stage(f"({last}) && cat two three > four", ["two", "three"], ["four"]),
    }


def meet(mine, theirs):
    """A command that ends only when another stage runs at the same time."""
    wait = f"while [ ! -e {theirs}.here ]; do n=$((n+1)); [ $n -lt 600 ] || exit 9; sleep 0.05; done"
    return f"touch {mine}.here; n=0; {wait}"


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
