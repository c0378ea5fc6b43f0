"""A soak: a small project is changed, run, promoted, synchronised and cleaned, again and again, with random kills.

    python tests/faults/soak.py --rounds 20 [--minutes 30] [--seed 0] [--keep FOLDER] [--table soak.md]

Each round changes the learning rate of the student and types `dvc repro register`, `sensorium promote`,
`sensorium sync` and `sensorium gc --delete`; half of the first commands are killed at a random moment and typed again.
Nothing is committed but the project at the start, so what a round made is unneeded after the next one. At the end the
settings and the champion are those of the start again, the runs of the rounds are deleted, and `sensorium gc --delete`
has the last word. The end must be as the start: disk within 2 %, no more cache objects, database within 10 %, and the
largest process within 20 %; that of the last round must be within 20 % of that of the first. Printed for each round:
what the project takes on disk, objects of DVC's cache, size of the database, versions in the registry, and the largest
process.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from kills import undisturbed_project
from rich.console import Console

from sensorium.tracking.database import registered

_LONGEST_SECONDS = 1800.0
_MARGIN = "10"
"""A candidate may be that much worse: every round has another champion."""
_DISK, _DATABASE, _MEMORY = 1.02, 1.1, 1.2
"""What disk, database and largest process may take at the end, relative to the start; processes also in the last round,
relative to the first."""
_TRIES = 20


@dataclass(frozen=True)
class Figures:
    """What a project takes."""

    megabytes: float
    """Of all files in the project, hard links counted once."""
    objects: int
    """In DVC's cache."""
    database: float
    """Size of mlflow.db, MiB."""
    versions: int
    """Folders of registered models."""
    resident: float
    """The largest process since the last figures, MiB."""

    def row(self, title: str) -> str:
        """As a row of the table."""
        return (
            f"| {title} | {self.megabytes:.1f} | {self.objects} | {self.database:.2f} | {self.versions} | "
            f"{self.resident:.0f} |"
        )


def grown(first: Figures, last: Figures) -> bool:
    """Whether a project takes more than before, beyond the tolerances."""
    return (
        last.megabytes > first.megabytes * _DISK
        or last.objects > first.objects
        or last.database > first.database * _DATABASE
        or last.resident > first.resident * _MEMORY
    )


