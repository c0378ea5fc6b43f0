"""Measure sliding-window prediction against the published approach, side by side, full-size models.

    python benchmarks/prediction.py --threads 1         # on the processor
    python benchmarks/prediction.py --threads 1 --roofline
    python benchmarks/prediction.py --device cuda --frames 300 --models 7

The baseline does as the published code: every model reads the trial's float64 files again, takes one
window at a time and keeps its batch norms and three-dimensional convolutions. Ours reads the trial from
the mouse's store once for all models. Both predict the same trial with the same random weights of the
competition's size, in turns; the first turn is not counted. Prints a Markdown table: frames of the recording a
second for one model, in wall time and in processor time (which other work on the machine disturbs less), medians; how
many times as fast as the published approach, turn by turn; and the relative error of the prediction.

`--roofline` prints instead where the time of one window goes on the processor: arithmetic, bytes, time, and the share
of the rate of the machine's own matrix product, which is measured in the same run. Products on a processor without
bf16 arithmetic are several times slower in bf16 than in float32: it is left out there, unless `--precisions` names it.
"""

from sensorium.processes import tune_process

tune_process()  # as the command line does

import argparse
import functools
import inspect
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sensorium.architectures import ModelConfig
from sensorium.config import SyntheticConfig, WindowConfig
from sensorium.data.inputs import frame_offset
from sensorium.data.store import MouseStore
from sensorium.inference.member import Member
from sensorium.inference.sliding import SlidingPredictor, TrialInput
from sensorium.model import cpu_inference, kernels
from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.model.video import PointConv
from sensorium.recordings.ingest import ingest
from sensorium.recordings.raw import RawMouse
from sensorium.recordings.synthetic.mouse import Recipe, write_mouse

sys.path.insert(0, str(Path(__file__).parent))
from plain_form import PlainDwiseNeuro, match
from training_step import competition, product_rate

MOUSE, NEURONS = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20", 7863

PRODUCTS = ("mm", "bmm")


class Speed(NamedTuple):
    wall: float
    processor: float


def make_mouse(folder: Path, frames: int) -> tuple[RawMouse, MouseStore]:
    """One mouse of the competition's size with two trials."""
    settings = SyntheticConfig(
        seed=0, frame_height=36, frame_width=64, padded_frames=324, valid_frames=(frames, frames),
        neurons={MOUSE: NEURONS}, train_trials=2, repeated_trials=1, repeats=1, unusable_trials=0,
        shared_videos=0, noise_shape=1.5,
    )  # fmt: skip
    write_mouse(folder, Recipe(MOUSE, "new", settings))
    raw = RawMouse(folder / MOUSE)
    ingest(raw, "new", folder / "store.zarr", None, lambda *_: None)
    return raw, MouseStore(folder / "store.zarr")


def predict_as_published(
    models, raw: RawMouse, window: WindowConfig, settings: ModelConfig, device, autocast
) -> np.ndarray:
    """One window at a time; every model reads the trial."""
    parts = []
    for model in models:
        video, behavior, pupil = (raw.load(name, 0) for name in ("videos", "behavior", "pupil_center"))
        length = raw.valid_length(0, labelled=True)
        inputs = np.zeros((5, length, *settings.canvas), np.float32)
        top, left = frame_offset(video.shape[:2], settings.canvas)
        inputs[0, :, top : top + video.shape[0], left : left + video.shape[1]] = video[..., :length].transpose(2, 0, 1)
        inputs[1:] = np.concatenate([behavior, pupil])[:, :length, None, None]
        stack = torch.from_numpy(inputs)
        total, count = torch.zeros(raw.neurons, length, device=device), torch.zeros(length, device=device)
        for start in range(length - window.width + 1):
            frames = torch.arange(start, start + window.width, window.step)
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                total[:, frames] += model.readout(model.features(stack[None, :, frames].to(device)), 0)[0].float()
            count[frames] += 1
        parts.append((total / count).cpu().numpy())
    return np.mean(parts, axis=0)


def measure(work: Callable[[], np.ndarray], frames: int) -> tuple[np.ndarray, Speed]:
    wall, processor = time.perf_counter(), time.process_time()
    prediction = work()
    return prediction, Speed(frames / (time.perf_counter() - wall), frames / (time.process_time() - processor))


