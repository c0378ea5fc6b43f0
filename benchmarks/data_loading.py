"""Measure ingest and loading against the published approach, side by side, on mice of the real shape.

    python benchmarks/data_loading.py
    python benchmarks/data_loading.py --workers 0 1 2     # samples a second against processes that read ahead

writes some 18 GB below a temporary folder (`--folder` chooses where), prints a Markdown table, and
cleans up. Mice: 7,863 neurons, 36 x 64 pixels, 324 padded frames. Speeds are those of one thread with all
files in the page cache, by processor time, so that other programs on the machine do not disturb them.

`--workers` measures the loader of a training instead, on the clock: with the stores in the page cache, and with nothing
cached, as on the first epoch. For a slow disk start it in a control group whose reading is limited
(`blkio.throttle.read_bps_device`, or `io.max`).
"""

import argparse
import itertools
import mmap
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sensorium.config import CutMixConfig, WindowConfig
from sensorium.data.augmentation import make_augmentation
from sensorium.data.dataset import TrainingData
from sensorium.data.folds import Folds, TrialFold
from sensorium.data.inputs import assemble
from sensorium.data.store import MouseStore
from sensorium.recordings.ingest import ingest
from sensorium.recordings.raw import MODALITIES, STATISTICS, RawMouse

sys.path.insert(0, str(Path(__file__).parent))
from published_loading import CANVAS, PublishedLoading, hash_video

NEURONS, HEIGHT, WIDTH, PADDED, LENGTH = 7863, 36, 64, 324, 300
SHAPES = {
    "videos": (HEIGHT, WIDTH, PADDED),
    "responses": (NEURONS, PADDED),
    "behavior": (2, PADDED),
    "pupil_center": (2, PADDED),
}
BATCH, MICE, TRIALS, FEW = 32, 10, 24, 6
SCALES = (1, 4, 16)
LABELLED = 5 * 410 + 5 * 718
"""Labelled trials of all ten mice of the competition, about."""


def write_raw(folder: Path, trials: int, seed: int) -> None:
    """Write a raw mouse of random values in the competition's shapes."""
    rng = np.random.default_rng(seed)
    for modality, shape in SHAPES.items():
        (folder / "data" / modality).mkdir(parents=True)
        statistics_folder = folder / "meta" / "statistics" / modality / "all"
        statistics_folder.mkdir(parents=True)
        for name in STATISTICS:
            np.save(statistics_folder / f"{name}.npy", rng.random(shape))
        for trial in range(trials):
            if modality == "videos":
                values = rng.integers(0, 256, shape).astype(np.float64)
            else:
                values = rng.standard_exponential(shape, dtype=np.float32).astype(np.float64)
            values[..., LENGTH:] = np.nan
            np.save(folder / "data" / modality / f"{trial}.npy", values)
    write_meta(folder, trials)


def write_meta(folder: Path, trials: int) -> None:
    """Write tiers and neurons."""
    for name in ("trials", "neurons"):
        (folder / "meta" / name).mkdir(parents=True, exist_ok=True)
    np.save(folder / "meta" / "trials" / "tiers.npy", np.array(["train"] * trials))
    np.save(folder / "meta" / "neurons" / "unit_ids.npy", np.arange(NEURONS, dtype=np.uint32))
    np.save(folder / "meta" / "neurons" / "cell_motor_coordinates.npy", np.zeros((NEURONS, 3)))


def multiply(source: Path, target: Path, times: int) -> None:
    """Link a raw mouse's trials several times, so that it has more trials without more disk."""
    shutil.copytree(source / "meta", target / "meta")
    for modality in MODALITIES:
        (target / "data" / modality).mkdir(parents=True)
        for trial in range(TRIALS * times):
            os.link(source / "data" / modality / f"{trial % TRIALS}.npy", target / "data" / modality / f"{trial}.npy")
    write_meta(target, TRIALS * times)


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def build(raw: Path, store: Path) -> dict[str, float]:
    """Ingest a mouse; seconds on the clock and of the processor, and the process's largest memory."""
    store.mkdir(parents=True)
    clock, processor = time.perf_counter(), time.process_time()
    ingest(RawMouse(raw), "new", store, None, lambda: None)
    return {
        "clock": time.perf_counter() - clock,
        "processor": time.process_time() - processor,
        "peak": _status("VmHWM", "/proc/self/status") * 1024,
    }


def open_data(stores: list[MouseStore], probability: float = 0.5, samples: int = 72_000) -> TrainingData:
    """Training data of all trials, seven folds."""
    folds = Folds([TrialFold(s.name, t, "train", 0, 0, t % 7) for s in stores for t in range(s.trials)])
    window, cutmix = WindowConfig(frames=16, step=2), CutMixConfig(alpha=1.0, probability=probability)
    return TrainingData(stores, folds, 0, window, CANVAS, make_augmentation(cutmix), samples, 0)


