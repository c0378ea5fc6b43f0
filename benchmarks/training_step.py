"""Measure a training step of the full-size model against its plain form, side by side.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --variants [--device cuda]
    python benchmarks/training_step.py --variants --scale medium --turns 1     # a trial run of all of them, minutes

prints a Markdown table: forward, loss, backward and optimizer step of the competition's model with ten mice,
the package's form and `plain_form.py` in turns, medians over the turns. Peak memory is that of a process of
its own for each form. On the CPU: batch 2, float32. On a GPU, where there is one: batch 32, fp16 with loss
scaling. Processor time stands beside the wall clock, as a busy machine stretches the latter.

`--variants` measures what may make a step faster on a device, each as one change of the package's form: type of
numbers, layout of the weights, PyTorch's compiler with and without CUDA graphs, implementation of the optimizer and of
the moving average. A variant that a device or an installation refuses is a row with the reason.
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
from typing import NamedTuple

import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import poisson_nll_loss

from sensorium.config import Config, parse
from sensorium.experiments import compose
from sensorium.mice import NEURONS
from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.training.learner import ExponentialMovingAverage

sys.path.insert(0, str(Path(__file__).parent))
from plain_form import PlainDwiseNeuro

EXPERIMENT = "true_batch_001"
GIB = 1 << 30

FORMS: dict[str, Callable[..., nn.Module]] = {"plain": PlainDwiseNeuro, "ours": DwiseNeuro}


class Variant(NamedTuple):
    """One way to take a training step."""

    form: str = "ours"
    precision: torch.dtype | None = None
    """Of autocast; None: fp16 on a GPU, float32 on the CPU."""
    channels_last: bool = False
    """Weights of convolutions are laid out as the videos are."""
    compile: str = ""
    """Mode of torch.compile; none without."""
    optimizer: str = "fused"
    """How AdamW is implemented."""
    average: str = ""
    """How the moving average of the weights is: of the package, or entry by entry; none without."""


VARIANTS = {
    "plain": Variant("plain"),
    "ours": Variant(),
    "bf16": Variant(precision=torch.bfloat16),
    "float32": Variant(precision=torch.float32),
    "channels-last weights": Variant(channels_last=True),
    "torch.compile": Variant(compile="default"),
    "torch.compile, CUDA graphs": Variant(compile="reduce-overhead"),
    "AdamW by foreach": Variant(optimizer="foreach"),
    "AdamW one by one": Variant(optimizer="single"),
    "moving average by foreach": Variant(average="foreach"),
    "moving average one by one": Variant(average="single"),
}
OPTIMIZERS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "single": {"foreach": False}}


def competition(scale: str = "full") -> Config:
    """Settings of the competition's preset, with models of a size."""
    choices = [] if scale == "full" else [f"scale={scale}"]
    return parse(yaml.safe_load(compose(Path(__file__).parents[1], "competition", choices)), "competition")


@dataclass
class Spent:
    """What one training step took, seconds."""

    wall: float
    processor: float


class Trainee:
    """One form with its optimizer and a fixed batch."""

    def __init__(self, variant: Variant, device: str, batch: int, mice: int = len(NEURONS), scale: str = "full"):
        config, neurons = competition(scale), list(NEURONS.values())[:mice]
        settings = config.experiment(EXPERIMENT)
        torch.manual_seed(0)
        self.device, self.frames, self.variant = device, config.window.frames, variant
        self.precision = variant.precision or (torch.float16 if device == "cuda" else torch.float32)
        self.model = FORMS[variant.form](settings.model, neurons).to(device).train()
        if variant.channels_last:
            self.model.to(memory_format=torch.channels_last)
        recipe = settings.training
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay,
            **OPTIMIZERS[variant.optimizer],
        )  # fmt: skip
        self.scaler = torch.amp.GradScaler(device, enabled=self.precision == torch.float16)
        self.average = ExponentialMovingAverage(self.model, recipe.ema_decay) if variant.average else None
        self.features = torch.compile(self.model.features, mode=variant.compile) if variant.compile else None
        self.inputs = torch.rand(batch, 5, self.frames, *settings.model.canvas, device=device) * 255
        self.targets = [self._target(mouse, neurons[mouse], batch) for mouse in range(min(batch, len(neurons)))]

    def _target(self, mouse: int, neurons: int, batch: int) -> tuple[int, Tensor, Tensor]:
        rows = torch.arange(mouse, batch, len(NEURONS), device=self.device)
        return mouse, rows, torch.rand(len(rows), neurons, self.frames, device=self.device)

    def step(self) -> None:
        with torch.autocast(self.device, self.precision, enabled=self.precision != torch.float32):
            features = (self.features or self.model.features)(self.inputs)
            outputs = [self.model.readout(features[rows], mouse) for mouse, rows, _ in self.targets]
        loss = sum(
            poisson_nll_loss(output.float(), target, log_input=False, reduction="sum")
            for output, (_, _, target) in zip(outputs, self.targets, strict=True)
        ) / len(self.inputs)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None and self.variant.average == "foreach":
            self.average.update()
        elif self.average is not None:
            self._average_one_by_one()
        if self.device == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def _average_one_by_one(self) -> None:
        for mean, value in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - self.average.decay)
            else:
                mean.copy_(value)

    def timed_step(self) -> Spent:
        wall, processor = time.perf_counter(), time.process_time()
        self.step()
        return Spent(time.perf_counter() - wall, time.process_time() - processor)


