"""Devices, precision and processes of one training, through Lightning Fabric.

Several processes train one fold together with DistributedDataParallel: each takes its share of every
batch. Batch norm uses the statistics of its own share, as DistributedDataParallel and gradient
accumulation do, so n processes compute what one process computes that splits the batch in n chunks.
"""

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, TypeVar

import torch
from lightning_fabric.fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.multiprocessing.spawn import ProcessException

from sensorium.config import Precision, RuntimeConfig
from sensorium.errors import ConfigError, SensoriumError, TrainingError, UntrainableError
from sensorium.files import read_json, write_json

Result = TypeVar("Result")


def accelerator(runtime: RuntimeConfig) -> str:
    """The device to use, "cpu" or "cuda".

    Raises:
        ConfigError: the settings ask for a GPU, or for more GPUs than there are.
    """
    chosen = runtime.accelerator
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    if chosen == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.accelerator: cuda, but PyTorch finds no GPU.", "Set it to auto or cpu.")
    if chosen == "cuda" and not launched_outside() and runtime.devices > torch.cuda.device_count():
        raise ConfigError(
            f"runtime.devices: {runtime.devices}, but there are {torch.cuda.device_count()} GPUs.",
            "Lower it to the number of GPUs.",
        )
    return chosen


def launched_outside() -> bool:
    """Whether torchrun has started this process as one of several."""
    return bool(TorchElasticEnvironment.detect())


def is_first() -> bool:
    """Whether this process is the only one or, under torchrun, the one that writes."""
    return not launched_outside() or int(os.environ["RANK"]) == 0


def make_fabric(runtime: RuntimeConfig, precision: Precision, *, unused_readouts: bool) -> Fabric:
    """Choose device, precision and strategy.

    Args:
        runtime: devices to use.
        precision: arithmetic; on the CPU, which has no fast fp16, bfloat16 takes its place.
        unused_readouts: whether a batch may leave some readouts without a gradient.

    Raises:
        ConfigError: there is no such device.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    device = accelerator(runtime)
    if device == "cpu" and precision == "16-mixed":
        precision = "bf16-mixed"
    outside = launched_outside()
    devices = int(os.environ["LOCAL_WORLD_SIZE"]) if outside else runtime.devices
    nodes = int(os.environ["WORLD_SIZE"]) // devices if outside else 1
    strategy: DDPStrategy | str = "auto"
    if outside or devices > 1:
        strategy = DDPStrategy(
            start_method="popen" if outside else "spawn",
            find_unused_parameters=unused_readouts,
            broadcast_buffers=False,  # `average_buffers` keeps the statistics of all shares, not of the first alone
        )
    return Fabric(accelerator=device, devices=devices, num_nodes=nodes, strategy=strategy, precision=precision)


def launch(fabric: Fabric, function: Callable[..., Result], *arguments: Any) -> Result:
    """Run `function(fabric, *arguments)` in every process; return what the first one returns.

    Args:
        fabric: from `make_fabric`.
        function: importable; its arguments can be pickled where processes are started here.
        arguments: passed on.

    Raises:
        SensoriumError: what any process raised.
        TrainingError: a process died.
    """
    if fabric.world_size == 1 or launched_outside():
        result: Result = fabric.launch(function, *arguments)
        return result
    with TemporaryDirectory(prefix="sensorium-") as folder, _forward_termination():
        try:
            result = fabric.launch(partial(_report_faults, function, Path(folder), arguments))
        except ProcessException as fault:
            _raise_reported(Path(folder))
            raise TrainingError(
                f"training process {fault.error_index} died: {fault}", "Run the same command again; it continues."
            ) from fault
    return result


def _report_faults(function: Callable[..., Result], folder: Path, arguments: tuple[Any, ...], fabric: Fabric) -> Result:
    """Run in a started process: leave a user's fault as a file for the process that started it."""
    try:
        return function(fabric, *arguments)
    except SensoriumError as fault:
        report = {"kind": type(fault).__name__, "exit_code": fault.exit_code}
        write_json(folder / f"{fabric.global_rank}.json", report | {"problem": fault.problem, "remedy": fault.remedy})
        raise


def _raise_reported(folder: Path) -> None:
    for path in sorted(folder.glob("*.json")):
        report = read_json(path, TrainingError, "")
        kinds = {kind.__name__: kind for kind in (*SensoriumError.__subclasses__(), UntrainableError)}
        fault = kinds.get(report["kind"], TrainingError)(report["problem"], report["remedy"])
        fault.exit_code = report["exit_code"]
        raise fault


@contextmanager
def _forward_termination() -> Iterator[None]:
    """Pass SIGTERM on to the started processes; a Ctrl-C reaches them from the terminal."""

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        for process in multiprocessing.active_children():
            if number != signal.SIGINT:
                process.terminate()

    handled = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.signal(number, forward) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def reduce(fabric: Fabric, tensor: torch.Tensor, operation: str) -> torch.Tensor:
    """Reduce a tensor over all processes, perhaps in place; `operation` is sum, mean or max."""
    reduced = fabric.all_reduce(tensor, reduce_op=operation)
    assert isinstance(reduced, torch.Tensor)
    return reduced


@torch.no_grad()
def average_buffers(fabric: Fabric, buffers: list[torch.Tensor]) -> None:
    """Give all processes the mean of their running statistics, in place."""
    if fabric.world_size == 1 or not buffers:
        return
    mean = reduce(fabric, torch.cat([buffer.reshape(-1) for buffer in buffers]), "mean")
    parts = torch.split(mean, [buffer.numel() for buffer in buffers])
    for buffer, part in zip(buffers, parts, strict=True):
        buffer.copy_(part.view_as(buffer))


def make_deterministic(fabric: Fabric, threads: int | None) -> None:
    """Give the same bits for the same input, on the CPU and a given number of threads.

    A GPU's atomic sums have no order, and its deterministic kernels are slow: there only data, dropout and
    learning rate repeat exactly.

    Args:
        fabric: what computes.
        threads: of this process; None leaves PyTorch's choice, or that of OMP_NUM_THREADS.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if fabric.device.type == "cpu":
        torch.use_deterministic_algorithms(mode=True)
        # Costs time, and nothing reads such memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
