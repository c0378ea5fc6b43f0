"""What the full competition costs: arithmetic, a schedule for its GPUs, and two rehearsals of what can be measured.

    python benchmarks/scale.py sizes [--bandwidth 12.5] [--month 0.023]

    python benchmarks/scale.py gpus --hours 12 [--prediction 0.3] [--price 0.8] [--gpus 1,2,4,7,8]
    python benchmarks/scale.py graph [--jobs 2] [--kills 5] [--folder FOLDER]
    python benchmarks/scale.py mouse [--trials 200] [--scale full] [--data-only] [--folder FOLDER]

`sizes` computes from the shapes of recordings and models how much disk everything takes, how long its transfer takes
at a bandwidth in MB/s, what it costs to keep a GB for a month, and how many windows the models see.

`gpus` runs the real scheduler on the real graph with given times. `--hours` is what one fold takes on one GPU. Measure
it: the log of a training states its speed after the first epoch. Folds of teacher and student are taken to cost the
same; stages that need no GPU are left out.

`graph` runs all stages of the preset `rehearsal` in a fresh clone, from nothing to both submissions, and then `dvc
repro` with nothing to do. With `--kills`, another clone is killed so many times with all its processes and continued
by the same command; both must write the same dvc.lock, but for the links to MLflow runs. A clone whose FOLDER is given
is kept, and not run again.

`mouse` takes one mouse of the competition's shape, 7,863 neurons of random values, from raw files to its rows in a
submission: ingest, folds, 20 training steps of the full-size model, which are killed and resumed, the prediction of a
trial of either tier of the main track, and DVC's commands with a local S3 server. It needs 60 MB of disk a trial.
"""

import argparse
import contextlib
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import boto3
import numpy as np
import psutil
import torch
import yaml
from dvc.repo import Repo
from moto.server import ThreadedMotoServer

from sensorium.config import parse
from sensorium.experiments import compose
from sensorium.model.architecture import build
from sensorium.scheduler.graph import read
from sensorium.scheduler.tasks import Scheduler

sys.path.insert(0, str(Path(__file__).parent))
from data_loading import LENGTH, size, write_raw
from parallel_stages import PATH, PROJECT, call, command_times, ideal, lock

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


NEURONS = {"new": 7863 + 7908 + 8202 + 7939 + 8122, "old": 7440 + 7928 + 8285 + 7671 + 7495}
LABELLED = {"new": 350 + 60, "old": 350 + 60 * 4 + 128}
TRIALS, TESTED, MICE = LABELLED["old"], 60 * 3 + 128, 5
"""Trials of a mouse and of its test tiers, about, and mice in each of the two sets."""
FRAMES, PADDED, PIXELS, WINDOWS = 300, 324, 36 * 64, 300 - 30
"""Valid and padded frames of a trial, and windows at every position."""


