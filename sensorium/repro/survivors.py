"""Processes that outlive the one that started them, found by the session or the group that they share."""

import contextlib
import os
from collections.abc import Callable


def of_session(leader: int) -> list[int]:
    """Living processes of a session."""
    return _living(os.getsid, leader)


def of_group(leader: int) -> list[int]:
    """Living processes of a process group."""
    return _living(os.getpgid, leader)


def _living(belongs: Callable[[int], int], leader: int) -> list[int]:
    import psutil  # here, since a command that ends by itself leaves nobody to look for

    members = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if belongs(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                members.append(pid)
    return members
