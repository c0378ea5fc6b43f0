"""Measure a training step of the full-size model against its plain form, side by side.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --variants [--device cuda]
    python benchmarks/training_step.py --variants plain bf16 --scale medium --turns 1     # a trial run of two of them
    python benchmarks/training_step.py --roofline [--device cuda]

prints a Markdown table: forward, loss, backward and optimizer step of the competition's model with ten mice,
the package's form and `plain_form.py` in turns, medians over the turns. Peak memory is that of a process of
its own for each form. On the CPU: batch 2, float32. On a GPU, where there is one: batch 32, fp16 with loss
scaling. Processor time stands beside the wall clock, as a busy machine stretches the latter.

`--variants` measures what may make a step faster on a device, each as one change of the package's form: type of
numbers, layout of the weights, PyTorch's compiler with and without CUDA graphs, implementation of the optimizer and of
the moving average. A variant that a device or an installation refuses is a row with the reason. What a step adds to
the memory, activations and gradients, is the peak without the program, the weights and what optimizer and moving
average hold.

`--roofline` prints where the time of the package's step goes, by PyTorch's profiler: forward pass and loss, backward
pass and optimizer, by kind of operation, with the multiply-adds and bytes that follow from the shapes, and the share of
the rate of the device's own matrix product, which is measured in the same run.
"""

import argparse
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import poisson_nll_loss
from torch.profiler import ProfilerActivity, profile, record_function

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
PHASES = ("forward", "backward", "optimizer")
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
        with record_function(PHASES[0]):
            with torch.autocast(self.device, self.precision, enabled=self.precision != torch.float32):
                features = (self.features or self.model.features)(self.inputs)
                outputs = [self.model.readout(features[rows], mouse) for mouse, rows, _ in self.targets]
            loss = sum(
                poisson_nll_loss(output.float(), target, log_input=False, reduction="sum")
                for output, (_, _, target) in zip(outputs, self.targets, strict=True)
            ) / len(self.inputs)
        with record_function(PHASES[1]):
            self.scaler.scale(loss).backward()
        with record_function(PHASES[2]):
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

    def held(self) -> int:
        """Bytes of the weights, and of what the optimizer and the moving average hold."""
        kept = [*self.model.state_dict().values(), *(self.average.state_dict().values() if self.average else ())]
        kept += [entry for state in self.optimizer.state.values() for entry in state.values()]
        return sum(entry.nbytes for entry in kept)


def peak_memory(name: str, device: str, batch: int, scale: str = "full") -> tuple[float, float]:
    """Peak memory of two steps in a fresh process, of the GPU or resident, and what of it the steps add; GiB."""
    release(device)
    command = [sys.executable, __file__, "--peak", name, "--device", device, "--batch", str(batch), "--scale", scale]
    peak, added = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(peak), float(added)


def release(device: str) -> None:
    """Give memory that nothing uses back to the GPU, for other processes."""
    if device == "cuda":
        torch.cuda.empty_cache()


def print_peak(name: str, device: str, batch: int, scale: str) -> None:
    before = peak_now(device)
    trainee = Trainee(VARIANTS[name], device, batch, scale=scale)
    for _ in range(2):
        trainee.step()
    peak = peak_now(device)
    print(peak, peak - before - trainee.held() / GIB)


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
    peak = {form: peak_memory(form, device, batch)[0] for form in FORMS}
    for form in FORMS:
        row = f"{wall[form]:.3f} | {processor[form]:.3f} | {batch / wall[form]:.2f} | {peak[form]:.2f}"
        print(f"| {form} | {row} |")
    turnwise = [old.wall / new.wall for old, new in zip(spent["plain"], spent["ours"], strict=True)]
    print(
        f"| plain / ours | {wall['plain'] / wall['ours']:.2f} (turn by turn {statistics.median(turnwise):.2f}) "
        f"| {processor['plain'] / processor['ours']:.2f} | | {peak['plain'] / peak['ours']:.2f} |"
    )


def compare_variants(device: str, batch: int, turns: int, scale: str, names: Sequence[str] = ()) -> None:
    """Print a table of variants, all of them by default, each beside the package's form in turns."""
    base = Trainee(VARIANTS["ours"], device, batch, min(batch, len(NEURONS)), scale)
    base.step()
    print(f"\n{describe(device)}; batch {batch}, {turns} turns, {scale} model\n")
    print("| variant | seconds a step | times as fast as ours | peak GiB | of it activations and gradients |")
    print("|---|---|---|---|---|", flush=True)
    for name in names or VARIANTS:
        cells = measure_variant(name, base, batch, turns, scale)
        print(f"| {' | '.join([name, *cells, *[''] * (4 - len(cells))])} |", flush=True)
        release(device)


