"""Parallel runs beside a serial one: no failure, equal dvc.lock, and the overhead over the stages' own time.

    python benchmarks/parallel_stages.py [--jobs 4] [--runs 20] [--seconds 2]   stages that sleep, graph as dvc.yaml's
    python benchmarks/parallel_stages.py --real [--jobs 4] [--runs 20]          the stages themselves, in fresh clones

Overhead compares each run's wall time with the best that its own stages allow: the same schedule without DVC,
made of the times that the commands took. Outputs that hold the id of an MLflow run differ between any two
executions; they are left out of the comparison of the lock files.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from sensorium.repro.graph import read
from sensorium.repro.scheduler import Scheduler

PROJECT = Path(__file__).parents[1]
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
RUN_LINKS = "data/runs/"


def call(line, folder):
    environment = os.environ | {"PATH": PATH, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(line.split(), cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{line}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def clone(folder, _seconds):
    call(f"git clone --quiet {PROJECT} {folder}", PROJECT)


def sleepers(folder, seconds):
    """A repository with the project's graph, whose stages sleep and then write what they read."""
    folder.mkdir()
    call("git init --quiet", folder)
    call("dvc init --quiet", folder)
    (folder / "params.yaml").write_text("seed: 0\n")
    (folder / ".gitignore").write_text("/out\n/.sensorium\n")
    names = {name: f"out/{number}" for number, name in enumerate(read(PROJECT, []).upstream)}
    stages = {}
    for name, needs in read(PROJECT, []).upstream.items():
        deps = sorted(names[need] for need in needs)
        command = f"sleep {seconds} && mkdir -p out && cat {' '.join(deps) or 'params.yaml'} > {names[name]}"
        entry = {"cmd": f"{command} && echo {name} >> {names[name]}", "outs": [names[name]]}
        stages[name.replace("@", "-")] = entry | ({"deps": deps} if deps else {})
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def lock(folder):
    content = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    for entry in content.values():
        entry["outs"] = [out for out in entry.get("outs", []) if not out["path"].startswith(RUN_LINKS)]
    return list(content.items())


def command_times(folder):
    """Seconds that each stage's command took, from the logs."""
    times = {}
    for log in (folder / ".sensorium/repro/logs").iterdir():
        times[log.stem] = sum(map(float, re.findall(r"^The command took ([\d.]+) s", log.read_text(), re.MULTILINE)))
    return times


def ideal(folder, jobs, times):
    """Wall time of the same schedule when nothing but the commands takes time."""
    scheduler = Scheduler(read(folder, []).upstream, jobs)
    running, now = {}, 0.0
    while not scheduler.finished:
        for task in scheduler.start():
            running[task.name] = now + times[task.name]
        name = min(running, key=running.get)
        now = running.pop(name)
        scheduler.finish(name, True)
    return now


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args()
    make = clone if options.real else sleepers
    with tempfile.TemporaryDirectory() as scratch:
        serial = Path(scratch, "serial")
        make(serial, options.seconds)
        began = time.perf_counter()
        call("dvc repro", serial)
        print(f"serial: {time.perf_counter() - began:.1f} s, {len(lock(serial))} stages")
        for number in range(options.runs):
            folder = Path(scratch, f"run-{number}")
            make(folder, options.seconds)
            began = time.perf_counter()
            call(f"sensorium repro --jobs {options.jobs} --retries 0", folder)
            wall = time.perf_counter() - began
            best = ideal(folder, options.jobs, command_times(folder))
            same = "equal" if lock(folder) == lock(serial) else "DIFFERENT"
            print(f"run {number + 1}: {wall:.1f} s, overhead {wall / best - 1:.1%}, dvc.lock {same}", flush=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
