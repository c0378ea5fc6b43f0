"""What a check finds, and what all checks know of the project."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sensorium.config import Config
from sensorium.errors import PipelineError, SensoriumError
from sensorium.paths import Paths

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_SHOWN = 3
_UNREADABLE = "Correct or remove it; `git checkout` with its name brings back what git holds."


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    severity: Severity
    what: str
    """The file or key, and what is wrong with it."""
    remedy: str = ""
    """What mends it; a command stands between backticks."""
    fix: Callable[[], str] | None = None
    """Mends it without losing anything that cannot be had again, and returns what was done."""


@dataclass
class Project:
    """The project under examination."""

    paths: Paths
    deep: bool = False
    """Whether all bytes are read."""
    config: Config | None = None
    """None where params.yaml is not valid; checks that need it are left out."""
    intact: set[Path] = field(default_factory=set)
    """Outputs whose bytes were read and are those that dvc.lock names."""
    damaged: set[Path] = field(default_factory=set)
    """Outputs that are missing, or are not those of dvc.lock: their content is not examined again."""
    read: Callable[[int], None] = lambda _: None
    """Called with the bytes that a thread has read; any thread may call it."""
    begin: Callable[[str, int], None] = lambda _title, _total: None
    """Called before many bytes are read, with a title and their number."""

    @property
    def root(self) -> Path:
        """Folder of params.yaml."""
        return self.paths.root

    @property
    def has_dvc(self) -> bool:
        """Whether DVC can open the project: it has the folder .dvc."""
        return (self.root / ".dvc").is_dir()

    def name(self, path: Path) -> str:
        """The path relative to the root, where it is below it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    @staticmethod
    def typed(path: Path) -> str:
        """The path as the user types it in the working folder."""
        return shlex.quote(os.path.relpath(path))


Check = Callable[[Project], Iterator[Finding]]


def of_error(fault: SensoriumError, severity: Severity = "error") -> Finding:
    """The finding of a check that was refused."""
    return Finding(severity, fault.problem, fault.remedy)


def examine(check: Check, project: Project) -> Iterator[Finding]:
    """The findings of a check; what ends it is the last of them, and other checks go on."""
    try:
        yield from check(project)
    except SensoriumError as fault:
        yield of_error(fault)
    except (OSError, UnicodeDecodeError) as fault:
        file = getattr(fault, "filename", None) or "a file"
        yield Finding("error", f"{file}: cannot be read: {getattr(fault, 'strerror', None) or fault}.", _UNREADABLE)
    except Exception as fault:
        from dvc.config import ConfigError  # takes a tenth of a second
        from dvc.exceptions import DvcException

        if not isinstance(fault, DvcException):
            raise
        file = ".dvc/config" if isinstance(fault, ConfigError) else "DVC"
        yield Finding("error", f"{file}: {' '.join(str(fault).split())}.", "Type `dvc status`, which shows it in full.")


def command(root: Path, *words: str) -> Callable[[], str]:
    """A fix that types a command in the project's root.

    Raises:
        PipelineError: when called, if the command fails.
    """

    def run() -> str:
        text = " ".join(words)
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        done = subprocess.run(  # noqa: S603 - commands of ours
            words, cwd=root, env=os.environ | {"PATH": programs}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise PipelineError(f"`{text}` failed: {' '.join(reason[-2:])}", "Type it to see all of its output.")
        return f"`{text}` was run"

    return run


def some(names: Sequence[str]) -> str:
    """The first of several names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