def amount(name: str, given: dict[str, Any]) -> tuple[float, float]:
    """Multiply-adds, 0 for what only moves numbers, and bytes that one call with these arguments reads and writes."""
    y = given.get("y")
    if name == "filter":
        filters, (first, last) = given["filters"], given["rows"]
        part = (last - first) / len(y)
        read = part * given["height"] / len(given["x"]) * given["x"].nbytes
        written = part * y.nbytes if given["sums"].shape[2] == 1 else 0
        return part * y.numel() * (len(filters.space) + len(filters.time)), read + written
    if name == "widen":
        x = given["x"]
        return y.numel() * len(given["weight"]), x.nbytes * len(y) / x.shape[2] + y.nbytes
    moved = sum({one.data_ptr(): one.nbytes for one in given.values() if isinstance(one, torch.Tensor)}.values())
    if name in PRODUCTS:
        return given["input"].numel() * given["mat2"].shape[-1], moved
    return 0, moved + given["x"].nbytes * (name == "activate")


def calibrated(model: DwiseNeuro, frames: int) -> DwiseNeuro:
    """Give the norms the statistics of one random window: without any, activations overflow and underflow."""
    parts = [part for part in model.eval().modules() if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, PointConv))]
    momenta = {part: part.momentum for part in parts if not isinstance(part, PointConv)}
    for part in parts:
        part.training = True  # of these alone: dropped branches would give the statistics of another function
    for norm in momenta:
        norm.momentum = 1.0
    with torch.no_grad():
        model.features(torch.rand(1, 5, frames, *model.config.canvas) * 255)
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    return model.eval()


class Roofline:
    """Arithmetic, bytes and processor time of the parts of a forward pass, the fastest of several passes."""

    def __init__(self):
        self.block = "cortex and readout"
        self.spent = {}
        self.replaced = []
        for name in ("widen", "activate", "filter", "shortcut"):
            function = getattr(kernels.Kernels, name)
            self._replace(kernels.Kernels, name, self._timed(function, list(inspect.signature(function).parameters)))
        for name in PRODUCTS:
            self._replace(torch, name, self._timed(getattr(torch, name), ["input", "mat2"]))
        for name in ("video", "pooled"):
            block = cpu_inference.InferenceBlock
            self._replace(block, name, self._named(getattr(block, name)))
        self.blocks = {}

    def _replace(self, owner, name, function):
        self.replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, function)

    def close(self):
        """Put everything back."""
        for owner, name, function in reversed(self.replaced):
            setattr(owner, name, function)

    def _named(self, function):
        def call(block, x):
            self.block = self.blocks.setdefault(id(block), f"block {len(self.blocks)}")
            try:
                return function(block, x)
            finally:
                self.block = "cortex and readout"

        return call

    def _timed(self, function, parameters):
        @functools.wraps(function)
        def call(*arguments, **named):
            began = time.process_time()
            result = function(*arguments, **named)
            seconds = time.process_time() - began
            given = dict(zip(parameters, arguments, strict=False)) | named | {"result": result}
            row = self.spent.setdefault((self.block, function.__name__), np.zeros(3))
            row += (*amount(function.__name__, given), seconds)
            return result

        return call

    def measure(self, work: Callable[[], object], turns: int) -> float:
        """Run `work`; keep the fastest turn of each part; returns the seconds of the fastest turn."""
        totals, turns_spent = [], []
        for _ in range(turns):
            self.spent = {}
            began = time.process_time()
            work()
            totals.append(time.process_time() - began)
            turns_spent.append(self.spent)
        self.spent = {key: min((one[key] for one in turns_spent), key=lambda row: row[2]) for key in self.spent}
        return min(totals)


