"""A campaign of faults: damage a finished project in every way, run the commands that read what was damaged, judge.

    python tests/faults/campaign.py [PROJECT] --count 1000 [--seed 0] [--only REGEX] [--table faults.md]
        [--processes real]

PROJECT is a clone in which `dvc pull` and `sensorium registry restore` have run; it is copied, never touched. Where
none is given, one is made of this clone, with raw mice, a champion and an interrupted training. Faults are generated:
every file of the project (`--only`: those in whose path REGEX is found), every kind of damage, every command that
reads such a file; `--count` of the combinations are drawn. A file that no entry of READERS or UNREAD fits is an error.
Verdict on each:

    right       the command succeeded, and every result is as without the fault
    refused     one message that names the file and a command; typed, it mended the project: every result is right
    explained   one message that names the file and says what is wrong; with the file put back, every result is right

and, as failures of the campaign: `traceback`, `wrong` (success with other results), `silent` (no file or no remedy
named), `remedy` (it did not help), `changed` (a refused command changed another file), `missed` (a command whose task
is to report damage did not name a damaged result). Such a command may succeed with a warning: it is judged by its
message as a refused one is.

The work is done by commands in forked processes of one server (see processes.py); `--processes real` starts each anew.
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from processes import ForkedProcesses, RealProcesses, can_read_all, drop_privileges
from project_copy import ProjectCopy
from rich.console import Console

TIMEOUT_SECONDS = 180
GOOD = ("right", "refused", "explained")
"""Verdicts that are no failure."""
TEACHER, STUDENT, BASELINE = "true_batch_001", "distillation_001", "baseline_001"
SPLIT = "live_test_main"
MOUSE = "dynamic29156-11-10-Video-8744edeac3b4d1ce16b680916b5267ce"


def _missing(path: Path, _other: Path) -> None:
    path.unlink()


def _write(path: Path, content: bytes) -> None:
    """Overwrite a file in place, as a failing disk does it, whoever may write it."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(content)
    path.chmod(mode)


def _empty(path: Path, _other: Path) -> None:
    _write(path, b"")


