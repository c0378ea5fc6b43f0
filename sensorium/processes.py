"""Settings of this process in the operating system: its end, its waiting, its memory. None changes a result."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""prctl(2), https://man7.org/linux/man-pages/man2/pr_set_pdeathsig.2const.html"""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
_MMAP_BYTES = 32 << 20  # the largest that it accepts
_TRIM_BYTES = 1 << 30
_SPINS = "10000"


def die_with_parent(signum: int = signal.SIGTERM, parent: int | None = None) -> None:
    """Ask Linux to send this process a signal when its parent ends, however it ends; elsewhere do nothing.

    Args:
        signum: the signal to receive.
        parent: process id that the parent had; the signal is sent at once if it is no longer our parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signum)


def tune_process() -> None:
    """Suit the process to tensors that come and go, on a shared machine; to be called before torch is imported.

    Threads of GNU's OpenMP spin for a moment before they wait asleep. Its default, milliseconds, takes the core from
    whoever shares the machine and made a training on two busy cores several times slower; none at all made one on two
    free cores half as fast. Here it is about a tenth of a millisecond. Freed memory of up to a gigabyte is kept
    for the next tensor instead of being returned and mapped anew, page by page: a third of the time of a
    forward pass on the CPU. See mallopt(3); other C libraries than GNU's keep their defaults.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        adjust(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        adjust(_M_TRIM_THRESHOLD, _TRIM_BYTES)