def print_roofline(member: Member, windows: int, turns: int, dtype: torch.dtype) -> None:
    if kernels.load() is None:
        sys.exit("No C++ compiler here: the layers predict, which the roofline does not know.")
    forward = member.cpu_forward(None if dtype == torch.float32 else dtype, 1)
    x = torch.rand(windows, 5, member.window.frames, *member.canvas) * 255
    rate = product_rate(dtype)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        forward(x)
        roofline = Roofline()
        total = roofline.measure(lambda: forward(x), turns) / windows
        roofline.close()
    print(f"\n{dtype}, {torch.get_num_threads()} threads, one window; products reach {2 * rate / 1e9:.0f} GFLOP/s\n")
    print("| part | operation | million multiply-adds | MB | ms | GFLOP/s | share of the product's rate |")
    print("|---|---|---|---|---|---|---|")
    spent = {key: row / windows for key, row in roofline.spent.items()}
    spent["", "all else"] = np.array([0, 0, total - sum(row[2] for row in spent.values())])
    spent["", "total"] = sum(spent.values())
    for (part, name), (multiply_adds, moved, seconds) in spent.items():
        reached = multiply_adds / seconds
        print(
            f"| {part} | {name} | {multiply_adds / 1e6:.0f} | {moved / 1e6:.0f} | {seconds * 1e3:.1f} "
            f"| {2 * reached / 1e9:.0f} | {reached / rate:.0%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--frames", type=int, default=62, help="frames of the trial")
    parser.add_argument("--models", type=int, default=1, help="models whose mean is predicted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    mixed = ["mixed"] * (torch.cuda.is_available() or "AVX512" in torch.backends.cpu.get_cpu_capability())
    parser.add_argument("--precisions", nargs="+", default=["float32", *mixed], choices=["float32", "mixed"])
    parser.add_argument("--roofline", action="store_true", help="where the time goes on the processor")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = competition()
    settings, window, device = config.experiments["true_batch_001"].model, config.window, torch.device(options.device)
    plain, members = [], []
    for seed in range(options.models):
        torch.manual_seed(seed)
        model = calibrated(DwiseNeuro(settings, [NEURONS]), window.frames)
        plain.append(PlainDwiseNeuro(settings, [NEURONS]).eval().to(device))
        match(plain[-1], model.to(device))
        members.append(Member(model, 0, window))
    if options.roofline:
        with torch.inference_mode():
            for precision in options.precisions:
                dtype = torch.float32 if precision == "float32" else torch.bfloat16
                print_roofline(members[0], 4, options.rounds, dtype)
        return
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        raw, store = make_mouse(Path(folder), options.frames)

        def ours(precision):
            sliding = SlidingPredictor(members, config.prediction.batch_size, precision, device)
            return lambda: sliding.predict([TrialInput.read(store, 0)])[0]

        def published(autocast):
            return lambda: predict_as_published(plain, raw, window, settings, device, autocast)

        mixed, kind = ("16-mixed", torch.float16) if options.device == "cuda" else ("bf16-mixed", torch.bfloat16)
        approaches = {
            "published, float32": published(None),
            f"published, {mixed}": published(kind),
            "ours, float32": ours("32-true"),
            "ours, bf16-mixed": ours("bf16-mixed"),
        } | ({"ours, 16-mixed": ours("16-mixed")} if options.device == "cuda" else {})
        mixed = "mixed" in options.precisions
        report({name: work for name, work in approaches.items() if mixed or "float32" in name}, options)


def report(approaches: dict[str, Callable[[], np.ndarray]], options: argparse.Namespace) -> None:
    frames = options.frames * options.models
    speeds: dict[str, list[Speed]] = {name: [] for name in approaches}
    predictions = {}
    for turn in range(options.rounds + 1):
        for name, work in approaches.items():
            predictions[name], speed = measure(work, frames)
            if turn > 0:
                speeds[name].append(speed)
    reference, base = next(iter(predictions.values())), next(iter(speeds.values()))
    compiled = "none" if kernels.load() is None else "compiled"
    print(f"{options.models} models, {options.frames} frames, {options.device}, {options.threads} threads", end=", ")
    print(f"{options.rounds} turns, kernels: {compiled}\n")
    print("| approach | frames/s | times | frames/s of processor time | times | relative error |")
    print("|---|---|---|---|---|---|")
    for name, turns in speeds.items():
        error = np.linalg.norm(predictions[name] - reference) / np.linalg.norm(reference)
        row = []
        for key in Speed._fields:
            row.append(f"{statistics.median(getattr(one, key) for one in turns):.2f}")
            ratios = [getattr(one, key) / getattr(first, key) for one, first in zip(turns, base, strict=True)]
            row.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        print(f"| {name} | {' | '.join(row)} | {error:.1e} |")


if __name__ == "__main__":
    main()
