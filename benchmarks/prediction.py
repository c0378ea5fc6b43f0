"""Measure sliding-window prediction against the published approach, side by side, full-size models.

    python benchmarks/prediction.py                     # on the processor
    python benchmarks/prediction.py --device cuda --frames 300 --models 7

The baseline does as the published code: every model reads the trial's float64 files again, takes one
window at a time and keeps its batch norms and three-dimensional convolutions. Ours reads the trial from
the mouse's store once for all models. Both predict the same trial with the same random weights of the
competition's size; rounds alternate, the best of each counts. Prints a Markdown table: frames of the
recording a second for one model, in wall time and in processor time (which other work on the machine
disturbs less), and the relative error of the prediction.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sensorium.architectures import ModelConfig
from sensorium.config import SyntheticConfig, WindowConfig
from sensorium.data.inputs import frame_offset
from sensorium.data.store import MouseStore
from sensorium.inference.member import Member
from sensorium.inference.sliding import SlidingPredictor, TrialInput
from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.recordings.ingest import ingest
from sensorium.recordings.raw import RawMouse
from sensorium.recordings.synthetic.mouse import Recipe, write_mouse

sys.path.insert(0, str(Path(__file__).parent))
from plain_form import PlainDwiseNeuro, match
from training_step import competition

MOUSE, NEURONS = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20", 7863


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


def measure(work: Callable[[], np.ndarray], frames: int, best: Speed) -> tuple[np.ndarray, Speed]:
    wall, processor = time.perf_counter(), time.process_time()
    prediction = work()
    speed = Speed(frames / (time.perf_counter() - wall), frames / (time.process_time() - processor))
    return prediction, Speed(max(speed.wall, best.wall), max(speed.processor, best.processor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--frames", type=int, default=62, help="frames of the trial")
    parser.add_argument("--models", type=int, default=1, help="models whose mean is predicted")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = competition()
    settings, window, device = config.experiments["true_batch_001"].model, config.window, torch.device(options.device)
    plain, members = [], []
    for seed in range(options.models):
        torch.manual_seed(seed)
        model = DwiseNeuro(settings, [NEURONS]).eval()
        plain.append(PlainDwiseNeuro(settings, [NEURONS]).eval().to(device))
        match(plain[-1], model.to(device))
        members.append(Member(model, 0, window))
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
        report(approaches, options)


def report(approaches: dict[str, Callable[[], np.ndarray]], options: argparse.Namespace) -> None:
    frames = options.frames * options.models
    speeds = dict.fromkeys(approaches, Speed(0, 0))
    predictions = {}
    for _ in range(options.rounds):
        for name, work in approaches.items():
            predictions[name], speeds[name] = measure(work, frames, speeds[name])
    reference, base = next(iter(predictions.values())), next(iter(speeds.values()))
    print(f"{options.models} models, {options.frames} frames, {options.device}, {options.threads} threads\n")
    print("| approach | frames/s | times | frames/s of processor time | times | relative error |")
    print("|---|---|---|---|---|---|")
    for name, speed in speeds.items():
        error = np.linalg.norm(predictions[name] - reference) / np.linalg.norm(reference)
        print(
            f"| {name} | {speed.wall:.2f} | {speed.wall / base.wall:.1f} | {speed.processor:.2f} "
            f"| {speed.processor / base.processor:.1f} | {error:.1e} |"
        )


if __name__ == "__main__":
    main()
