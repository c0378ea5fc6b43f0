"""Commands typed in a project: as real processes, or as forked children of a server that has imported everything.

Most of a short command's time is the import of PyTorch, MLflow and DVC. The server imports them once; each command is
then a process of its own with its own working folder, output and exit code, which calls the function that the installed
script would call. What is no single call of `sensorium`, `dvc` or `mlflow` goes to a shell in either case.
"""

import atexit
import contextlib
import importlib
import json
import os
import pkgutil
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRAMS = {"sensorium": ("sensorium.cli", "main"), "dvc": ("dvc.cli", "main"), "mlflow": ("mlflow.cli", "cli")}
"""Program -> module and function of its script."""
_SHELL = set("&|;<>()$`*?[]{}~\n")
_MODULES = (
    "dvc.repo.checkout", "dvc.repo.fetch", "dvc.repo.pull", "dvc.repo.reproduce", "dvc.repo.status", "dvc.repo.commit",
    "dvc_data.index", "dvc.stage.loader", "dvc.stage.run", "dvc_objects.fs.local",
    "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store", "mlflow.pyfunc",
    "mlflow.pytorch", "zarr", "pandas", "pyarrow.parquet", "matplotlib.pyplot", "matplotlib.backends.backend_agg",
    "torch", "safetensors.torch", "skimage.transform",
)  # fmt: skip
_DROPPED = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH of linux/capability.h
_PR_CAPBSET_DROP = 24


def drop_privileges() -> None:
    """Run this program anew without root's right to read and write every file, so that permissions can be tested."""
    if os.geteuid() == 0 and can_read_all():
        import ctypes

        for capability in _DROPPED:  # the set that a program which root starts is limited to
            ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.execv(sys.executable, sys.orig_argv)


def can_read_all() -> bool:
    """Whether this process may read files that nobody may read."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).chmod(0)
        with contextlib.suppress(PermissionError):
            Path(file.name).read_bytes()
            return True
    return False


class RealProcesses:
    """Each command in a shell of its own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Take the environment of all commands."""
        self._environment = environment

    def execute(self, command: str, folder: Path, seconds: float) -> tuple[int, str]:
        """Exit code and output of a command; 124 where it takes longer."""
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                code = 124
            output.seek(0)
            return code, output.read().decode(errors="replace")

    def close(self) -> None:
        """Nothing is left."""


class ForkedProcesses:
    """Each command in a forked child of one server."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start the server with the environment of all commands; the first one waits for its imports."""
        self._real = RealProcesses(environment)
        pipe = subprocess.PIPE
        self._server = subprocess.Popen([sys.executable, __file__], env=environment, stdin=pipe, stdout=pipe, text=True)

    def execute(self, command: str, folder: Path, seconds: float) -> tuple[int, str]:
        """Exit code and output of a command; 124 where it takes longer."""
        first, _, rest = command.partition(" && ")
        if rest:
            code, shown = self.execute(first, folder, seconds)
            if code != 0:
                return code, shown
            code, more = self.execute(rest, folder, seconds)
            return code, shown + more
        words = [] if _SHELL & set(command) else shlex.split(command)
        if not words or words[0] not in PROGRAMS:
            return self._real.execute(command, folder, seconds)
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.NamedTemporaryFile() as output:
            request = {"words": words, "folder": str(folder), "output": output.name, "seconds": seconds}
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return code, output.read().decode(errors="replace")

    def close(self) -> None:
        """End the server: its input ends, and its pipes are closed."""
        self._server.communicate()


def _serve() -> None:
    """Import, then run one command per line of standard input; its exit code is a line of standard output."""
    from sensorium.processes import tune_process

    tune_process()
    import sensorium

    names = [found.name for found in pkgutil.walk_packages(sensorium.__path__, "sensorium.")]
    for name in (*_MODULES, *(module for module, _ in PROGRAMS.values()), *names):
        with contextlib.suppress(ImportError):  # an optional dependency that is not installed
            importlib.import_module(name)
    for line in sys.stdin:
        sys.stdout.write(f"{_run(json.loads(line))}\n")
        sys.stdout.flush()


def _run(request: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        _become(request)
    descriptor = os.pidfd_open(child)
    ended, _, _ = select.select([descriptor], [], [], request["seconds"])
    os.close(descriptor)
    if not ended:
        os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if ended else 124


def _become(request: dict[str, Any]) -> None:
    """Be the process of a command; never returns."""
    code = 1
    try:
        os.setsid()
        output, nothing = os.open(request["output"], os.O_WRONLY | os.O_APPEND), os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.chdir(request["folder"])
        os.environ["PWD"] = request["folder"]
        program = request["words"][0]
        sys.argv = [str(Path(sys.executable).with_name(program)), *request["words"][1:]]
        module, function = PROGRAMS[program]
        code = _exit_code(getattr(importlib.import_module(module), function))
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code(function: Any) -> int:
    """What the interpreter would make of the end of a script."""
    try:
        value = function()
    except SystemExit as fault:
        value = fault.code
    except BaseException:
        traceback.print_exc()
        return 1
    if value is None:
        return 0
    if isinstance(value, int):
        return value & 0xFF
    sys.stderr.write(f"{value}\n")
    return 1


if __name__ == "__main__":
    _serve()