def load(data: TrainingData, indices: Iterable[int], assembled: bool = False) -> None:
    """Load batches one after the other, as a training does."""
    for index in indices:
        batch = data.batch(0, index, BATCH)
        if assembled:
            assemble(batch, CANVAS)


def _status(key: str, source: str = "/proc/self/io") -> int:
    """A counter of this process, in the unit that the kernel gives."""
    lines = Path(source).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def touch(stores: list[MouseStore]) -> None:
    """Bring all pages of all frames into the page cache and into this process's page table."""
    for store in stores:
        for trial in range(store.trials):
            for name in MODALITIES:
                store.view(name, trial).reshape(-1).view(np.uint8)[:: mmap.PAGESIZE].sum()


def start(stores: list[Path]) -> dict[str, float]:
    """A fresh process: time and bytes to the first batch, then speed and private memory over many batches."""
    for path in stores:
        forget(path)
    disk, clock = _status("read_bytes"), time.perf_counter()
    opened = [MouseStore(path) for path in stores]
    data = open_data(opened)
    data.batch(0, 0, BATCH)
    first = {"first": time.perf_counter() - clock, "first_bytes": _status("read_bytes") - disk}
    touch(opened)
    torch.set_num_threads(1)
    load(data, range(1, 20))
    speed = rate(lambda: load(data, range(20, 80)), 60 * BATCH)
    return first | {"speed": speed, "memory": _status("RssAnon", "/proc/self/status") * 1024}


def cold_bytes(stores: list[Path], probability: float) -> float:
    """Bytes that the disk delivers a sample when nothing is cached; the first batch opens the files."""
    data = open_data([MouseStore(path) for path in stores], probability)
    data.batch(0, 0, BATCH)
    for path in stores:
        forget(path)
    disk = _status("read_bytes")
    load(data, range(1, 3))
    return (_status("read_bytes") - disk) / (2 * BATCH)


def loader_speeds(stores: list[Path], workers: int) -> dict[str, float]:
    """Samples a second of the loader of a training that has nothing else to do, from the second batch on."""
    opened, speeds = [MouseStore(path) for path in stores], {}
    for title, count in (("cold", 12), ("cached", 300)):
        if title == "cold":
            for path in stores:
                forget(path)
        batches = iter(open_data(opened, samples=count * BATCH).loader(0, 0, BATCH, workers))
        next(batches)
        begin = time.perf_counter()
        for _ in batches:
            pass
        speeds[title] = (count - 1) * BATCH / (time.perf_counter() - begin)
    return speeds


def print_loader_speeds(folder: Path, workers: list[int]) -> None:
    """Write ten mice, and print a row for each number of workers."""
    stores = [folder / "store" / f"mouse{mouse}" for mouse in range(MICE)]
    for mouse, store in enumerate(stores):
        raw = folder / "raw" / store.name
        write_raw(raw, TRIALS if mouse == 0 else FEW, mouse)
        alone(build, raw, store)
        shutil.rmtree(raw)
    print("| workers | samples/s, nothing cached | samples/s, cached |\n|---|---|---|")
    for count in workers:
        found = alone(loader_speeds, stores, count)
        print(f"| {count} | {found['cold']:,.0f} | {found['cached']:,.0f} |", flush=True)


def rate(work: Callable[[], object], samples: int) -> float:
    """Samples a second of processor time: other programs on the machine do not disturb it."""
    begin = time.process_time()
    work()
    return samples / (time.process_time() - begin)


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def compare(raws: list[Path], stores: list[Path], repeats: int) -> dict[str, float]:
    """Speed of both approaches, taking turns in one process on one thread."""
    torch.set_num_threads(1)
    published = PublishedLoading(raws, [TRIALS] + [FEW] * (MICE - 1), NEURONS, LENGTH)
    opened = [MouseStore(path) for path in stores]
    data = open_data(opened)
    touch(opened)
    published.batch(BATCH)
    load(data, range(10))
    before = _status("rchar")
    published.batch(BATCH)
    result: dict[str, float] = {"published_bytes": (_status("rchar") - before) / BATCH}
    indices = itertools.count(10)
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "published": (lambda: published.batch(BATCH), BATCH),
        "ours": (lambda: load(data, itertools.islice(indices, 20)), 20 * BATCH),
        "assembled": (lambda: load(data, itertools.islice(indices, 5), assembled=True), 5 * BATCH),
    }
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (work, samples) in runs.items():
            speeds[name].append(rate(work, samples))
    hashing = rate(lambda: [hash_video(raws[0], trial, LENGTH) for trial in range(TRIALS)], TRIALS)
    return result | {name: statistics.median(values) for name, values in speeds.items()} | {"hashes": hashing}


