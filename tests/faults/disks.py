"""A campaign of disks: the commands of a small project on a disk that is full, read-only, slow, or lacks something.

    sudo .venv/bin/python tests/faults/disks.py [--table disks.md] [--keep FOLDER] [--only TEXT]

It needs root, for mounts, and gcc; `exfat-fuse` and `exfatprogs` for the disk of exFAT, which is left out without them.
The small project of tests/faults/kills.py is copied to each disk, the outputs of one command are removed, and the
command is given:

    full          no room, or room for a part of what it writes
    read-only     remounted for reading alone
    no locks      flock and fcntl fail with ENOLCK, as on NFS without locks (a library for LD_PRELOAD)
    slow          each write waits 3 ms and each flush 30 ms (the same library)
    exFAT         no hard links, no symbolic links, no rights; names that differ in case alone are the same

Verdict:

    right      the command succeeded, and every output is as in the undisturbed project
    refused    one message with a file of that disk, the reason and what to do, nothing half-written beside outputs;
               without the fault, the same command gave every output

and, as failures: `traceback`, `silent` (no file or no reason), `left` (unfinished files), `failed` (the command given
again), `wrong` (other outputs).
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kills import COMMANDS, Campaign, undisturbed_project
from processes import ForkedProcesses
from rich.console import Console

GOOD = ("right", "refused")
DISKS = ("full", "nearly full", "read-only", "no locks", "slow", "exFAT")
_RUNS_THROUGH, _BY_LIBRARY = ("slow", "exFAT"), ("no locks", "slow")
TIMEOUT_SECONDS = 900
_MEGABYTES = 512
_ROOM = {"full": 0, "nearly full": 64 << 10}
"""Bytes that are left."""
_REASONS = re.compile(r"No space left|disk is full|Read-only|read-?only|No locks|locks|unable to open database", re.I)
_UPLOADER = "sensorium.tracking"
_TRACEBACK = "Traceback (most recent call last)"
_LIBRARY = Path(__file__).with_name("disk_faults.c")


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


@contextlib.contextmanager
def disk(kind: str, folder: Path) -> Iterator[Path]:
    """A mounted disk of its own."""
    place = folder / kind.replace(" ", "-")
    place.mkdir()
    device = ""
    if kind == "exFAT":
        image = folder / "exfat.img"
        with image.open("wb") as stream:
            stream.truncate(_MEGABYTES << 20)
        subprocess.run(["mkfs.exfat", str(image)], check=True, capture_output=True)
        found = subprocess.run(["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True)
        device = found.stdout.strip()
        subprocess.run(["mount.exfat-fuse", device, str(place)], check=True, capture_output=True)
    else:
        _mount("-t", "tmpfs", "-o", f"size={_MEGABYTES}m", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        if device:
            subprocess.run(["losetup", "--detach", device], check=True)


class DiskCampaign(Campaign):
    """Commands in a copy of an undisturbed project on one disk."""

    def __init__(self, undisturbed: Path, kind: str, place: Path, folder: Path) -> None:
        """Take the mounted disk, and a folder on another one."""
        super().__init__(undisturbed, place)
        self._kind, self._place, self._log = kind, place, folder / "log"
        self._environment["DVC_SITE_CACHE_DIR"] = str(folder / "site-cache")
        self._healthy = self._faulty = self._typist = ForkedProcesses(self._environment)
        if kind in _BY_LIBRARY:
            library = folder / "disk_faults.so"
            subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(_LIBRARY), "-ldl"], check=True)
            fault = {"LD_PRELOAD": str(library), "DISK_FAULT": kind, "DISK_FAULT_FOLDER": str(place)}
            self._faulty = ForkedProcesses(self._environment | fault)

    def close(self) -> None:
        """End the servers of commands."""
        for processes in {self._healthy, self._faulty}:
            processes.close()

    def _finish(self, command: str, log: Path) -> tuple[int, str]:
        return self._typist.execute(command, self._copy.place, TIMEOUT_SECONDS)

    @contextlib.contextmanager
    def _fault(self) -> Iterator[None]:
        ballast = self._place / "ballast"
        if self._kind in _ROOM:
            with ballast.open("wb") as stream:
                room = os.statvfs(self._place)
                os.posix_fallocate(stream.fileno(), 0, room.f_bavail * room.f_frsize - _ROOM[self._kind])
        elif self._kind == "read-only":
            self._left()  # it is busy while what a command started is ending
            _mount("-o", "remount,ro", str(self._place))
        self._typist = self._faulty
        try:
            yield
        finally:
            self._typist = self._healthy
            if self._kind == "read-only":
                _mount("-o", "remount,rw", str(self._place))
            ballast.unlink(missing_ok=True)

    def judge(self, command: str) -> tuple[str, str]:
        """Give the command with the fault and, where it is refused, again without; returns verdict and details."""
        self._prepare(command)
        with self._fault():
            code, output = self._finish(command, self._log)
            left = [one for one in self._left() if _UPLOADER not in one]  # which tries on, and is ended here
        if _TRACEBACK in output:
            return "traceback", output[-3000:]
        if left:
            return "left", ", ".join(left[:3])
        if code == 0:
            wrong = self._wrong()
            return ("wrong", ", ".join(wrong[:3])) if wrong else ("right", "")
        if self._kind in _RUNS_THROUGH:
            return "failed", output[-1500:]
        flat = output.replace("\n", "")
        if not _REASONS.search(flat) or not any(
            name in flat for name in ("data/", "reports/", "mlflow.db", ".sensorium", ".dvc", "dvc.lock")
        ):
            return "silent", output[-1500:]
        refused = output
        code, output = self._finish(command, self._log)
        if code != 0 or _TRACEBACK in output:
            return "failed", f"{refused[-500:]} -> {output[-1500:]}"
        wrong = self._wrong()
        return ("wrong", ", ".join(wrong[:3])) if wrong else ("refused", refused[-600:])


def main() -> None:
    """Run the campaign; exit code 1 where a command ended badly, or nothing was checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--keep", type=Path, help="folder of the undisturbed project")
    parser.add_argument("--disks", default=",".join(DISKS))
    parser.add_argument("--only", default="", help="commands that contain one of these texts, joined by commas")
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if os.geteuid() != 0:
        sys.exit("disks: nothing was checked, since only root may mount them: type `make faults-disks`")
    kinds = [kind for kind in options.disks.split(",") if kind != "exFAT" or shutil.which("mount.exfat-fuse")]
    commands = [command for command in COMMANDS if any(text in command for text in options.only.split(","))]
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    with tempfile.TemporaryDirectory() as workshop:
        folder = Path(workshop)
        source = undisturbed_project(options.keep or folder / "undisturbed")
        for kind in kinds:
            with disk(kind, folder) as place:
                campaign = DiskCampaign(source, kind, place, folder)
                for command in commands:
                    verdict, detail = campaign.judge(command)
                    counts[kind][verdict] += 1
                    console.print(f"{verdict}: {kind}: {command}\n    {detail}")
                campaign.close()
    lines = [f"| disk | commands | {' | '.join(GOOD)} | failures |", "|---|" + "---:|" * (len(GOOD) + 2)]
    for kind, found in counts.items():
        failures = sum(count for verdict, count in found.items() if verdict not in GOOD)
        numbers = [found.total(), *(found[verdict] for verdict in GOOD), failures]
        lines.append(f"| {kind} | {' | '.join(map(str, numbers))} |")
    console.print("\n".join(lines))
    if options.table:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    verdicts = [verdict for found in counts.values() for verdict in found]
    sys.exit(not verdicts or any(verdict not in GOOD for verdict in verdicts))


if __name__ == "__main__":
    main()
