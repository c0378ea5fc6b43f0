"""End with the parent: the kernel's promise that a killed run leaves no process behind."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""prctl(2), https://man7.org/linux/man-pages/man2/pr_set_pdeathsig.2const.html"""


def die_with_parent(signum: int = signal.SIGTERM, parent: int | None = None) -> None:
    """Ask Linux to send this process a signal when its parent ends, however it ends.

    Elsewhere nothing is asked; there, Ctrl-C and SIGTERM are passed on, SIGKILL is not.

    Args:
        signum: the signal to receive.
        parent: process id that the parent had; the signal is sent at once if it is no longer our parent.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signum)
