"""Measure a training step of the full-size model against its plain form, side by side.

    python benchmarks/training_step.py

prints a Markdown table: forward, loss, backward and optimizer step of the competition's model with ten mice,
the package's form and `plain_form.py` in turns, medians over the turns. Peak memory is that of a process of
its own for each form. On the CPU: batch 2, float32. On a GPU, where there is one: batch 32, fp16 with loss
scaling. Processor time stands beside the wall clock, as a busy machine stretches the latter.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import poisson_nll_loss

from sensorium.config import Config, parse
from sensorium.experiments import compose
from sensorium.mice import NEURONS
from sensorium.model.dwiseneuro import DwiseNeuro

sys.path.insert(0, str(Path(__file__).parent))
from plain_form import PlainDwiseNeuro

EXPERIMENT = "true_batch_001"
GIB = 1 << 30

FORMS: dict[str, Callable[..., nn.Module]] = {"plain": PlainDwiseNeuro, "ours": DwiseNeuro}


def competition() -> Config:
    """Settings of the competition's preset."""
    return parse(yaml.safe_load(compose(Path(__file__).parents[1], "competition")), "competition")


@dataclass
class Spent:
    """What one training step took, seconds."""

    wall: float
    processor: float


class Trainee:
    """One form with its optimizer and a fixed batch."""

    def __init__(self, form: str, device: str, batch: int, mice: int = len(NEURONS)):
        config, neurons = competition(), list(NEURONS.values())[:mice]
        settings = config.experiment(EXPERIMENT)
        torch.manual_seed(0)
        self.device, self.frames = device, config.window.frames
        self.model = FORMS[form](settings.model, neurons).to(device).train()
        recipe = settings.training
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
        self.inputs = torch.rand(batch, 5, self.frames, *settings.model.canvas, device=device) * 255
        self.targets = [self._target(mouse, neurons[mouse], batch) for mouse in range(min(batch, len(neurons)))]

    def _target(self, mouse: int, neurons: int, batch: int) -> tuple[int, Tensor, Tensor]:
        rows = torch.arange(mouse, batch, len(NEURONS), device=self.device)
        return mouse, rows, torch.rand(len(rows), neurons, self.frames, device=self.device)

    def step(self) -> None:
        with torch.autocast(self.device, torch.float16, enabled=self.device == "cuda"):
            features = self.model.features(self.inputs)
            outputs = [self.model.readout(features[rows], mouse) for mouse, rows, _ in self.targets]
        loss = sum(
            poisson_nll_loss(output.float(), target, log_input=False, reduction="sum")
            for output, (_, _, target) in zip(outputs, self.targets, strict=True)
        ) / len(self.inputs)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.device == "cuda":
            torch.cuda.synchronize()

    def timed_step(self) -> Spent:
        wall, processor = time.perf_counter(), time.process_time()
        self.step()
        return Spent(time.perf_counter() - wall, time.process_time() - processor)


def peak_memory(form: str, device: str, batch: int) -> float:
    """Peak memory of two steps in a fresh process, GiB: of the GPU, or resident in main memory."""
    command = [sys.executable, __file__, "--peak", form, "--device", device, "--batch", str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(form: str, device: str, batch: int) -> None:
    trainee = Trainee(form, device, batch)
    for _ in range(2):
        trainee.step()
    print(peak_now(device))


def peak_now(device: str) -> float:
    """Peak memory of this process so far, GiB: of the GPU, or resident in main memory."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / GIB
    # Not getrusage: its figure is inherited from the process that started this one.
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / GIB


def compare(device: str, batch: int, turns: int) -> None:
    """Print a table for one device."""
    # Readouts of mice that the batch lacks take no part in a step; two whole models would only fill the memory.
    trainees = {form: Trainee(form, device, batch, min(batch, len(NEURONS))) for form in FORMS}
    spent: dict[str, list[Spent]] = {form: [] for form in FORMS}
    for turn in range(turns + 1):
        for form, trainee in trainees.items():
            one = trainee.timed_step()
            if turn > 0:  # the first step chooses kernels and touches memory for the first time
                spent[form].append(one)
    del trainees, trainee
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"\n{name}; torch {torch.__version__}, Python {platform.python_version()}; batch {batch}, {turns} turns\n")
    print("| form | seconds a step | processor seconds | samples/s | peak GiB |")
    print("|---|---|---|---|---|", flush=True)
    wall = {form: statistics.median(one.wall for one in steps) for form, steps in spent.items()}
    processor = {form: statistics.median(one.processor for one in steps) for form, steps in spent.items()}
    peak = {form: peak_memory(form, device, batch) for form in FORMS}
    for form in FORMS:
        row = f"{wall[form]:.3f} | {processor[form]:.3f} | {batch / wall[form]:.2f} | {peak[form]:.2f}"
        print(f"| {form} | {row} |")
    turnwise = [old.wall / new.wall for old, new in zip(spent["plain"], spent["ours"], strict=True)]
    print(
        f"| plain / ours | {wall['plain'] / wall['ours']:.2f} (turn by turn {statistics.median(turnwise):.2f}) "
        f"| {processor['plain'] / processor['ours']:.2f} | | {peak['plain'] / peak['ours']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the CPU, then a GPU where there is one")
    parser.add_argument("--batch", type=int, help="windows; default 2 on the CPU, 32 on a GPU")
    parser.add_argument("--turns", type=int, help="default 5 on the CPU, 30 on a GPU")
    parser.add_argument("--threads", type=int, help="threads on the CPU")
    parser.add_argument("--peak", choices=list(FORMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.peak:
        print_peak(options.peak, options.device, options.batch)
        return
    devices = [options.device] if options.device else ["cpu", *["cuda"] * torch.cuda.is_available()]
    for device in devices:
        batch, turns = (32, 30) if device == "cuda" else (2, 5)
        compare(device, options.batch or batch, options.turns or turns)


if __name__ == "__main__":
    main()
