"""Run the comparisons one after the other, and write what they print on one page.

    make bench [ARGS="--quick"]
    python benchmarks/suite.py [--quick] [--only prediction.py] [--out reports/benchmarks.md]

`--quick` takes some five minutes on two idle cores: smaller shapes, one turn, and without the programs that need
gigabytes of disk. The page names machine, versions and commit, and is written anew after each program. Programs that
need a trained project, such as insilico.py, or a setting of their own are not among them.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from sensorium.files import write_text

PROJECT = Path(__file__).parents[1]
PROGRAMS = [
    ("Training step", "training_step.py --threads 1", "training_step.py --threads 1 --turns 1"),
    ("Prediction", "prediction.py --threads 1", "prediction.py --threads 1 --frames 34 --rounds 1"),
    ("Frozen parts", "frozen_core.py --threads 1", None),
    ("Data loading", "data_loading.py", None),
    ("Scores", "evaluation.py --cold", "evaluation.py --trials 20 --baseline 5"),
    ("Submission files", "submission.py", None),
    ("Versions of data", "versioning.py", "versioning.py --megabytes 2"),
    ("Transfers", "transfer.py", "transfer.py --files 2 --megabytes 50"),
    ("Parallel stages", "parallel_stages.py", None),
    ("The competition: sizes", "scale.py sizes", "scale.py sizes"),
    ("The competition: GPUs", "scale.py gpus --hours 12 --price 0.8", "scale.py gpus --hours 12 --price 0.8"),
    ("The competition: all stages, small", "scale.py graph --kills 5", None),
    ("The competition: one mouse of its size", "scale.py mouse", None),
]
"""Heading, program and arguments, and the same for `--quick`; none where it takes too long."""
PACKAGES = ("torch", "numpy", "dvc", "mlflow")


def git(line):
    return subprocess.run(["git", *line.split()], cwd=PROJECT, capture_output=True, text=True).stdout.strip()


def machine():
    """Facts of which the figures depend, as a list."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    commit = git("rev-parse --short HEAD") + (
        ", with changes" if git("status --porcelain --untracked-files=no") else ""
    )
    return [
        f"commit {commit}",
        f"{os.cpu_count()} cores, {names[0] if names else platform.processor()}, load {os.getloadavg()[0]:.1f}",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory, {platform.system()} {platform.release()}",
        ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]),
    ]


def measure(line):
    """A program's section of the page, and whether it succeeded."""
    began = time.perf_counter()
    program, *arguments = line.split()
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name(program), *arguments], cwd=PROJECT, capture_output=True, text=True
    )
    output = done.stdout.strip()
    if "|---" not in output:
        output = f"```text\n{output}\n```"
    if done.returncode:
        output += f"\n\nFailed with exit code {done.returncode}:\n\n```text\n{done.stderr.strip()[-2000:]}\n```"
    return f"`python benchmarks/{line}`, {time.perf_counter() - began:.0f} s\n\n{output}\n", done.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", help="name of a program; repeatable")
    parser.add_argument("--out", type=Path, default=PROJECT / "reports" / "benchmarks.md")
    options = parser.parse_args()
    page = "# Results of the benchmarks\n\n" + "".join(f"* {fact}\n" for fact in machine())
    failed = []
    for heading, full, quick in PROGRAMS:
        line = quick if options.quick else full
        if line and (not options.only or line.split()[0] in options.only):
            print(f"{heading}: benchmarks/{line}", flush=True)
            section, succeeded = measure(line)
            page += f"\n## {heading}\n\n{section}"
            failed += [] if succeeded else [line]
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(options.out, page)
    print(f"Wrote {options.out}")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