def _truncated(path: Path, _other: Path) -> None:
    content = path.read_bytes()
    _write(path, content[: len(content) // 2])


def _flipped(path: Path, _other: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
    _write(path, bytes(content))


def _exchanged(path: Path, other: Path) -> None:
    _write(path, other.read_bytes())


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
OUT_OF_FOLD = f"sensorium predict -e {BASELINE} -s folds"
ENSEMBLE = f"sensorium ensemble -e {STUDENT},{TEACHER} -s {SPLIT} --pin data/registry/pair.json"
SUBMISSION = f"sensorium submission -e {STUDENT},{TEACHER} -t main"
INGEST = f"sensorium ingest -m {MOUSE}"
TRAIN = f"sensorium train -e {BASELINE} -f 0"
RESTORE = "sensorium registry restore"
MLFLOW = "mlflow run . --env-manager local -e checkpoints"
"""It reads its files before any code of the project runs: its message is MLflow's, and is not judged."""
SCORE = "sensorium score data/submissions/main/main.zip"
DOCTOR = "sensorium doctor --quick"
VERIFY = "sensorium verify"
REMOTE = "sensorium remote check --read-only --objects"
REPORTERS = (DOCTOR, VERIFY, REMOTE)
"""Commands whose task is to report damage."""
PRINTERS = ("sensorium results", SCORE)
"""Commands whose printed scores are results."""
EXPENSIVE = (OUT_OF_FOLD, ENSEMBLE, TRAIN, RESTORE, MLFLOW)
"""Commands that take several times as long as the others."""
EXPENSIVE_SHARE = 0.25
"""Part of their combinations that takes part in the draw."""
READERS: list[tuple[str, tuple[str, ...]]] = [
    (rf"data/sensorium_all_2023/{MOUSE}/.*", (INGEST, VERIFY)),
    (r"data/sensorium_all_2023/\.truth/.*", (SCORE,)),
    (r"data/sensorium_all_2023/.*", (VERIFY, SCORE)),
    (r"data/store/.*", (PREDICT, "sensorium evaluate", "sensorium inspect", DOCTOR)),
    (r"data/folds/.*", (OUT_OF_FOLD, "sensorium evaluate", "sensorium inspect", DOCTOR)),
    (rf"data/experiments/{TEACHER}/.*", (PREDICT, "sensorium register", DOCTOR)),
    (rf"data/experiments/{BASELINE}/.*", (OUT_OF_FOLD, "sensorium results", RESTORE)),
    (r"data/experiments/.*", ("sensorium register", "sensorium results", "sensorium promote")),
    (r"data/predictions/[^/]*/out-of-fold/.*", ("sensorium evaluate", "sensorium report")),
    (r"data/predictions/.*", (SUBMISSION, DOCTOR)),
    (r"data/out-of-fold/.*", ("sensorium evaluate", DOCTOR)),
    (r"data/registry/.*", (ENSEMBLE, "sensorium promote", "sensorium gc", RESTORE, DOCTOR)),
    (r"data/runs/.*", ("sensorium register", "sensorium results", RESTORE, DOCTOR)),
    (r"data/settings\.txt", ("sensorium config --check", DOCTOR)),
    (r"data/submissions/.*", (SCORE, SUBMISSION, DOCTOR)),
    (r"reports/evaluation/.*", ("sensorium results", "sensorium register", RESTORE, DOCTOR)),
    (r"reports/report/.*", ("sensorium report", DOCTOR)),
    (r"mlflow\.db", (ENSEMBLE, "sensorium results", "sensorium sync", "sensorium promote", "sensorium gc", DOCTOR)),
    (r"mlartifacts/.*", ("sensorium register", "sensorium promote", "sensorium gc", RESTORE)),
    (r"params\.yaml", ("sensorium config", "sensorium evaluate", DOCTOR)),
    (r"dvc\.(yaml|lock)", ("sensorium results", "sensorium config", "sensorium report", "sensorium gc", DOCTOR)),
    (r"conf/.*", ("sensorium config --preset demo", "sensorium config --preset competition")),
    (r"MLproject|python_env\.yaml", (MLFLOW,)),
    (r"\.dvc/cache/files/.*", ("dvc checkout", "sensorium results", "sensorium gc", DOCTOR)),
    (r"\.dvc/.*|\.dvcignore", ("sensorium results", "sensorium evaluate", "sensorium gc", DOCTOR)),
    (r"\.sensorium/train/.*", (TRAIN, "sensorium checkpoints", DOCTOR)),
    (r"\.sensorium/.*", ("sensorium sync", "sensorium promote", DOCTOR)),
    (r"demo-remote/.*", (REMOTE,)),
]
"""Which commands read a file, by its path; the first pattern that fits counts."""
UNRECORDED = re.compile(r"data/sensorium_all_2023/.*")
"""Files whose valid other content nothing can detect: a user's recordings are what they are."""
_VALID = ("bit flipped", "other content")
UNREAD = {
    r"(.*/)?(\.git|\.venv|site|__pycache__|\.[^/]*_cache)/.*": "of git, Python and tools",
    r"(sensorium|tests|benchmarks|docs|tools|docker|\.ci|\.github)/.*": "code and documentation, which git brings back",
    r"[^/]*\.(md|cff|toml|yml)|requirements.*\.lock|LICENSE|Makefile": "for those who develop",
    r"\.(docker|git)ignore|\.gitattributes|\.pre-commit.*": "for those who develop",
}
"""Files that no command of a finished project reads, and why."""
_NO_RESULT = re.compile(
    r"(^|/)(\.git|\.venv|\.sensorium|__pycache__|tmp)(/|$)|mlflow\.db|^mlartifacts/|^\.dvc/|provenance|^data/out-of-fold/"
)
"""Files that are no results. Those of data/out-of-fold hold digests of the inputs, and must follow a changed one. Names
in mlartifacts/ hold ids of runs and models, and a restored registry has new ones; what reads them verifies."""
_LINKS = "data/runs/"
"""A training that starts over is a new run, which the links name."""
_QUOTED = re.compile(r"`((?:rm|dvc|sensorium|mlflow|git|make) [^`]*)`")
_TEXTS = re.compile(r"params\.yaml|dvc\.(yaml|lock)|conf/.*|MLproject|python_env\.yaml")
"""Files that a user writes or merges, and mends by hand."""
_ADVICE = re.compile(r"\b(?:Begin|Correct|Save|Restore|Remove|Write|Give|Resolve)\b")
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


def _pattern(file: str) -> str | None:
    return next((pattern for pattern, _ in READERS if re.fullmatch(pattern, file)), None)


def combinations(project: Path, only: str = "") -> list[Combination]:
    """Every fault of every file with every command that reads it; `only` is a regular expression for paths."""
    paths = (path for path in sorted(project.rglob("*")) if path.is_file() and not path.is_symlink())
    names = [path.relative_to(project).as_posix() for path in paths]
    read = [name for name in names if _pattern(name) is not None]
    unknown = set(names) - set(read) - {name for name in names if any(re.fullmatch(each, name) for each in UNREAD)}
    if unknown:
        raise SystemExit(f"neither READERS nor UNREAD of {__file__} fit: {', '.join(sorted(unknown)[:10])}")
    faults = [fault for fault in FAULTS if fault != "no permission" or not can_read_all()]
    commands = dict(READERS)
    return [
        Combination(name, fault, command)
        for name in read
        if re.search(only, name)
        for command in commands[str(_pattern(name))]
        for fault in faults
        if fault not in _VALID or not UNRECORDED.fullmatch(name)
    ]


def sample(all_of_them: list[Combination], count: int, seed: int) -> list[Combination]:
    """Draw evenly over kinds of files, so that the many chunks of a store do not crowd out the one database."""
    rng = np.random.default_rng(seed)
    kinds: dict[str | None, list[Combination]] = {}
    for combination in all_of_them:
        if combination.command not in EXPENSIVE or rng.random() < EXPENSIVE_SHARE:
            kinds.setdefault(_pattern(combination.file), []).append(combination)
    queues = [[kind[i] for i in rng.permutation(len(kind))] for kind in kinds.values()]
    drawn: list[Combination] = []
    while len(drawn) < count and any(queues):
        drawn += [queue.pop() for queue in queues if queue][: count - len(drawn)]
    return drawn


def digests(copy: ProjectCopy) -> dict[str, str]:
    """Digest of every file that is a result, by path."""
    return copy.digests(_NO_RESULT)


def remedies(message: str) -> list[str]:
    """Commands that a message proposes, in its order."""
    flat = " ".join(message.split())
    return _QUOTED.findall(flat) or _PLAIN.findall(flat)


def names(message: str, file: str) -> bool:
    """Whether a message says which file is meant: by its path, a folder of it that is an output, or its digest."""
    flat = message.replace("\n", "")
    path = Path(file)
    if file.startswith((".dvc/cache/", "demo-remote/")):
        digest = rf"{path.parent.name}/?{path.name}"
        return re.search(rf"{digest}|(data|reports)/", flat) is not None
    if file.startswith("conf/"):  # as Hydra names it
        return file.removeprefix("conf/").removesuffix(".yaml") in flat
    return (path.name if path.suffix else file) in flat or any(
        str(folder) in flat for folder in path.parents if len(folder.parts) > 1
    )


def finished_project(folder: Path) -> Path:
    """A clone of this repository with all outputs, raw mice, a champion and an interrupted training."""
    project = folder / "finished"
    subprocess.run(["git", "clone", "--quiet", str(Path(__file__).parents[2]), str(project)], check=True)
    for command in ("dvc pull --quiet", RESTORE, "sensorium promote", "sensorium synthesize"):
        subprocess.run(_program(command), cwd=project, check=True)
    with subprocess.Popen(_program(TRAIN), cwd=project, start_new_session=True) as training:
        while training.poll() is None and not any((project / ".sensorium" / "train").glob("*/[!.]*")):
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(training.pid, signal.SIGKILL)
    return project


def _program(command: str) -> list[str]:
    name, *arguments = command.split()
    return [str(Path(sys.executable).with_name(name)), *arguments]


class Campaign:
    """Runs combinations in a copy of the project."""

    def __init__(self, project: Path, workshop: Path, *, forked: bool = True) -> None:
        """Take a finished project and a folder for its copy."""
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(workshop / "site-cache"),
            "SENSORIUM_UPLOADER_IDLE_TIMEOUT": "0",  # no process outlives its command
            "CI": "true",  # nor asks for a newer DVC
            "OMP_NUM_THREADS": "1",  # half of the time, where the machine has other work
        }
        self._processes = (ForkedProcesses if forked else RealProcesses)(environment)
        self._copy = ProjectCopy(project, workshop / "project")
        self._expected: dict[str, tuple[dict[str, str], str]] = {}

    def close(self) -> None:
        """End the processes."""
        self._processes.close()

    def _execute(self, command: str) -> tuple[int, str]:
        return self._processes.execute(command, self._copy.place, TIMEOUT_SECONDS)

    def _results(self, command: str) -> tuple[dict[str, str], str]:
        """Results after the command without a fault, and what it printed."""
        if command not in self._expected:
            self._copy.restore()
            code, output = self._execute(command)
            if code != 0:
                raise SystemExit(f"{command}: fails without any fault:\n{output}")
            self._expected[command] = digests(self._copy), output
        return self._expected[command]

    def run(self, combination: Combination) -> Outcome:
        """Damage, run, judge, follow the remedy."""
        self._results(combination.command)
        self._copy.restore()
        damaged = self._copy.place / combination.file
        others = sorted(path for path in damaged.parent.iterdir() if path.is_file() and path != damaged)
        alike = [path for path in others if path.suffix == damaged.suffix] or others
        FAULTS[combination.fault](damaged, alike[0] if alike else self._copy.place / "README.md")
        before = digests(self._copy)
        code, output = self._execute(combination.command)
        return Outcome(combination, *self._judge(combination, before, code, output))

    def _judge(self, combination: Combination, before: dict[str, str], code: int, output: str) -> tuple[str, str]:
        if "Traceback (most recent call last)" in output and combination.command != MLFLOW:
            return "traceback", output[-400:]
        reports = combination.command in REPORTERS
        if code == 0 and not (reports and names(output, combination.file)):
            wrong = self._wrong(combination, set() if reports else {combination.file})
            if not wrong and self._prints_other_scores(combination, output):
                wrong = [output]
            return ("missed" if reports else "wrong", ", ".join(wrong[:3])) if wrong else ("right", "")
        expected, after = self._results(combination.command)[0], digests(self._copy)
        changed = sorted(
            name
            for name in before | after
            if after.get(name) not in (before.get(name), expected.get(name)) and name != combination.file
        )
        if changed:
            return "changed", ", ".join(changed[:3])
        if combination.command == MLFLOW:
            return self._put_back(combination)
        if not names(output, combination.file):
            return "silent", output[-300:]
        return self._follow(combination, output)

    def _wrong(self, combination: Combination, besides: set[str]) -> list[str]:
        """Results that are missing or not as without the fault, and files that are no result but look like one."""
        expected, after = self._results(combination.command)[0], digests(self._copy)
        differing = {name for name in expected | after if expected.get(name) != after.get(name)}
        links = _LINKS if combination.command == TRAIN else ()
        return sorted(name for name in differing - besides if not name.startswith(links))

    def _prints_other_scores(self, combination: Combination, output: str) -> bool:
        """Whether other scores were printed than without the fault, and no word on the file."""
        if combination.command not in PRINTERS or names(output, combination.file):
            return False
        texts = (output, self._results(combination.command)[1])
        shown, expected = (text.partition("What to type next")[0] for text in texts)
        return shown != expected

    def _put_back(self, combination: Combination) -> tuple[str, str]:
        """Bring the file back, as its owner would, and give the command again."""
        self._copy.put_back(combination.file)
        code, output = self._execute(combination.command)
        wrong = self._wrong(combination, set())
        return ("explained", "") if code == 0 and not wrong else ("remedy", f"put back: {wrong} {output[-300:]}")

    def _follow(self, combination: Combination, output: str) -> tuple[str, str]:
        """Do what a message says, then give the command again."""
        if combination.command in REPORTERS:  # one finding of several
            lines = output.splitlines()
            named = next((i for i, line in enumerate(lines) if names(line, combination.file)), 0)
            output = "\n".join(lines[named:])
        found = remedies(output)
        if _TEXTS.fullmatch(combination.file) or not found:
            return self._put_back(combination) if _ADVICE.search(output) else ("silent", output[-300:])
        tried: list[str] = []
        for remedy in found[:3]:
            tried.append(remedy)
            self._execute(remedy)
            code, again = self._execute(combination.command)
            if code == 0:
                wrong = self._wrong(combination, set())
                return ("remedy", f"{remedy}: {wrong[:3]}") if wrong else ("refused", remedy)
        return "remedy", f"{' | '.join(tried)} <- {output[-300:]} -> {again[-300:]}"


def report(outcomes: list[Outcome]) -> Iterator[str]:
    """Two tables in Markdown: verdicts by kind of fault, and by kind of file."""
    faults = [(outcome.combination.fault, outcome.verdict) for outcome in outcomes]
    files = [(f"`{_kind(outcome.combination.file)}`", outcome.verdict) for outcome in outcomes]
    for title, pairs in (("fault", faults), ("file", files)):
        yield f"| {title} | combinations | {' | '.join(GOOD)} | failures |"
        yield "|---|" + "---:|" * (len(GOOD) + 2)
        rows: dict[str, Counter[str]] = {}
        for name, verdict in pairs:
            rows.setdefault(name, Counter())[verdict] += 1
        rows = dict(sorted(rows.items())) | {"all": Counter(verdict for _, verdict in pairs)}
        for name, counts in rows.items():
            failures = sum(count for verdict, count in counts.items() if verdict not in GOOD)
            numbers = [counts.total(), *(counts[verdict] for verdict in GOOD), failures]
            yield f"| {name} | {' | '.join(map(str, numbers))} |"
        yield ""


def _kind(file: str) -> str:
    """What a table calls a file: the folder of the pattern that it belongs to."""
    return re.sub(r"/?(\.\*|\[\^/\]\*/).*", "/", str(_pattern(file))).replace("\\", "").replace("|", " or ")


def main() -> None:
    """Run a campaign; exit code 1 where a combination failed. Ctrl-C ends it with the table of what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="files in whose path this regular expression is found")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--processes", choices=("forked", "real"), default="forked")
    parser.add_argument("--verbose", action="store_true", help="print every outcome")
    options = parser.parse_args()
    drop_privileges()
    console, outcomes, drawn = Console(highlight=False, soft_wrap=True, markup=False), [], []
    with tempfile.TemporaryDirectory() as workshop, contextlib.suppress(KeyboardInterrupt):
        project = (options.project or finished_project(Path(workshop))).resolve()
        drawn = sample(combinations(project, options.only), options.count, options.seed)
        campaign = Campaign(project, Path(workshop), forked=options.processes == "forked")
        for number, combination in enumerate(drawn, start=1):
            start = time.monotonic()
            outcome = campaign.run(combination)
            seconds = time.monotonic() - start
            outcomes.append(outcome)
            if options.verbose or outcome.verdict not in GOOD:
                console.print(
                    f"{number}/{len(drawn)} {outcome.verdict}: {combination} ({seconds:.1f} s)\n    {outcome.detail}"
                )
            elif number % 25 == 0:
                console.print(f"{number}/{len(drawn)}")
        campaign.close()
    lines = list(report(outcomes))
    console.print("\n".join(lines))
    console.print(Counter(outcome.verdict for outcome in outcomes))
    if options.table:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(any(outcome.verdict not in GOOD for outcome in outcomes) or not outcomes or len(outcomes) < len(drawn))


if __name__ == "__main__":
    main()
