"""Parallel runs beside a serial one: no failure, equal dvc.lock, and the overhead over the stages' own time.

    python benchmarks/parallel_stages.py [--jobs 4] [--runs 20] [--seconds 2]   stages that sleep, graph as dvc.yaml's
    python benchmarks/parallel_stages.py --real [--jobs 4] [--runs 20]          the stages themselves, in fresh clones
    python benchmarks/parallel_stages.py --real --short                         the same, all of it small

A stage's own time is what its command took. Overhead is the wall time over the best that these times allow: the sum
of them for the serial `dvc repro`, and for a parallel run the same schedule with nothing between the commands, both
with the times of that very run. dvc.lock holds the digest of every output, so equal files are equal outputs, bit for
bit; links to MLflow runs differ between any two executions and are left out.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from sensorium.scheduler.graph import read
from sensorium.scheduler.tasks import Scheduler

PROJECT = Path(__file__).parents[1]
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
RUN_LINKS = "data/runs/"

CLOCK = """#!/bin/sh
began=$(date +%s.%N)
/bin/sh "$@"
code=$?
echo "$DVC_STAGE $began $(date +%s.%N)" >> {times}
exit $code
"""
"""Stands in for the user's shell in the serial run, to note how long each command takes."""


def call(line, folder, **variables):
    environment = os.environ | {"PATH": PATH, "DVC_NO_ANALYTICS": "1"} | variables
    done = subprocess.run(line.split(), cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{line}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def clone(folder, options):
    call(f"git clone --quiet {PROJECT} {folder}", PROJECT)
    if options.short:
        path = folder / "params.yaml"
        content = yaml.safe_load(path.read_text())
        content["synthetic"] |= {"repeated_trials": 1, "padded_frames": 108, "valid_frames": [99, 105]}
        content["evaluation"] |= {"first_frame": 50, "frames": 49}
        for experiment in content["experiments"].values():
            experiment["training"] |= {"samples_per_epoch": 24, "warmup_epochs": 1, "cosine_epochs": 1}
            experiment["model"] |= {"features": [4, 4, 8], "cortex_features": [8, 16]}
        path.write_text(yaml.safe_dump(content, sort_keys=False))


def sleepers(folder, options):
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
        command = f"sleep {options.seconds} && mkdir -p out && cat {' '.join(deps) or 'params.yaml'} > {names[name]}"
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
    for log in (folder / ".sensorium/scheduler/logs").iterdir():
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


def serial_run(folder):
    """Wall time, and the sum of the commands' times, of `dvc repro`."""
    times = folder.with_name("times")
    shell = folder.with_name("clock")
    shell.write_text(CLOCK.format(times=times))
    shell.chmod(0o755)
    began = time.perf_counter()
    call("dvc repro", folder, SHELL=str(shell))
    wall = time.perf_counter() - began
    records = [line.split() for line in times.read_text().splitlines()]
    return wall, sum(float(end) - float(start) for _, start, end in records)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args()
    make = clone if options.real else sleepers
    overheads, different = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        serial = Path(scratch, "serial")
        make(serial, options)
        wall, own = serial_run(serial)
        print(f"serial: {wall:.1f} s, overhead {wall / own - 1:.1%}, {len(lock(serial))} stages", flush=True)
        for number in range(options.runs):
            folder = Path(scratch, f"run-{number}")
            make(folder, options)
            began = time.perf_counter()
            call(f"sensorium run --jobs {options.jobs} --retries 0", folder)
            wall = time.perf_counter() - began
            overheads.append(wall / ideal(folder, options.jobs, command_times(folder)) - 1)
            same = lock(folder) == lock(serial)
            different += not same
            word = "equal" if same else "DIFFERENT"
            print(f"run {number + 1}: {wall:.1f} s, overhead {overheads[-1]:.1%}, dvc.lock {word}", flush=True)
            shutil.rmtree(folder)
    print(f"overhead: median {statistics.median(overheads):.1%}, most {max(overheads):.1%}; {different} different")


if __name__ == "__main__":
    main()