def parameters(config, experiment):
    neurons = [NEURONS[kind] // MICE for kind in NEURONS for _ in range(MICE)]
    with torch.device("meta"):
        return sum(weights.numel() for weights in build(config.experiments[experiment].model, neurons).parameters())


def size_table(config):
    """Bytes by what is stored."""
    both = sum(NEURONS.values())
    raw = 8 * PADDED * TRIALS * (both + 2 * MICE * (PIXELS + 4))
    responses = 4 * FRAMES * sum(LABELLED[kind] * NEURONS[kind] for kind in NEURONS)
    other = 2 * MICE * TRIALS * FRAMES * (PIXELS + 4 * 4) + 4 * 5 * PADDED * both
    weights = {name: 4 * parameters(config, name) for name in config.experiments}
    folds, experiments = len(config.folds.train), len(config.experiments)
    tested = 4 * FRAMES * TESTED * NEURONS["new"]
    kept = {
        "stores": responses + other,
        f"weights of all folds, {experiments} experiments": folds * sum(weights.values()),
        f"predictions out of fold, {experiments} experiments, float32": experiments * responses,
        f"predictions of the test splits, {experiments} experiments and the ensemble, float32": (experiments + 1)
        * tested,
        "submission files and the zips that hold them": int(2 * 2602 / 300 * 2**20 * MICE * TESTED),
    }
    return kept | {
        "all of these, which DVC keeps and pushes": sum(kept.values()),
        "raw recordings": raw,
        "checkpoints of a running training: two, and two best weights": 10 * max(weights.values()),
        "zeros of withheld responses, which stores do not hold": tested,
    }


def sizes(options):
    config = parse(yaml.safe_load(compose(PROJECT, "competition")), "competition")
    print("| what | GB | hours of transfer | price of a month |\n|---|---|---|---|")
    for name, count in size_table(config).items():
        hours, price = count / options.bandwidth / 3.6e9, count / 1e9 * options.month
        print(f"| {name} | {count / 1e9:.1f} | {hours:.1f} | {price:.2f} |")
    folds, pair = len(config.folds.train), len(PUBLISHED)
    held_out, tested = MICE * sum(LABELLED.values()) * WINDOWS, MICE * TESTED * WINDOWS
    training = config.experiments[PUBLISHED[0]].training
    samples = training.samples_per_epoch * (training.warmup_epochs + training.cosine_epochs)
    print("\n| windows of the two published experiments | million |\n|---|---|")
    print(f"| trainings, forward and backward | {pair * folds * samples / 1e6:.1f} |")
    print(f"| predictions out of fold | {pair * held_out / 1e6:.1f} |")
    print(f"| predictions of the test splits | {pair * folds * tested / 1e6:.1f} |")
    print(f"| ... and again from the registry, for the ensemble | {pair * folds * tested / 1e6:.1f} |")


def gpus(options):
    graph = competition()
    print("| GPUs | wall time | GPUs busy |" + (" price |" if options.price else ""))
    print("|---|---|---|" + ("---|" if options.price else ""))
    for count in map(int, options.gpus.split(",")):
        wall, busy = simulate(graph, count, options)
        price = f" {count * wall * options.price:.0f} |" if options.price else ""
        print(f"| {count} | {wall:.1f} h | {busy / wall / count:.0%} |{price}")


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(pid):
    """Bytes of a process's memory by kind, as the kernel names them; zeros when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return defaultdict(int)
    return defaultdict(int) | {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


class Watch:
    """A command and all that it starts, in a session of its own: time, and peaks of memory sampled every second.

    `processor` is the processor time of all processes that were waited for, in seconds.
    `all` and `largest` are proportional set sizes, in which pages that processes share count once, of all processes
    and of the largest; `own` is what remains of `all` without pages of files, which the kernel drops where it must.
    """

    def __init__(self, line, folder, **variables):
        environment = os.environ | {"PATH": PATH, "DVC_NO_ANALYTICS": "1"} | variables
        self.began, self._used = time.perf_counter(), processor_seconds()
        self.log = folder / "rehearsal.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                line.split(), cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.all, self.largest, self.own = 0, 0, 0
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()

    def _sample(self):
        while not self._over.wait(1):
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(self.process.pid)
                found = [memory(process.pid) for process in [root, *root.children(recursive=True)]]
                self.all = max(self.all, sum(size["Pss"] for size in found))
                self.largest = max(self.largest, *(size["Pss"] for size in found))
                self.own = max(self.own, sum(size["Pss"] - size["Pss_File"] for size in found))

    def wait(self, seconds=None):
        """Wait until the command ends, or kill its process group after so many seconds; returns its exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            code = self.process.wait()
        self.wall, self.processor = time.perf_counter() - self.began, processor_seconds() - self._used
        self._over.set()
        self._sampler.join()
        return code


def rehearse(line, folder, **variables):
    watch = Watch(line, folder, **variables)
    if watch.wait():
        sys.exit(f"{line}: failed; see {watch.log}")
    return watch


def clone_preset(folder, *options):
    call(f"git clone --quiet {PROJECT} {folder}", PROJECT)
    call(f"sensorium config --write {' '.join(options)}", folder)
    (folder / "dvc.lock").unlink()  # of the demonstration
    call("git -c user.name=benchmark -c user.email=benchmark@localhost commit --quiet -am rehearsal", folder)


def graph(options):
    with contextlib.ExitStack() as stack:
        work = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        line = f"sensorium run --jobs {options.jobs}"
        calm = work / "undisturbed"
        if not calm.exists():
            clone_preset(calm, "--preset rehearsal")
            report_run(calm, options, rehearse(line, calm))
        if options.kills:
            killed(work, calm, line, options)


def report_run(folder, options, watch):
    times = command_times(folder)
    groups = defaultdict(list)
    for name, seconds in times.items():
        groups[name.partition("@")[0]].append(seconds)
    print("| stages | number | commands, s | longest, s |\n|---|---|---|---|")
    for name, seconds in sorted(groups.items(), key=lambda item: -sum(item[1])):
        print(f"| {name} | {len(seconds)} | {sum(seconds):.0f} | {max(seconds):.0f} |")
    own = (watch.wall - ideal(folder, options.jobs, times)) / len(times)
    print(f"| all | {len(times)} | {sum(times.values()):.0f} | |\n")
    idle = [rehearse("dvc repro", folder).wall for _ in range(3)]
    print(f"wall time {watch.wall:.0f} s, processor time {watch.processor:.0f} s")
    print(f"{own:.1f} s a stage beside its command")
    print(f"memory of all processes {watch.all / 2**20:.0f} MiB, of the largest {watch.largest / 2**20:.0f} MiB")
    print("`dvc repro` with nothing to do: " + ", ".join(f"{seconds:.1f} s" for seconds in idle))
    places = ["data/sensorium_all_2023", "data/store", "data/experiments", "data/predictions", "data/submissions"]
    for place in [*places, "data", "reports", ".dvc/cache", "mlflow.db", "mlartifacts"]:
        path = folder / place
        print(f"{place}: {(path.stat().st_size if path.is_file() else size(path)) / 1e6:.1f} MB")
    sys.stdout.flush()


def killed(work, calm, line, options):
    folder = work / "killed"
    clone_preset(folder, "--preset rehearsal")
    draw = random.Random(options.seed)
    span = sum(command_times(calm).values()) / options.jobs / (options.kills + 1)
    for _ in range(options.kills):
        seconds = draw.uniform(0.5, 1.5) * span
        code = Watch(line, folder).wait(seconds)
        done = len(lock(folder)) if (folder / "dvc.lock").exists() else 0
        print(
            f"killed after {seconds:.0f} s, {done} stages in dvc.lock" if code < 0 else f"ended with {code}", flush=True
        )
    rehearse(line, folder)
    print("dvc.lock " + ("equal" if lock(folder) == lock(calm) else "DIFFERENT"))


MOUSE = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"
EXPERIMENT, FOLD = "true_batch_001", "data/experiments/true_batch_001/fold_0"
TIERS = ("live_test_main", "final_test_main")
STEPS, BATCH = 20, 2


def write_mouse(raw, trials):
    """Random raw files; as many labelled trials as a new mouse has in proportion, and one of either tier to predict."""
    write_raw(raw, trials, 0)
    tiers = np.array(["final_test_bonus"] * trials, dtype="<U16")
    labelled = trials * LABELLED["new"] // TRIALS
    tiers[:labelled] = "train"
    tiers[: labelled // 7] = "oracle"
    tiers[labelled : labelled + len(TIERS)] = TIERS
    np.save(raw / "meta" / "trials" / "tiers.npy", tiers)
    zeros = np.zeros_like(np.load(raw / "data" / "responses" / "0.npy"))
    zeros[:, LENGTH:] = np.nan
    for trial in range(labelled, trials):
        np.save(raw / "data" / "responses" / f"{trial}.npy", zeros)


def one_mouse(folder):
    """The competition's settings, but for one mouse, one fold, and a training of few steps on the processor."""
    path = folder / "params.yaml"
    content = yaml.safe_load(path.read_text())
    content["dataset"]["mice"] = {MOUSE: "new"}
    content["folds"]["train"] = {"fold_0": 0}
    content["runtime"] |= {"threads": 1, "workers": 1, "checkpoint_steps": STEPS // 4}
    for experiment in content["experiments"].values():
        experiment["training"] |= {
            "precision": "32-true", "batch_size": BATCH, "samples_per_epoch": STEPS * BATCH // 2,
            "warmup_epochs": 1, "cosine_epochs": 1,
        }  # fmt: skip
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    call("sensorium config --update", folder)
    call("sensorium config --check", folder)


def kill_training(folder, line):
    """Kill a training with all its processes as soon as it has written a checkpoint."""
    watch = Watch(line, folder, OMP_NUM_THREADS="1")
    while watch.process.poll() is None and not list((folder / ".sensorium" / "train").glob("*/[0-9]*.pt")):
        time.sleep(0.2)
    code = watch.wait(0)
    if code != -signal.SIGKILL:
        sys.exit(f"{line}: exit code {code} before it could be killed; see {watch.log}")
    return watch


@contextlib.contextmanager
def s3_server():
    """Environment of a client, and the address of a server on this machine with one empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
    address = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="any", aws_secret_access_key="any"
    )
    client.create_bucket(Bucket="rehearsal")
    try:
        yield keys, address
    finally:
        server.stop()


def mouse(options):
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="rehearsal-") as name:
        folder = Path(name, "project")
        clone_preset(folder, "--preset competition", f"-S scale={options.scale}")
        one_mouse(folder)
        raw, store = folder / "data/sensorium_all_2023" / MOUSE, folder / "data/store" / f"{MOUSE}.zarr"
        write_mouse(raw, options.trials)
        print(f"{options.trials} trials, {size(raw) / 1e9:.2f} GB of raw files\n")
        print("| step | seconds | of the processor | peak memory, MiB | without pages of files, MiB | output, MB |")
        print("|---|---|---|---|---|---|")

        def row(step, watch, *outputs):
            written = f"{sum(map(size, outputs)) / 1e6:,.0f}" if outputs else ""
            times, peaks = f"{watch.wall:.0f} | {watch.processor:.0f}", (watch.all / 2**20, watch.own / 2**20)
            print(f"| {step} | {times} | {peaks[0]:,.0f} | {peaks[1]:,.0f} | {written} |")
            sys.stdout.flush()

        def step(line, *outputs, **variables):
            row(f"`{line.replace(MOUSE, 'MOUSE')}`", rehearse(line, folder, **variables), *outputs)

        step(f"sensorium ingest -m {MOUSE}", store)
        step("sensorium folds", folder / "data/folds")
        if options.data_only:
            return
        train = f"sensorium train -e {EXPERIMENT} -f 0"
        row(f"`{train}`, killed", kill_training(folder, train), folder / ".sensorium" / "train")
        step(train, folder / FOLD, OMP_NUM_THREADS="1")
        predicted = [folder / "data/predictions" / EXPERIMENT / tier for tier in TIERS]
        for tier, output in zip(TIERS, predicted, strict=True):
            step(f"sensorium predict -e {EXPERIMENT} -s {tier}", output, OMP_NUM_THREADS="1")
        step(f"sensorium submission -e {EXPERIMENT} -t main", folder / "data/submissions")
        with s3_server() as (keys, address):
            call("dvc remote add --quiet s3 s3://rehearsal", folder)
            call(f"dvc remote modify s3 endpointurl {address}", folder)
            outputs = [store, folder / FOLD, *predicted]
            stages = [f"ingest@{MOUSE}", f"train@{EXPERIMENT}-0", *(f"predict@{EXPERIMENT}-{tier}" for tier in TIERS)]
            step(f"dvc commit --force {' '.join(stages)}", folder / ".dvc/cache")
            step(f"dvc push --remote s3 {' '.join(stages)}", **keys)
            for path in [*outputs, folder / ".dvc/cache"]:
                shutil.rmtree(path)
            step(f"dvc pull --remote s3 {' '.join(stages)}", *outputs, **keys)
            step("dvc status", *outputs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    add = verbs.add_parser("sizes")
    add.set_defaults(run=sizes)
    add.add_argument("--bandwidth", type=float, default=12.5, help="MB/s; 12.5 is a line of 100 Mbit/s")
    add.add_argument("--month", type=float, default=0.023, help="price of a GB for a month in an object store")
    add = verbs.add_parser("gpus")
    add.set_defaults(run=gpus)
    add.add_argument("--hours", type=float, required=True)
    add.add_argument("--prediction", type=float, default=0.0, help="hours that predicting one split takes")
    add.add_argument("--price", type=float, help="of a GPU for an hour, while it is rented")
    add.add_argument("--gpus", default="1,2,4,7,8")
    add = verbs.add_parser("graph")
    add.set_defaults(run=graph)
    add.add_argument("--jobs", type=int, default=2)
    add.add_argument("--kills", type=int, default=0)
    add.add_argument("--seed", type=int, default=0)
    add.add_argument("--folder", type=Path)
    add = verbs.add_parser("mouse")
    add.set_defaults(run=mouse)
    add.add_argument("--trials", type=int, default=200)
    add.add_argument("--scale", choices=["medium", "full"], default="full", help="of the model")
    add.add_argument("--data-only", action="store_true", help="end before the model")
    add.add_argument("--folder", type=Path)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
