"""The compiled parts of DwiseNeuro's inference on the CPU, see `kernels.cpp`.

They are built where a C++ compiler is there, once per machine, and kept in the user's cache. Without a compiler nothing
is lost but speed.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from sensorium.files import atomic_file
from sensorium.paths import user_cache

CHANNELS = 16
"""The number of channels of a wide video is a multiple of it."""
GROUP = 4
"""Pixels of a row that are filtered, and added up, together."""
_SOURCE = Path(__file__).with_name("kernels.cpp")
# No sum is reordered by these, and NaN stays NaN. Compilers may differ in which products and sums they fuse.
_FLAGS = (
    f"-DPIXELS={GROUP} -O3 -march=native -ffp-contract=fast -fno-math-errno -fno-trapping-math"
    " -fopenmp -shared -fPIC -w"
)
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""Types of the videos, by the names that the functions end with."""


class Filters(NamedTuple):
    """Weights and biases, float32, of a filter over rows and columns and one over frames, of each channel."""

    space: Tensor
    """(side * side, C), rows of the filter one after the other."""
    space_bias: Tensor
    """(C,)."""
    time: Tensor
    """(length, C)."""
    time_bias: Tensor
    """(C,)."""


class Kernels:
    """The compiled functions. All tensors are contiguous; weights and biases are float32."""

    def __init__(self, library: Path) -> None:
        """Load what `build` has made."""
        self._library = ctypes.CDLL(str(library))

    def widen(self, x: Tensor, weight: Tensor, by_row: Tensor, by_column: Tensor, y: Tensor, first: int) -> None:
        """Map the inputs of some rows to SiLU of the sum.

        Args:
            x: (5, T, H, W) float32.
            weight: (5, C).
            by_row: (H, T, C), added to all pixels of the row.
            by_column: (W, C), added to all pixels of the column.
            y: (rows, W, T, C), written.
            first: number of the first row.
        """
        sizes = (first, first + len(y), *x.shape[1:], y.shape[-1])
        self._call("widen", y.dtype, (x, weight, by_row, by_column, y), sizes)

    def activate(self, x: Tensor, bias: Tensor) -> None:
        """Add `bias` (C,) to (..., C) and apply SiLU, in place."""
        self._call("activate", x.dtype, (x, bias), (x.numel() // len(bias), len(bias)))

    def filter(
        self, x: Tensor, filters: "Filters", y: Tensor, sums: Tensor, rows: tuple[int, int], height: int, stride: int
    ) -> None:
        """Filter a video over rows and columns, then over frames.

        Args:
            x: (slots, W, T, C), the latest rows of H, each at its number modulo slots.
            filters: of both.
            y: (H', W', T, C), of which `rows` are written; not where the sums are by frame.
            sums: (H', groups, T or 1, C) float32, of `GROUP` pixels each by frame or of all frames; added to.
            rows: number of the first row, and of the one after the last.
            height: H.
            stride: distance of the first filter's places.
        """
        slots, width, frames, channels = x.shape
        side = round(len(filters.space) ** 0.5)
        sizes = (*rows, frames, height, width, channels, slots, side, stride, len(filters.time), int(sums.shape[2] > 1))
        self._call("filter", x.dtype, (x, *filters, y, sums), sizes)

    def shortcut(
        self,
        x: Tensor,
        places: Sequence[Tensor],
        scale: Tensor,
        by_row: Tensor,
        by_column: Tensor,
        projection: Tensor,
        y: Tensor,
    ) -> None:
        """Add up a block's result.

        Args:
            x: (H, W, T, C) float32, the block's input; its channels are repeated cyclically.
            places: (H',) and (W',) int64, the rows and columns that are taken.
            scale: (C',), of the repeated channels.
            by_row: (H', T, C'), added to all pixels of the row.
            by_column: (W', C'), added to all pixels of the column.
            projection: (H', W', T, C') of either type, added; may be `y`.
            y: (H', W', T, C') float32, written.
        """
        rows, columns, frames, wide = y.shape
        sizes = (x.shape[1], frames, x.shape[3], rows, columns, wide)
        self._call("shortcut", projection.dtype, (x, *places, scale, by_row, by_column, projection, y), sizes)

    def _call(self, name: str, dtype: torch.dtype, tensors: tuple[Tensor, ...], sizes: tuple[int, ...]) -> None:
        assert all(tensor.is_contiguous() for tensor in tensors)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        function = getattr(self._library, f"{name}_{TYPES[dtype]}")
        function(*pointers, *map(ctypes.c_long, sizes), ctypes.c_int(torch.get_num_threads()))


@functools.cache
def load() -> Kernels | None:
    """The kernels, built where this machine has not built them yet; None without a compiler."""
    compiler = shutil.which("c++")
    if sys.platform != "linux" or compiler is None:
        return None
    cache = user_cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        writable = os.access(cache, os.W_OK)
    except OSError:
        writable = False
    try:
        if writable:
            return Kernels(build(compiler, cache))
        with tempfile.TemporaryDirectory() as folder:
            return Kernels(build(compiler, Path(folder)))
    except (subprocess.CalledProcessError, OSError) as fault:
        reason = str(fault)
        if isinstance(fault, subprocess.CalledProcessError):
            reason = (fault.stderr.strip().splitlines() or [f"exit code {fault.returncode}"])[0]
        message = f"{compiler} cannot build {_SOURCE}: {reason}. Prediction on the CPU takes PyTorch's slower kernels."
        Console(stderr=True).print(message, highlight=False, soft_wrap=True, markup=False)
        return None


def build(compiler: str, folder: Path) -> Path:
    """Compile into a folder, unless the same source was compiled there by the same compiler for the same processor.

    Raises:
        subprocess.CalledProcessError: the compiler refuses.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    known = ("model name", "flags", "Features", "CPU part")
    processor = {line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(known)}
    identity = "\n".join([_SOURCE.read_text(), _FLAGS, version, *sorted(processor)])
    library = folder / f"kernels-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        with atomic_file(library) as partial:
            command = [compiler, *_FLAGS.split(), str(_SOURCE), "-o", str(partial)]
            subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return library
