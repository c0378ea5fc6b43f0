"""A campaign of faults: damage a finished project in every way, run the commands that read what was damaged, judge.

    python tests/faults/campaign.py PROJECT --count 1000 [--seed 0] [--table faults.md]

PROJECT is a clone in which `dvc pull` and `sensorium registry restore` have run; it is copied, never touched. Faults
are generated: every file of the project, every kind of damage, every command that reads such a file; `--count` of the
combinations are drawn. Verdict on each:

    right     the command succeeded, and everything that it is to give is as without the fault
    refused   one message that names file or key and a remedy; the remedy, typed, made the command succeed
    undetected  success, though the file holds other valid content: only its digest could tell

and, as failures of the campaign: `traceback`, `wrong` (success with other results), `silent` (no file or no remedy
named), `remedy` (it did not help), `changed` (a refused command changed another file).
"""

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

TIMEOUT_SECONDS = 180
GOOD = ("right", "refused", "undetected")
"""Verdicts that are no failure."""
TEACHER, STUDENT = "true_batch_001", "distillation_001"
SPLIT = "live_test_main"


def _missing(path: Path, _other: Path) -> None:
    path.unlink()


def _empty(path: Path, _other: Path) -> None:
    path.write_bytes(b"")


def _truncated(path: Path, _other: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _flipped(path: Path, _other: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _exchanged(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def _folder(path: Path, _other: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path, _other: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def _forbidden(path: Path, _other: Path) -> None:
    path.chmod(0)


FAULTS: dict[str, Callable[[Path, Path], None]] = {
    "missing": _missing,
    "empty": _empty,
    "truncated": _truncated,
    "bit flipped": _flipped,
    "other content": _exchanged,
    "a folder": _folder,
    "a dangling link": _dangling,
    "no permission": _forbidden,
}
"""What is done to a file; the second argument is another file of the same name or kind."""

PREDICT = f"sensorium predict -e {TEACHER} -s {SPLIT}"
OUT_OF_FOLD = f"sensorium predict -e {TEACHER} -s folds"
ENSEMBLE = f"sensorium ensemble -e {STUDENT},{TEACHER} -s {SPLIT} --pin data/registry/pair.json"
SUBMISSION = f"sensorium submission -e {STUDENT},{TEACHER} -t main"
READERS: list[tuple[str, tuple[str, ...]]] = [
    (r"data/store/.*", (PREDICT, "sensorium evaluate", "sensorium inspect")),
    (r"data/folds/.*", (OUT_OF_FOLD, "sensorium evaluate")),
    (rf"data/experiments/{TEACHER}/.*", (PREDICT, OUT_OF_FOLD, "sensorium register")),
    (r"data/experiments/.*", ("sensorium register", "sensorium results")),
    (r"data/predictions/[^/]*/out-of-fold/.*", ("sensorium evaluate", "sensorium report")),
    (r"data/predictions/.*", (SUBMISSION,)),
    (r"data/out-of-fold/.*", ("sensorium evaluate",)),
    (r"data/registry/.*", (ENSEMBLE,)),
    (r"data/runs/.*", ("sensorium register", "sensorium results")),
    (r"reports/evaluation/.*", ("sensorium results", "sensorium register")),
    (r"mlflow\.db", (ENSEMBLE, "sensorium results", "sensorium sync")),
    (r"mlartifacts/.*", (ENSEMBLE,)),
    (r"params\.yaml", ("sensorium config", "sensorium evaluate")),
    (r"dvc\.(yaml|lock)", ("sensorium results", "sensorium config")),
    (r"\.dvc/cache/files/.*", ("dvc checkout", "sensorium results")),
]
"""Which commands read a file, by its path; the first pattern that fits counts."""
_NO_RESULT = re.compile(
    r"(^|/)(\.git|\.venv|\.sensorium|__pycache__|tmp)(/|$)|mlflow\.db|^\.dvc/|provenance|^data/out-of-fold/"
)
"""Files that are no results. Those of data/out-of-fold hold digests of the inputs, and must follow a changed one."""
_QUOTED = re.compile(r"`((?:rm|dvc|sensorium|mlflow|git|make) [^`]*)`")
_PLAIN = re.compile(r"\b((?:dvc|sensorium|mlflow) [a-z][^\s;,]*(?: [^\s;,]*[\w/*])*)")


@dataclass(frozen=True)
class Combination:
    """One fault and one command."""

    file: str
    fault: str
    command: str


@dataclass(frozen=True)
class Outcome:
    """What a combination led to."""

    combination: Combination
    verdict: str
    detail: str


def combinations(project: Path) -> list[Combination]:
    """Every fault of every file with every command that reads it."""
    found = []
    for path in sorted(path for path in project.rglob("*") if path.is_file() and not path.is_symlink()):
        name = path.relative_to(project).as_posix()
        commands = next((commands for pattern, commands in READERS if re.fullmatch(pattern, name)), ())
        faults = [fault for fault in FAULTS if fault != "no permission" or os.geteuid() != 0]  # root may read all
        found += [Combination(name, fault, command) for command in commands for fault in faults]
    return found


def sample(all_of_them: list[Combination], count: int, seed: int) -> list[Combination]:
    """Draw evenly over kinds of files, so that the many chunks of a store do not crowd out the one database."""
    kinds: dict[str, list[Combination]] = {}
    for combination in all_of_them:
        pattern = next(pattern for pattern, _ in READERS if re.fullmatch(pattern, combination.file))
        kinds.setdefault(pattern, []).append(combination)
    rng = np.random.default_rng(seed)
    queues = [[kind[i] for i in rng.permutation(len(kind))] for kind in kinds.values()]
    drawn: list[Combination] = []
    while len(drawn) < count and any(queues):
        drawn += [queue.pop() for queue in queues if queue][: count - len(drawn)]
    return drawn


def digests(project: Path) -> dict[str, str]:
    """Digest of every file that is a result, by path."""
    found = {}
    for path in project.rglob("*"):
        name = path.relative_to(project).as_posix()
        if not _NO_RESULT.search(name) and path.is_file():
            with contextlib.suppress(PermissionError):
                found[name] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return found


def execute(command: str, project: Path) -> tuple[int, str]:
    """Exit code and output of a command typed in a project."""
    try:
        done = subprocess.run(
            ["bash", "-c", command], cwd=project, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, f"{command}: not over after {TIMEOUT_SECONDS} s"
    return done.returncode, done.stdout + done.stderr


def remedies(message: str) -> list[str]:
    """Commands that a message proposes, in its order."""
    flat = " ".join(message.split())
    return _QUOTED.findall(flat) or _PLAIN.findall(flat)


class Campaign:
    """Runs combinations, each in a copy of the project."""

    def __init__(self, project: Path, workshop: Path) -> None:
        """Take a finished project and a folder for its copies."""
        self.project, self.workshop = project, workshop
        self.expected: dict[str, dict[str, str]] = {}

    def _copy(self) -> Path:
        place = self.workshop / "project"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.project, place, symlinks=True, ignore=shutil.ignore_patterns(".venv", "site"))
        return place

    def _expected(self, command: str) -> dict[str, str]:
        """Results after the command without a fault."""
        if command not in self.expected:
            place = self._copy()
            code, output = execute(command, place)
            if code != 0:
                raise SystemExit(f"{command}: fails without any fault:\n{output}")
            self.expected[command] = digests(place)
        return self.expected[command]

    def run(self, combination: Combination) -> Outcome:
        """Damage, run, judge, follow the remedy."""
        expected = self._expected(combination.command)
        place = self._copy()
        damaged = place / combination.file
        others = sorted(path for path in damaged.parent.iterdir() if path.is_file() and path != damaged)
        siblings = [path for path in others if path.suffix == damaged.suffix] or others or [place / "README.md"]
        FAULTS[combination.fault](damaged, siblings[0])
        before = digests(place)
        code, output = execute(combination.command, place)
        verdict, detail = self._judge(combination, place, before, expected, code, output)
        return Outcome(combination, verdict, detail)

    def _judge(
        self,
        combination: Combination,
        place: Path,
        before: dict[str, str],
        expected: dict[str, str],
        code: int,
        output: str,
    ) -> tuple[str, str]:
        if "Traceback (most recent call last)" in output:
            return "traceback", output[-400:]
        after = digests(place)
        own = {combination.file}
        if code == 0:
            wrong = sorted(name for name in expected if after.get(name) != expected[name] and name not in own)
            if not wrong:
                return "right", ""
            return ("undetected" if combination.fault == "other content" else "wrong"), ", ".join(wrong[:3])
        changed = sorted(
            name
            for name in before | after
            if before.get(name) != after.get(name) and after.get(name) != expected.get(name) and name not in own
        )
        if changed:
            return "changed", ", ".join(changed[:3])
        found = remedies(output)
        if not found and not re.search(r"(?:Correct|Save|Restore|Remove|Write|Give|Resolve)\b", output):
            return "silent", output[-300:]
        if Path(combination.file).name in ("params.yaml", "dvc.yaml", "dvc.lock") or not found:
            return "refused", ""  # the user mends the text, or has git bring it back
        tried = []
        for remedy in found[:3]:
            tried.append(remedy)
            execute(remedy, place)
            if execute(combination.command, place)[0] == 0:
                return "refused", remedy
        return "remedy", f"{' | '.join(tried)} <- {output[-300:]}"


def report(outcomes: list[Outcome]) -> Iterator[str]:
    """A table in Markdown, one row per kind of file and fault."""
    yield "| file | fault | combinations | right | refused | undetected | failures |"
    yield "|---|---|---|---|---|---|---|"
    rows: dict[tuple[str, str], Counter[str]] = {}
    for outcome in outcomes:
        pattern = next(pattern for pattern, _ in READERS if re.fullmatch(pattern, outcome.combination.file))
        kind = re.sub(r"/?(\.\*|\[\^/\]\*/).*", "/", pattern).replace("\\", "")
        rows.setdefault((kind, outcome.combination.fault), Counter())[outcome.verdict] += 1
    for (kind, fault), counts in sorted(rows.items()):
        failures = sum(count for verdict, count in counts.items() if verdict not in GOOD)
        numbers = [sum(counts.values()), *(counts[verdict] for verdict in GOOD), failures]
        yield f"| {kind} | {fault} | {' | '.join(map(str, numbers))} |"


def main() -> None:
    """Run a campaign; exit code 1 where a combination failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    drawn = sample(combinations(options.project), options.count, options.seed)
    with tempfile.TemporaryDirectory() as workshop:
        campaign = Campaign(options.project.resolve(), Path(workshop))
        console, outcomes = Console(highlight=False, soft_wrap=True, markup=False), []
        for number, combination in enumerate(drawn, start=1):
            outcome = campaign.run(combination)
            outcomes.append(outcome)
            if outcome.verdict not in GOOD:
                console.print(f"{number}/{len(drawn)} {outcome.verdict}: {combination}\n    {outcome.detail}")
            elif number % 25 == 0:
                console.print(f"{number}/{len(drawn)}")
    lines = list(report(outcomes))
    console.print("\n".join(lines))
    console.print(Counter(outcome.verdict for outcome in outcomes))
    if options.table:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(any(outcome.verdict not in GOOD for outcome in outcomes))


if __name__ == "__main__":
    main()
