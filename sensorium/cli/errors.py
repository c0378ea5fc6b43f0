"""How a failed command ends: its exit code, its message, and who else gets the message.

What the operating system refuses is described as a user's mistake: the file, the reason, what to do. A fault of our own
can look the same, so the traceback is kept and shown on request.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import typer

from sensorium.errors import ERROR_FILE_VARIABLE, SensoriumError
from sensorium.paths import Paths, find_root

TRACEBACK_VARIABLE = "SENSORIUM_TRACEBACK"
"""When set, faults of the operating system keep their traceback."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect (128 + SIGINT)."""
_RUN_VARIABLE = "MLFLOW_RUN_ID"
_log = logging.getLogger(__name__)
_ROOM = "Free space on that disk, then run the command again."
_RIGHTS = "Give your user the right to read and write there, or name another place."
_ABSENT = "Restore the file or folder, or name another place."
_PLACE = "Remove what stands there, or name another place."
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "The file is larger than this disk or `ulimit -f` allows: name another place.",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "That disk can only be read: name another place, or mount it for writing.",
    errno.ENOENT: _ABSENT,
    errno.ENOTDIR: _PLACE,
    errno.EISDIR: _PLACE,
    errno.EEXIST: _PLACE,
    errno.ENAMETOOLONG: "Name another place.",
    errno.EMFILE: "Allow more open files: `ulimit -n 4096`.",
    errno.ENOLCK: "That disk has no file locks: mount it with them, or name another place.",
    errno.EIO: "The disk is failing or gone: look into the system's log.",
}


def describe(fault: BaseException) -> tuple[int | None, str]:
    """Exit code and message of a command that failed; no exit code where its traceback is to be shown."""
    if isinstance(fault, SensoriumError):
        return fault.exit_code, str(fault)
    if isinstance(fault, typer.TyperException):
        return fault.exit_code, _usage(fault)
    if isinstance(fault, KeyboardInterrupt) or isinstance(fault.__cause__, KeyboardInterrupt):
        return INTERRUPTED, "Interrupted."  # Python before 3.12 wraps one that meets a class in the making
    if isinstance(fault, OSError) and not os.environ.get(TRACEBACK_VARIABLE):
        return SensoriumError.exit_code, _explain(fault)
    return None, f"{type(fault).__name__}: {fault}"


def report(arguments: Sequence[str], message: str | None) -> None:
    """Pass the end of a command on to the verb that runs it as a stage, and to the run of `mlflow run`.

    Args:
        arguments: the command without its program.
        message: why it failed; None where it did not.
    """
    if message is not None and (path := os.environ.get(ERROR_FILE_VARIABLE)):
        with contextlib.suppress(FileNotFoundError):  # the caller has ended, and its folder is gone
            Path(path).write_text(message, encoding="utf-8")
    if not os.environ.get(_RUN_VARIABLE):
        return
    from sensorium.tracking.project_run import note_run

    try:
        note_run(Paths(find_root()), arguments, message)
    except (SensoriumError, OSError) as fault:  # the command itself is over
        _log.warning("%s", fault)


def _usage(fault: typer.TyperException) -> str:
    """What is wrong with the arguments of a command, and how it is used; nothing where its help was printed instead."""
    problem, context = fault.format_message(), getattr(fault, "ctx", None)
    if not problem or context is None:
        return problem
    return f"{problem}\n{context.get_usage()}\nTry `{context.command_path} {context.help_option_names[0]}` for help."


def _explain(fault: OSError) -> str:
    """One message: the files where they are known, the reason, the remedy."""
    names = [str(os.fsdecode(name)) for name in (fault.filename, fault.filename2) if isinstance(name, (str, bytes))]
    reason = fault.strerror or str(fault) or type(fault).__name__
    problem = f"{' -> '.join(names)}: {reason}" if names else reason
    remedy = _REMEDIES.get(fault.errno or 0, "Correct what the message names, then run the command again.")
    return f"{problem}.\n{remedy} {TRACEBACK_VARIABLE}=1 shows where it happened."