def peak_memory(name: str, device: str, batch: int, scale: str = "full") -> float:
    """Peak memory of two steps in a fresh process, GiB: of the GPU, or resident in main memory."""
    command = [sys.executable, __file__, "--peak", name, "--device", device, "--batch", str(batch), "--scale", scale]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(name: str, device: str, batch: int, scale: str) -> None:
    trainee = Trainee(VARIANTS[name], device, batch, scale=scale)
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
    trainees = {form: Trainee(VARIANTS[form], device, batch, min(batch, len(NEURONS))) for form in FORMS}
    spent: dict[str, list[Spent]] = {form: [] for form in FORMS}
    for turn in range(turns + 1):
        for form, trainee in trainees.items():
            one = trainee.timed_step()
            if turn > 0:  # the first step chooses kernels and touches memory for the first time
                spent[form].append(one)
    del trainees, trainee
    print(f"\n{describe(device)}; batch {batch}, {turns} turns\n")
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


def compare_variants(device: str, batch: int, turns: int, scale: str) -> None:
    """Print a table of all variants, each beside the package's form in turns."""
    mice = min(batch, len(NEURONS))
    base = Trainee(VARIANTS["ours"], device, batch, mice, scale)
    base.step()
    print(f"\n{describe(device)}; batch {batch}, {turns} turns, {scale} model\n")
    print("| variant | seconds a step | times as fast as ours | peak GiB |")
    print("|---|---|---|---|", flush=True)
    for name, variant in VARIANTS.items():
        try:
            trainee = Trainee(variant, device, batch, mice, scale)
            trainee.step()
            trainee.step()  # PyTorch's compiler records CUDA graphs in the second call
            walls = [(base.timed_step().wall, trainee.timed_step().wall) for _ in range(turns)]
        except RuntimeError as fault:
            print(f"| {name} | {type(fault).__name__}: {str(fault).strip().splitlines()[0]} | | |", flush=True)
            continue
        del trainee
        ratio = statistics.median(old / new for old, new in walls)
        seconds = statistics.median(new for _, new in walls)
        print(f"| {name} | {seconds:.3f} | {ratio:.2f} | {peak_memory(name, device, batch, scale):.2f} |", flush=True)


def describe(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the CPU, then a GPU where there is one")
    parser.add_argument("--batch", type=int, help="windows; default 2 on the CPU, 32 on a GPU")
    parser.add_argument("--turns", type=int, help="default 5 on the CPU, 30 on a GPU")
    parser.add_argument("--threads", type=int, help="threads on the CPU")
    parser.add_argument("--variants", action="store_true", help="what may make a step faster")
    parser.add_argument("--scale", choices=["medium", "full"], default="full", help="of the model, for --variants")
    parser.add_argument("--peak", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.peak:
        print_peak(options.peak, options.device, options.batch, options.scale)
        return
    devices = [options.device] if options.device else ["cpu", *["cuda"] * torch.cuda.is_available()]
    for device in devices:
        batch, turns = (32, 30) if device == "cuda" else (2, 5)
        if options.variants:
            compare_variants(device, options.batch or batch, options.turns or turns, options.scale)
        else:
            compare(device, options.batch or batch, options.turns or turns)


if __name__ == "__main__":
    main()
