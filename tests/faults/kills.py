"""A campaign of kills: end commands at random moments, give them again, compare with an undisturbed project.

    python tests/faults/kills.py --count 300 [--seed 0] [--table kills.md] [--keep FOLDER]
    python tests/faults/kills.py --twice [--table twice.md] [--keep FOLDER]

A tiny project is run once by `dvc repro` (or taken from FOLDER, where an earlier campaign kept it). For each kill, the
outputs of one command are removed from a copy of it, DVC's cached objects of them as well, and the command is started;
after a random part of its undisturbed time it gets a signal as a system or a person sends it:

    SIGKILL        to the process alone, as the kernel does when memory is short; what it started may go on
    SIGTERM        to the process alone, as batch systems do
    SIGINT         to the process and all that it started, as Ctrl-C does
    SIGINT twice   the second within a second of the first

Then the same command is typed again. Verdict:

    healed     it succeeded, and every output and dvc.lock are as in the undisturbed project
    waited     it was refused in one message while what was started before was ending; a few seconds later as above
    noise      as healed, but Python printed that a second Ctrl-C, or one in a callback of a library, was ignored
    over       the command had done its work when the signal came, and the outputs are as undisturbed

and, as failures of the campaign: `traceback` (of the killed command, after a signal that can be caught), `failed` (the
command typed again), `wrong` (other outputs), `left` (unfinished siblings of outputs stay, or processes).

`--twice` kills nothing: each command is given twice at the same moment. Verdict: `both` succeeded, or `one` did and the
other was refused in one message, the outputs being as undisturbed; failures are as above.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from project_copy import ProjectCopy
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import NEW_MOUSE, tiny_tree
from tiny_project import Project

GOOD = ("healed", "waited", "over", "noise")
"""Verdicts that are no failure."""
SIGNALS: dict[str, tuple[signal.Signals, ...]] = {
    "SIGKILL": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
}
_FOLD = "data/experiments/true_batch_001/fold_0"
_LINK = "data/runs/true_batch_001/fold_0.json"
_STORE = ("mlflow.db", "mlartifacts")
_OUT_OF_FOLD = ("data/predictions/true_batch_001/out-of-fold", "data/out-of-fold/true_batch_001.json")
_SPLIT = "live_test_main"
_PAIR = "distillation_001,true_batch_001"
COMMANDS: dict[str, tuple[str, ...]] = {
    f"sensorium ingest -m {NEW_MOUSE}": (f"data/store/{NEW_MOUSE}.zarr",),
    "sensorium folds": ("data/folds",),
    "sensorium train -e true_batch_001 -f 0": (_FOLD, _LINK),
    f"sensorium predict -e true_batch_001 -s {_SPLIT}": (f"data/predictions/true_batch_001/{_SPLIT}",),
    "sensorium predict -e true_batch_001 -s folds": _OUT_OF_FOLD,
    "sensorium evaluate": ("reports/evaluation",),
    "sensorium report": ("reports/report",),
    "sensorium register": ("data/registry/pair.json", *_STORE),
    f"sensorium ensemble -e {_PAIR} -s {_SPLIT} --pin data/registry/pair.json": (f"data/predictions/{_PAIR}/{_SPLIT}",),
    f"sensorium submission -e {_PAIR} -t main": ("data/submissions/main",),
    "dvc repro train@true_batch_001-0": (_FOLD, _LINK),
    f"dvc repro predict@true_batch_001-{_SPLIT}": (f"data/predictions/true_batch_001/{_SPLIT}",),
    "mlflow run . --env-manager local -e train -P experiment=true_batch_001 -P fold=0": (_FOLD, _LINK),
    "sensorium run evaluate report": ("reports/evaluation", "reports/report"),
    "sensorium run train@true_batch_001-0": (_FOLD, _LINK),
    "dvc repro": (_FOLD, _LINK, *_OUT_OF_FOLD, "reports/evaluation", "reports/report"),
    "sensorium registry restore": _STORE,
    "sensorium doctor --fix": _STORE,
    "sensorium sync": (),
    "sensorium promote": (),
}
"""Command -> its outputs, which are removed before it starts; those without change only MLflow's database.