class Soak:
    """A project of its own in which commands are typed."""

    def __init__(self, source: Path, folder: Path, seed: int) -> None:
        """Copy an undisturbed project into a repository of its own."""
        self.root, self._rng, self._largest = folder / "project", np.random.default_rng(seed), 0.0
        self._log = folder / "log"
        self.kills = 0
        shutil.copytree(source, self.root, symlinks=True)
        self._environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "CI": "true",
            "DVC_SITE_CACHE_DIR": str(folder / "site-cache"),
            "SENSORIUM_UPLOADER_IDLE_TIMEOUT": "0",
        }
        self._environment.pop("MLFLOW_TRACKING_URI", None)
        ignored = ("/data/", "/.sensorium/", "/mlflow.db*", "/mlartifacts/", "/reports/", "__pycache__/", ".*.partial")
        (self.root / ".gitignore").write_text("\n".join(ignored) + "\n")
        self.must("git init --quiet")
        self.must("dvc config --quiet core.no_scm false")
        self.must("git add .")
        self.must("git -c user.name=soak -c user.email=soak@example.org commit --quiet --message start")

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own."""
        with self._log.open("wb") as output:
            return subprocess.Popen(
                command.split(),
                cwd=self.root,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def type(self, command: str, kill_after: float | None = None) -> int:
        """Exit code of a command; it and all that it started are killed after some seconds."""
        process = self.start(command)
        deadline = time.monotonic() + (_LONGEST_SECONDS if kill_after is None else kill_after)
        while time.monotonic() < deadline:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                process.returncode = os.waitstatus_to_exitcode(status)
                self._largest = max(self._largest, usage.ru_maxrss / 1024)
                return process.returncode
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        self.kills += 1
        return process.wait()

    def must(self, command: str) -> None:
        """Give a command, again while it says that what was killed is still ending; it must succeed."""
        for _ in range(_TRIES):
            if self.type(command) == 0:
                return
            output = self._log.read_text(errors="replace")
            if "Traceback (most recent call last)" in output or not any(
                word in output for word in ("at work", "locked", "is running", "another")
            ):
                break
            time.sleep(3)
        raise SystemExit(f"{command}:\n{self._log.read_text(errors='replace')[-3000:]}")

    def figures(self) -> Figures:
        """What the project takes now."""
        sizes = {}
        for path in self.root.rglob("*"):
            if path.is_file() and not path.is_symlink() and ".git" not in path.relative_to(self.root).parts[:1]:
                state = path.stat()
                sizes[state.st_ino] = state.st_size
        objects = len(list((self.root / ".dvc" / "cache" / "files" / "md5").glob("??/*")))
        versions = len(registered(self.root / "mlflow.db"))
        database = (self.root / "mlflow.db").stat().st_size / 2**20
        largest, self._largest = self._largest, 0.0
        return Figures(sum(sizes.values()) / 2**20, objects, database, versions, largest)

    def set_learning_rate(self, value: float) -> None:
        """Change the student's recipe."""
        file = self.root / "params.yaml"
        tree = yaml.safe_load(file.read_text())
        tree["experiments"]["distillation_001"]["training"]["learning_rate"] = value
        file.write_text(yaml.safe_dump(tree, sort_keys=False))

    def round(self, number: int, seconds: float) -> None:
        """One change and everything that follows it; `seconds` is how long a run takes."""
        self.set_learning_rate(1e-3 * (1 + number / 1000))
        if self._rng.random() < 0.5:
            self.type("dvc repro register", float(self._rng.uniform(0, seconds)))
        self.must("dvc repro register")
        self.must(f"sensorium promote --margin {_MARGIN}")
        self.must("sensorium sync")
        self.must("sensorium gc --delete")

    def return_to_start(self, runs: set[str]) -> None:
        """Settings, champion and runs of the start; `runs` are those that it had."""
        self.must("git checkout --quiet params.yaml dvc.lock")
        self.must("dvc checkout --quiet --force")
        self.must("dvc repro register")
        self.must("sensorium sync")
        client = self._client()
        client.set_registered_model_alias("sensorium-pair", "champion", "1")  # an older one is no candidate any more
        for run in self.runs() - runs:
            client.delete_run(run)
        self.must("sensorium gc --delete")

    def runs(self) -> set[str]:
        """Ids of all runs."""
        client = self._client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return {run.info.run_id for run in client.search_runs(experiments, max_results=10_000)}

    def _client(self):  # type: ignore[no-untyped-def] - importing MLflow takes seconds
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.root}/mlflow.db")


def main() -> None:
    """Run the soak; exit code 1 where it ends with more than at the start, or without a round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=120, help="begin no round after that time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder of the undisturbed project")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    console, begin = Console(highlight=False, soft_wrap=True, markup=False), time.monotonic()
    lines = ["| round | MiB on disk | cache objects | database, MiB | models | largest process, MiB |"]
    lines.append("|---|" + "---:|" * 5)
    with tempfile.TemporaryDirectory() as workshop:
        soak = Soak(undisturbed_project(options.keep or Path(workshop) / "undisturbed"), Path(workshop), options.seed)
        soak.must("sensorium promote")
        soak.must("sensorium gc --delete")
        runs, first = soak.runs(), soak.figures()
        lines.append(first.row("start"))
        seconds, rounds = 30.0, list[Figures]()
        for number in range(1, options.rounds + 1):
            if time.monotonic() - begin > 60 * options.minutes:
                break
            started = time.monotonic()
            soak.round(number, seconds)
            seconds = time.monotonic() - started
            rounds.append(soak.figures())
            lines.append(rounds[-1].row(str(number)))
            console.print(f"{lines[-1]} {seconds:.0f} s")
        soak.return_to_start(runs)
        last = soak.figures()
        lines.append(last.row("end"))
    console.print("\n".join(lines))
    console.print(f"{soak.kills} kills, {(time.monotonic() - begin) / 60:.0f} minutes")
    if options.table:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(not rounds or grown(first, last) or rounds[-1].resident > rounds[0].resident * _MEMORY)


if __name__ == "__main__":
    main()
