"""Measure a training step of the full-size model with frozen parts against one that trains all parts, side by side.

    python benchmarks/frozen_core.py [--batch 2] [--turns 5] [--threads 1]

prints a Markdown table: forward, loss, backward and optimizer step of the competition's model on one new mouse of
7,500 neurons, float32 on the CPU or fp16 on a GPU, the variants in turns, medians over the turns. Peak memory is that
of a process of its own for each variant.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import poisson_nll_loss

from sensorium.model.architecture import build
from sensorium.training.transfer import freeze

sys.path.insert(0, str(Path(__file__).parent))
from training_step import competition, peak_now

VARIANTS = {"train all": (), "core frozen": ("core",), "core and cortex frozen": ("core", "cortex")}
NEURONS = 7_500


class Variant:
    """A model with its optimizer and a fixed batch."""

    def __init__(self, frozen: tuple[str, ...], device: str, batch: int) -> None:
        config = competition()
        settings = config.experiment("true_batch_001")
        torch.manual_seed(0)
        self.device, recipe = device, settings.training
        whole = build(settings.model, [NEURONS]).to(device)
        self.model = (freeze(whole, frozen) if frozen else whole).train()
        learnt = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learnt, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        self.scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
        self.inputs = torch.rand(batch, 5, config.window.frames, *settings.model.canvas, device=device) * 255
        self.target = torch.rand(batch, NEURONS, config.window.frames, device=device)

    def step(self) -> float:
        """One step; its seconds."""
        begin = time.perf_counter()
        with torch.autocast(self.device, torch.float16, enabled=self.device == "cuda"):
            output = self.model(self.inputs, 0)
        loss = poisson_nll_loss(output.float(), self.target, log_input=False, reduction="sum") / len(self.inputs)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin


def peak_memory(name: str, options: argparse.Namespace) -> float:
    """Peak memory of two steps in a fresh process, GiB."""
    command = [sys.executable, __file__, "--peak", name, "--device", options.device, "--batch", str(options.batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="windows; default 2 on the CPU, 32 on a GPU")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, help="threads on the CPU")
    parser.add_argument("--peak", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.batch = options.batch or (32 if options.device == "cuda" else 2)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.peak:
        variant = Variant(VARIANTS[options.peak], options.device, options.batch)
        for _ in range(2):
            variant.step()
        print(peak_now(options.device))
        return
    variants = {name: Variant(frozen, options.device, options.batch) for name, frozen in VARIANTS.items()}
    spent: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for turn in range(options.turns + 1):
        for name, variant in variants.items():
            seconds = variant.step()
            if turn > 0:  # the first step chooses kernels and touches memory for the first time
                spent[name].append(seconds)
    del variants, variant
    print(f"{options.device}, {torch.get_num_threads()} threads; torch {torch.__version__}, ", end="")
    print(f"Python {platform.python_version()}; batch {options.batch}, {options.turns} turns, {NEURONS:,} neurons\n")
    print("| variant | seconds a step | times as fast (turn by turn) | peak GiB |\n|---|---|---|---|", flush=True)
    for name, times in spent.items():
        ratio = statistics.median(whole / own for whole, own in zip(spent["train all"], times, strict=True))
        print(
            f"| {name} | {statistics.median(times):.3f} | {ratio:.2f} | {peak_memory(name, options):.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
