"""What the operating system refuses, told as a user's mistake: the file, the reason, what to do.

A fault of our own can look the same, so the traceback is kept and shown on request.
"""

import errno
import os

TRACEBACK_VARIABLE = "SENSORIUM_TRACEBACK"
"""When set, faults of the operating system keep their traceback."""

_ROOM = "Free space on that disk, then run the command again."
_RIGHTS = "Give your user the right to read and write there, or name another place."
_PLACE = "Check the path, or name another place."
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "The file is larger than this disk or `ulimit -f` allows: name another place.",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "That disk can only be read: name another place, or mount it for writing.",
    errno.ENOENT: _PLACE,
    errno.ENOTDIR: _PLACE,
    errno.EISDIR: _PLACE,
    errno.EEXIST: _PLACE,
    errno.ENAMETOOLONG: _PLACE,
    errno.EMFILE: "Allow more open files: `ulimit -n 4096`.",
    errno.EIO: "The disk is failing or gone: look into the system's log.",
}


def wants_traceback() -> bool:
    """Whether the user asked for the traceback."""
    return bool(os.environ.get(TRACEBACK_VARIABLE))


def explain(fault: OSError) -> str:
    """One message: the files where they are known, the reason, the remedy."""
    names = [str(os.fsdecode(name)) for name in (fault.filename, fault.filename2) if isinstance(name, (str, bytes))]
    reason = fault.strerror or str(fault) or type(fault).__name__
    problem = f"{' -> '.join(names)}: {reason}" if names else reason
    remedy = _REMEDIES.get(fault.errno or 0, "Mend what the message names, then run the command again.")
    return f"{problem}.\n{remedy} {TRACEBACK_VARIABLE}=1 shows where it happened."