def measure_variant(name: str, base: Trainee, batch: int, turns: int, scale: str) -> list[str]:
    """A row's cells, as many as could be measured and then the reason why there are no more."""
    cells = []
    try:
        trainee = Trainee(VARIANTS[name], base.device, batch, min(batch, len(NEURONS)), scale)
        trainee.step()
        trainee.step()  # PyTorch's compiler records CUDA graphs in the second call
        walls = [(base.timed_step().wall, trainee.timed_step().wall) for _ in range(turns)]
        del trainee
        cells.append(f"{statistics.median(new for _, new in walls):.3f}")
        cells.append(f"{statistics.median(old / new for old, new in walls):.2f}")
        cells += [f"{size:.2f}" for size in peak_memory(name, base.device, batch, scale)]
    except subprocess.CalledProcessError as fault:
        cells.append((fault.stderr.strip() or str(fault)).splitlines()[-1])
    except RuntimeError as fault:
        cells.append(f"{type(fault).__name__}: {str(fault).strip().splitlines()[0]}")
    return cells


ITEM_SIZES = {"float": 4, "double": 8, "c10::Half": 2, "c10::BFloat16": 2}
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")
KINDS = ("depth-wise convolution", "pointwise convolution", "matrix product", "batch norm", "SiLU", "all else")


def kind_of(event) -> str | None:
    """The kind of operation that a call is; none for what belongs to its caller."""
    name = event.name.removeprefix("aten::")
    if name in ("convolution", "convolution_backward"):
        groups = event.concrete_inputs[8 if name == "convolution" else 9]
        return "depth-wise convolution" if groups > 1 else "pointwise convolution"
    if name in PRODUCTS:
        return "matrix product"
    if name in ("native_batch_norm", "cudnn_batch_norm", "native_batch_norm_backward", "cudnn_batch_norm_backward"):
        return "batch norm"
    return "SiLU" if name in ("silu", "silu_", "silu_backward") else None


def amount(event) -> tuple[float, float]:
    """Multiply-adds, 0 for what only moves numbers, and bytes that a call reads and writes, each number once."""
    name, shapes, given = event.name.removeprefix("aten::"), event.input_shapes, event.concrete_inputs
    sizes = [ITEM_SIZES.get(kind, 0) for kind in event.input_dtypes]
    read = sum(math.prod(shape) * size for shape, size in zip(shapes, sizes, strict=True) if shape)
    if name == "convolution":
        (images, _, *pixels), (outputs, *filters), strides, padding = *shapes[:2], *given[3:5]
        written = images * outputs
        for length, taps, stride, margin in zip(pixels, filters[1:], strides, padding, strict=True):
            written *= (length + 2 * margin - taps) // stride + 1
        multiply_adds = written * math.prod(filters)
    elif name == "convolution_backward":
        grad, x, weight, wanted = *shapes[:3], given[10]
        written = wanted[0] * math.prod(x) + wanted[1] * math.prod(weight)
        multiply_adds = sum(wanted[:2]) * math.prod(grad) * math.prod(weight[1:])
    elif name in PRODUCTS:
        left, right = [shape for shape in shapes if len(shape) > 1][-2:]
        written = math.prod(left[:-1]) * right[-1]
        multiply_adds = written * left[-1]
    else:
        written, multiply_adds = math.prod(shapes[0]), 0
    return multiply_adds, read + written * sizes[0]


def product_rate(dtype: torch.dtype, device: str = "cpu", clock: Callable[[], float] = time.process_time) -> float:
    """Multiply-adds a second of the device's matrix product on the shapes that dominate, the best of them."""
    rates, shapes = [], [(16384, 64, 448), (16384, 448, 64), (16384, 128, 896), (4096, 256, 1792)]
    for rows, inner, columns in [*shapes, *[(8192, 8192, 8192)] * (device == "cuda")]:
        x, weight = (
            torch.rand(rows, inner, device=device).to(dtype),
            torch.rand(inner, columns, device=device).to(dtype),
        )
        y = torch.empty(rows, columns, dtype=dtype, device=device)
        for _ in range(6):
            began = clock()
            torch.mm(x, weight, out=y)
            if device == "cuda":
                torch.cuda.synchronize()
            rates.append(rows * inner * columns / (clock() - began))
    return max(rates)