Left out are `sensorium gc --delete`, which needs a repository of git (tests/faults/soak.py has one), `sensorium
rollback`, which needs two champions, and commands whose files are no outputs of stages.
"""
TIMEOUT_SECONDS = 600
_TRACEBACK, _IGNORED = "Traceback (most recent call last)", "Exception ignored in"
_FEWEST_SECONDS = 0.2
_REFUSED_SECONDS, _ENDING_SECONDS = 60, 300
_AT_WORK = ("at work", "locked", "is running", "being", "another")
_NOT_COMPARED = ("data/runs", "data/sensorium_all_2023")  # links to runs; what DVC does not own
_NOT_AN_OUTPUT = re.compile(f"^(?!data/|reports/)|^({'|'.join(_NOT_COMPARED)})/")


def _heed_interrupts() -> None:
    """A shell that starts this campaign in the background lets all of its processes ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Kill:
    """One command, one kind of signal, one moment."""

    command: str
    signals: str
    fraction: float
    """Moment of the first signal, as part of the undisturbed time."""
    pause: float
    """Seconds between the first and the second signal."""


@dataclass(frozen=True)
class Outcome:
    """What a kill led to."""

    kill: Kill
    verdict: str
    detail: str


def draw(count: int, seed: int, only: str = "") -> list[Kill]:
    """All commands that contain a text with all signals in turn, at moments drawn from a seed."""
    rng = np.random.default_rng(seed)
    pairs = [(command, signals) for command in COMMANDS if only in command for signals in SIGNALS]
    order = [pairs[i] for _ in range(-(-count // len(pairs))) for i in rng.permutation(len(pairs))]
    return [Kill(*pair, float(rng.uniform(0.02, 0.98)), float(rng.uniform(0.0, 1.0))) for pair in order[:count]]


def locked(folder: Path) -> Any:
    """The lock file as a tree, without the links to runs, which name new runs."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    for stage in stages.values():
        for kind in ("deps", "outs"):
            stage[kind] = [one for one in stage.get(kind, []) if not one["path"].startswith(_NOT_COMPARED)]
    return stages


class Campaign:
    """Kills commands in a copy of an undisturbed project."""

    def __init__(self, undisturbed: Path, workshop: Path) -> None:
        """Take a project in which everything ran, and a folder for its copy."""
        self._copy = ProjectCopy(undisturbed, workshop / "project")
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = os.environ | {
            "PATH": programs,
            "PYTHONPATH": str(self._copy.place),
            "OMP_NUM_THREADS": "1",
            "CI": "true",
            "DVC_SITE_CACHE_DIR": str(workshop / "site-cache"),
            "SENSORIUM_UPLOADER_IDLE_TIMEOUT": "0",
        }
        self._lock = locked(undisturbed)
        self._expected = self._outputs()
        self._seconds: dict[str, float] = {}

    def _outputs(self) -> dict[str, str]:
        """Digest of every output, by path."""
        return self._copy.digests(_NOT_AN_OUTPUT)

    def _prepare(self, command: str) -> None:
        """Put the project back and remove what the command makes, from DVC's cache as well."""
        self._copy.restore()
        outputs = COMMANDS[command]
        lock = yaml.safe_load((self._copy.place / "dvc.lock").read_text(encoding="utf-8"))
        for stage in lock["stages"].values():
            for out in stage["outs"]:
                if out["path"] in outputs and "md5" in out:
                    self._forget(out["md5"])
        shutil.rmtree(self._copy.place / ".dvc" / "cache" / "runs", ignore_errors=True)
        for output in outputs:
            path = self._copy.place / output
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _forget(self, digest: str) -> None:
        objects = self._copy.place / ".dvc" / "cache" / "files" / "md5"
        (objects / digest[:2] / digest[2:]).unlink(missing_ok=True)

    def _start(self, command: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(
                command.split(),
                cwd=self._copy.place,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_heed_interrupts,
            )

    def _finish(self, command: str, log: Path) -> tuple[int, str]:
        process = self._start(command, log)
        try:
            code = process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = 124
        return code, log.read_text(errors="replace")

    def _undisturbed_seconds(self, command: str, log: Path) -> float:
        if command not in self._seconds:
            self._prepare(command)
            start = time.monotonic()
            code, output = self._finish(command, log)
            self._seconds[command] = time.monotonic() - start
            wrong = self._wrong()
            if code != 0 or wrong:
                raise SystemExit(f"{command}: wrong without any kill: {wrong}\n{output}")
        return self._seconds[command]

    def _wrong(self) -> list[str]:
        """Outputs that are missing, other than undisturbed, or too many; stages of the lock file that differ."""
        present = self._outputs()
        wrong = sorted(name for name in self._expected | present if self._expected.get(name) != present.get(name))
        lock = locked(self._copy.place)
        for name in sorted(self._lock | lock):
            before, after = self._lock.get(name, {}), lock.get(name, {})
            differing = [key for key in sorted(before | after) if before.get(key) != after.get(key)]
            wrong += [f"dvc.lock: {name}: {', '.join(differing)}"] if differing else []
        return wrong

    def run(self, kill: Kill) -> Outcome:
        """Start, kill, type again, judge."""
        log = self._copy.place.with_name("log")
        seconds = self._undisturbed_seconds(kill.command, log)
        while True:
            self._prepare(kill.command)
            start = time.monotonic()
            process = self._start(kill.command, log)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(kill.fraction * seconds)
            if process.returncode != 0 or seconds < _FEWEST_SECONDS:
                break
            seconds = self._seconds[kill.command] = time.monotonic() - start  # it was faster than before: again
        for number, signum in enumerate(SIGNALS[kill.signals]):
            if number:
                time.sleep(kill.pause)
            if process.poll() is not None:
                break
            if signum == signal.SIGINT:
                os.killpg(process.pid, signum)
            else:
                process.send_signal(signum)
        try:
            code = process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Outcome(kill, "left", "the process did not end after the signal")
        output = log.read_text(errors="replace")
        ignored = output.count(_IGNORED)
        if output.count(_TRACEBACK) > ignored:
            return Outcome(kill, "traceback", output[-1500:])
        return Outcome(kill, *self._heal(kill, log, "noise" if ignored else "over" if code == 0 else "healed"))

    def _heal(self, kill: Kill, log: Path, verdict: str) -> tuple[str, str]:
        """Type the command again; returns the verdict, another one where it went badly, and details."""
        deadline = time.monotonic() + _REFUSED_SECONDS
        while True:
            code, output = self._finish(kill.command, log)
            if _TRACEBACK in output:
                return "failed", output[-1500:]
            if code == 0:
                break
            if not any(words in output for words in _AT_WORK) or time.monotonic() > deadline:
                return "failed", output[-600:]
            verdict = "waited"
            time.sleep(1)
        left = self._left()
        if left:
            return "left", ", ".join(left[:3])
        wrong = self._wrong()
        return ("wrong", ", ".join(wrong[:3])) if wrong else (verdict, "")

    def twice(self, command: str) -> tuple[str, str]:
        """Give a command twice at once; returns verdict and details."""
        self._prepare(command)
        logs = [self._copy.place.with_name(name) for name in ("log", "second-log")]
        processes = [self._start(command, log) for log in logs]
        codes = [process.wait(2 * TIMEOUT_SECONDS) for process in processes]
        outputs = [log.read_text(errors="replace") for log in logs]
        if any(_TRACEBACK in output for output in outputs):
            return "traceback", "\n".join(outputs)[-1500:]
        refused = [output for code, output in zip(codes, outputs, strict=True) if code != 0]
        if len(refused) == len(codes) or not all(any(words in output for words in _AT_WORK) for output in refused):
            return "failed", "\n".join(refused)[-1500:]
        if left := self._left():
            return "left", ", ".join(left[:3])
        wrong = self._wrong()
        return ("wrong", ", ".join(wrong[:3])) if wrong else ("one" if refused else "both", "".join(refused)[-300:])

    def _left(self) -> list[str]:
        """Unfinished files beside outputs, and processes that still work in the copy after a while."""
        deadline = time.monotonic() + _ENDING_SECONDS
        while (processes := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        working = [" ".join(process.cmdline()) for process in processes]
        for process in processes:
            process.kill()
        unfinished = [path for path in self._copy.place.glob("**/*") if path.name.endswith((".partial", ".retired"))]
        return working + [str(path) for path in unfinished]

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self._copy.place) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:  # it ended, or is not ours
                continue
        return found


def report(outcomes: list[Outcome]) -> Iterator[str]:
    """A table in Markdown, one row per command and signal."""
    yield f"| command | signal | kills | {' | '.join(GOOD)} | failures |"
    yield "|---|---|" + "---:|" * (len(GOOD) + 2)
    rows: dict[tuple[str, str], Counter[str]] = {}
    for outcome in outcomes:
        command = outcome.kill.command.replace(NEW_MOUSE, "MOUSE")
        rows.setdefault((command, outcome.kill.signals), Counter())[outcome.verdict] += 1
    for (command, signals), counts in sorted(rows.items()):
        failures = sum(count for verdict, count in counts.items() if verdict not in GOOD)
        numbers = [sum(counts.values()), *(counts[verdict] for verdict in GOOD), failures]
        yield f"| `{command}` | {signals} | {' | '.join(map(str, numbers))} |"


def undisturbed_project(folder: Path) -> Path:
    """A tiny project in which everything ran; the one of an earlier campaign where there is one."""
    place = folder / "project"
    if not place.exists():
        Project(place, tiny_tree()).repro()
    return place


def give_twice(campaign: Campaign, options: argparse.Namespace, console: Console) -> bool:
    """Give every command twice at once and print a table; returns whether any ended badly."""
    lines, failed = ["| command | verdict |", "|---|---|"], False
    for command in COMMANDS:
        if options.only in command:
            verdict, detail = campaign.twice(command)
            failed |= verdict not in {"both", "one"}
            lines.append(f"| `{command.replace(NEW_MOUSE, 'MOUSE')}` | {verdict} |")
            console.print(f"{verdict}: {command}\n    {detail}")
    console.print("\n".join(lines))
    if options.table:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return failed


def main() -> None:
    """Run a campaign; exit code 1 where a kill ended badly. Ctrl-C ends it with the table of what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--keep", type=Path, help="folder of the undisturbed project")
    parser.add_argument("--only", default="", help="commands that contain this text")
    parser.add_argument("--twice", action="store_true", help="give each command twice at once instead")
    options = parser.parse_args()
    kills = draw(options.count, options.seed, options.only)
    console, outcomes = Console(highlight=False, soft_wrap=True, markup=False), []
    with tempfile.TemporaryDirectory() as workshop, contextlib.suppress(KeyboardInterrupt):
        source = undisturbed_project(options.keep or Path(workshop) / "undisturbed")
        campaign = Campaign(source, Path(workshop))
        if options.twice:
            sys.exit(give_twice(campaign, options, console))
        for number, kill in enumerate(kills, start=1):
            outcome = campaign.run(kill)
            outcomes.append(outcome)
            console.print(f"{number}/{len(kills)} {outcome.verdict}: {kill}")
            if outcome.verdict not in GOOD:
                console.print(f"    {outcome.detail}")
    lines = list(report(outcomes))
    console.print("\n".join(lines))
    console.print(Counter(outcome.verdict for outcome in outcomes))
    if options.table:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(any(outcome.verdict not in GOOD for outcome in outcomes) or len(outcomes) < len(kills))


if __name__ == "__main__":
    main()
