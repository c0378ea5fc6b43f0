"""Run the comparisons one after the other, and write what they print on one page.

    make bench [ARGS="--quick"]
    python benchmarks/suite.py [--quick] [--only prediction.py] [--out docs/reference/benchmark-results.md]

`--quick` takes minutes on two idle cores: smaller shapes, one turn, and without the programs that need
gigabytes of disk. The page names command, machine, versions and commit, and is written anew after each program, with
a chart of its ratios beside it. Run it on an idle machine and commit both. Programs that need a trained project, such
as insilico.py, or a setting of their own are not among them.
"""

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from matplotlib.figure import Figure

from sensorium.files import write_text

PROJECT = Path(__file__).parents[1]
PROGRAMS = [
    ("Training step", "training_step.py --threads 1", "training_step.py --threads 1 --turns 1"),
    (
        "Training step: variants, small model",
        "training_step.py --variants --scale medium",
        "training_step.py --variants plain bf16 --scale medium --turns 1",
    ),
    (
        "Training step: roofline",
        "training_step.py --roofline",
        "training_step.py --roofline --scale medium --turns 1",
    ),
    ("Training by two processes", "processes.py", "processes.py --epochs 2"),
    ("Prediction, one thread", "prediction.py --threads 1", "prediction.py --threads 1 --frames 34 --rounds 1"),
    ("Prediction, two threads", "prediction.py --threads 2", None),
    (
        "Prediction: roofline",
        "prediction.py --threads 1 --roofline",
        "prediction.py --threads 1 --roofline --rounds 1 --precisions float32",
    ),
    ("Frozen parts", "frozen_core.py --threads 1", None),
    ("Data loading", "data_loading.py", None),
    ("Data loading by several processes", "data_loading.py --workers 0 1 2", None),
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


def machine(command):
    """Facts on which the figures depend, as a list."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    commit = git("rev-parse --short HEAD") + (
        ", with changes" if git("status --porcelain --untracked-files=no -- . :!docs/reference") else ""
    )
    return [
        f"command `{command}`, {datetime.now(UTC):%Y-%m-%d}",
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


def ratios(page):
    """What each row of the page's tables gives as a ratio, by the row's name: the first of a row."""
    found = {}
    for section in page.split("\n## ")[1:]:
        header = []
        for line in section.splitlines():
            cells = [cell.strip() for cell in line[1:-1].split("|")] if line.startswith("|") else []
            if not cells or not header:
                header = cells
                continue
            for name, cell in zip(header[1:], cells[1:], strict=False):
                number = re.match(r"\d+(\.\d+)?", cell)
                if number and (name.startswith("times") or cell.endswith(" times") or " / " in cells[0]):
                    found[f"{section.splitlines()[0]}: {cells[0]}"] = float(number[0])
                    break
    return {name: ratio for name, ratio in found.items() if ratio != 1}


def draw(page, path):
    """A chart of the page's ratios as SVG; the Markdown that shows it, nothing for a page without any."""
    found = ratios(page)
    if not found:
        return ""
    figure = Figure(figsize=(9, 0.8 + 0.28 * len(found)), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="times as fast as the reference of its table")
    bars = axes.barh(list(found), [ratio - 1 for ratio in found.values()], left=1)
    axes.bar_label(bars, [f"{ratio:.3g}" for ratio in found.values()], padding=2)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(x=0.1)
    figure.savefig(path, metadata={"Date": None})
    return f"\n![Ratios of the tables below]({path.name})\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", help="name of a program; repeatable")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "reference" / "benchmark-results.md")
    options = parser.parse_args()
    facts = machine(shlex.join(["python", "benchmarks/suite.py", *sys.argv[1:]]))
    title = "# Results of the benchmarks\n\n" + "".join(f"* {fact}\n" for fact in facts)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sections, failed = "", []
    for heading, full, quick in PROGRAMS:
        line = quick if options.quick else full
        if line and (not options.only or line.split()[0] in options.only):
            print(f"{heading}: benchmarks/{line}", flush=True)
            section, succeeded = measure(line)
            sections += f"\n## {heading}\n\n{section}"
            failed += [] if succeeded else [line]
            write_text(options.out, title + draw(sections, options.out.with_suffix(".svg")) + sections)
    print(f"Wrote {options.out}")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