def measure(folder: Path, repeats: int) -> list[tuple[str, str, str, str]]:
    """All rows of the table: what, published, ours, ratio or limit."""
    raws = [folder / "raw" / f"mouse{mouse}" for mouse in range(MICE)]
    stores = [folder / "store" / f"mouse{mouse}" for mouse in range(MICE)]
    for mouse, raw in enumerate(raws):
        write_raw(raw, TRIALS if mouse == 0 else FEW, mouse)
    built = alone(build, raws[0], stores[0])
    for raw, store in zip(raws[1:], stores[1:], strict=True):
        alone(build, raw, store)
    raw_bytes, store_bytes = size(raws[0]), size(stores[0])
    loading = alone(compare, raws, stores, repeats)
    begun = alone(start, stores)
    cold = {probability: alone(cold_bytes, stores, probability) for probability in (0.0, 0.5)}
    scaled = {}
    for times in SCALES:
        raw, store = (folder / kind / f"times{times}" for kind in ("raw", "store"))
        multiply(raws[0], raw, times)
        peak = alone(build, raw, store)["peak"]
        scaled[times] = alone(start, [store]) | {"peak": peak}
        shutil.rmtree(store)
    return rows(raw_bytes, store_bytes, built, loading, begun, cold, scaled)


def rows(
    raw_bytes: int,
    store_bytes: int,
    built: dict[str, float],
    loading: dict[str, float],
    begun: dict[str, float],
    cold: dict[float, float],
    scaled: dict[int, dict[str, float]],
) -> list[tuple[str, str, str, str]]:
    """The measurements as text."""
    ours, published, whole = loading["ours"], loading["published"], loading["assembled"]
    pass_seconds = LABELLED / loading["hashes"]

    scales = " / ".join(str(TRIALS * times) for times in SCALES) + " trials"

    def over(form: Callable[[dict[str, float]], str]) -> str:
        return " / ".join(form(scaled[times]) for times in SCALES)

    one_trial = sum(np.prod(shape) for shape in SHAPES.values()) * 8
    video = np.prod(SHAPES["videos"]) * 8
    return [
        ("batches of 32, samples a CPU second", f"{published:,.0f}", f"{ours:,.0f}", f"{ours / published:.0f} times"),
        (
            "... the input put together on the CPU too",
            f"{published:,.0f}",
            f"{whole:,.0f}",
            f"{whole / published:.0f} times",
        ),
        ("bytes read a window", megabytes(one_trial), megabytes(cold[0.0]), f"1/{one_trial / cold[0.0]:.0f}"),
        (
            "bytes read a sample, half of them mixed",
            megabytes(loading["published_bytes"]),
            megabytes(cold[0.5]),
            f"1/{loading['published_bytes'] / cold[0.5]:.0f}",
        ),
        (
            "first batch after start, nothing cached",
            f"{pass_seconds:,.0f} CPU s, {video * LABELLED / 1e9:.0f} GB: {LABELLED:,} videos hashed",
            f"{begun['first']:.2f} s, {megabytes(begun['first_bytes'])}",
            "no pass over the videos",
        ),
        ("size on disk", megabytes(raw_bytes), megabytes(store_bytes), f"{store_bytes / raw_bytes:.2f} of raw"),
        (
            "ingest, raw data a CPU second",
            "",
            megabytes(raw_bytes / built["processor"]),
            f"{megabytes(raw_bytes / built['clock'])}/s on the clock",
        ),
        ("ingest, largest memory", "", over(lambda s: f"{s['peak'] / 2**20:.0f} MiB"), scales),
        ("first batch, nothing cached", "", over(lambda s: f"{s['first']:.2f} s"), scales),
        ("samples a CPU second", "", over(lambda s: f"{s['speed']:,.0f}"), scales),
        ("private memory of the loading process", "", over(lambda s: f"{s['memory'] / 2**20:.0f} MiB"), scales),
    ]


def megabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e6:,.2f} MB" if count < 1e7 else f"{count / 1e6:,.0f} MB"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each approach; the median counts")
    parser.add_argument("--workers", type=int, nargs="+", help="measure the loader with so many processes")
    options = parser.parse_args()
    if options.workers:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print_loader_speeds(Path(folder), options.workers)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        table = measure(Path(folder), options.repeats)
    print("| | published | here | |\n|---|---|---|---|")
    for row in table:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
