"""Processes that end with the one that started them."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""prctl(2), https://man7.org/linux/man-pages/man2/pr_set_pdeathsig.2const.html"""


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