def print_roofline(device: str, batch: int, turns: int, scale: str) -> None:
    """Print where the time of the package's step goes on one device."""
    trainee = Trainee(VARIANTS["ours"], device, batch, min(batch, len(NEURONS)), scale)
    rate = product_rate(trainee.precision, device, time.perf_counter)
    trainee.step()
    trainee.step()
    wall = statistics.median(trainee.timed_step().wall for _ in range(turns))
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device == "cuda")]
    with profile(activities=activities, record_shapes=True) as profiler:
        for _ in range(turns):
            trainee.step()
    spent = by_kind(profiler.events(), device)
    # AdamW reads a weight, its gradient and two moments, and writes all but the gradient.
    spent["optimizer", "AdamW"][2] = turns * 7 * sum(weights.nbytes for weights in trainee.optimizer.state)
    print(
        f"\n{describe(device)}; batch {batch}, {turns} turns, {scale} model, {trainee.precision}; {wall:.3f} s a step"
    )
    print(f"without the profiler; products reach {2 * rate / 1e9:.0f} GFLOP/s\n")
    print("| phase | operation | ms | million multiply-adds | MB | GFLOP/s | share of the product's rate |")
    print("|---|---|---|---|---|---|---|")
    spent["", "total"] = [sum(column) for column in zip(*spent.values(), strict=True)]
    for (phase, kind), (seconds, multiply_adds, moved) in spent.items():
        cells = [f"{seconds / turns * 1e3:.1f}", "", "", "", ""]
        if moved:
            cells[2] = f"{moved / turns / 1e6:,.0f}"
        if multiply_adds:
            reached = multiply_adds / seconds
            cells[1] = f"{multiply_adds / turns / 1e6:,.0f}"
            cells[3:] = f"{2 * reached / 1e9:.0f}", f"{reached / rate:.0%}"
        print(f"| {phase} | {kind} | {' | '.join(cells)} |")


def by_kind(events, device: str) -> dict[tuple[str, str], list[float]]:
    """(phase, kind of operation) -> seconds, multiply-adds and bytes."""
    events = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    phases = [event for event in events if event.name in PHASES]
    spent = {(phase, kind): [0.0, 0.0, 0.0] for phase in PHASES[:2] for kind in KINDS}
    spent["optimizer", "AdamW"] = [0.0, 0.0, 0.0]
    for event in events:
        began = event.time_range.start
        phase = next((p.name for p in phases if p.time_range.start <= began <= p.time_range.end), None)
        if phase is None:
            continue
        caller = event
        while caller is not None and kind_of(caller) is None:
            caller = caller.cpu_parent
        kind = "AdamW" if phase == "optimizer" else kind_of(caller) if caller else "all else"
        row = spent[phase, kind]
        if device == "cpu":
            row[0] += event.self_cpu_time_total / 1e6
        elif event.name not in PHASES:  # whose time on the GPU is that of the calls in them
            row[0] += event.self_device_time_total / 1e6
        if caller is event and phase != "optimizer":
            row[1:] = [total + one for total, one in zip(row[1:], amount(event), strict=True)]
    return spent


def describe(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the CPU, then a GPU where there is one")
    parser.add_argument("--batch", type=int, help="windows; default 2 on the CPU, 32 on a GPU")
    parser.add_argument("--turns", type=int, help="default 5 on the CPU, 30 on a GPU")
    parser.add_argument("--threads", type=int, help="threads on the CPU")
    parser.add_argument(
        "--variants", nargs="*", choices=list(VARIANTS), metavar="VARIANT", help="what may make a step faster; all"
    )
    parser.add_argument("--roofline", action="store_true", help="where the time of a step goes")
    parser.add_argument("--scale", choices=["medium", "full"], default="full", help="of the model, for these two")
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
        batch, turns = options.batch or batch, options.turns or turns
        if options.roofline:
            print_roofline(device, batch, turns, options.scale)
        elif options.variants is not None:
            compare_variants(device, batch, turns, options.scale, options.variants)
        else:
            compare(device, batch, turns)


if __name__ == "__main__":
    main()
