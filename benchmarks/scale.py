"""Estimate how long the full competition takes on several GPUs: the real graph, the real scheduler, given times.

    python benchmarks/scale.py --hours 12 [--prediction 0.3] [--price 0.8] [--gpus 1,2,4,7,8]

`--hours` is what one fold takes on one GPU. Measure it: the log of a training states its speed after the first
epoch. Folds of teacher and student are taken to cost the same; stages that need no GPU are left out.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from dvc.repo import Repo

from sensorium.experiments import compose
from sensorium.scheduler.graph import read
from sensorium.scheduler.tasks import Scheduler

PROJECT = Path(__file__).parents[1]
PUBLISHED = ("true_batch_001", "distillation_001")
"""Experiments that take the hours; the baseline is 27 times smaller in its core."""


def competition():
    """Stage -> the stages it needs, under the competition's settings."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copy(PROJECT / "dvc.yaml", root)
        (root / "params.yaml").write_text(compose(PROJECT, "competition"))
        with Repo.init(root, no_scm=True):
            pass
        return read(root, []).upstream


def hours(name, options):
    group, _, target = name.partition("@")
    if not target.startswith(PUBLISHED):
        return 0.0
    return {"train": options.hours, "predict": options.prediction, "out_of_fold": options.prediction}.get(group, 0.0)


def simulate(graph, gpus, options):
    """Hours until the last stage ends, and hours that GPUs worked."""
    scheduler = Scheduler(graph, gpus)
    running, now, busy = {}, 0.0, 0.0
    while not scheduler.finished:
        for task in scheduler.start():
            running[task.name] = now + hours(task.name, options)
            busy += hours(task.name, options)
        name = min(running, key=running.get)
        now = running.pop(name)
        scheduler.finish(name, True)
    return now, busy


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--prediction", type=float, default=0.0, help="hours that predicting one split takes")
    parser.add_argument("--price", type=float, help="of a GPU for an hour, while it is rented")
    parser.add_argument("--gpus", default="1,2,4,7,8")
    options = parser.parse_args()
    graph = competition()
    print("| GPUs | wall time | GPUs busy |" + (" price |" if options.price else ""))
    print("|---|---|---|" + ("---|" if options.price else ""))
    for gpus in map(int, options.gpus.split(",")):
        wall, busy = simulate(graph, gpus, options)
        price = f" {gpus * wall * options.price:.0f} |" if options.price else ""
        print(f"| {gpus} | {wall:.1f} h | {busy / wall / gpus:.0%} |{price}")


if __name__ == "__main__":
    main()
