"""`sensorium gc`: remove what no commit, tag or registered champion needs, from DVC's cache and from MLflow."""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sensorium.errors import PipelineError, TrackingError
from sensorium.files import exclusive_lock, read_json
from sensorium.paths import Paths
from sensorium.recovery import LOCK_FILE, cache_folder, parse_outputs
from sensorium.registry.manifest import PairPin
from sensorium.registry.unneeded import Versions
from sensorium.tracking.database import shrink
from sensorium.tracking.provenance import git
from sensorium.tracking.runs import deleted_runs
from sensorium.tracking.store import TrackingStore

_FOLDER = ".dir"
_DIGEST = re.compile(r"\b[0-9a-f]{32}(?:\.dir)?\b")
_STAGE = re.compile(r"^  (\S.*):$", re.MULTILINE)
_RECORDS = (f"*{LOCK_FILE}", "*.dvc")
"""What names outputs, as git's path patterns."""
_DAMAGED = "Type `sensorium doctor --deep`, which finds damaged objects of the cache."


def run(
    paths: Paths,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this nothing is changed.")] = False,
) -> None:
    """List what nothing needs any more, or remove it with --delete.

    Kept are the outputs of the work tree and of every commit, branch, tag and DVC experiment; versions of the model
    registry that one of these pins, that have an alias such as `champion` or that the champion replaced, their
    weights, and the data that they name. Removed are all other objects of DVC's cache, other versions, and runs that
    were deleted in MLflow. Remotes are left alone.

    Examples: `sensorium gc`, `sensorium gc --delete`.

    Raises:
        PipelineError: the cache is shared with other projects, DVC is at work, or a listing in its cache is damaged.
        TrackingError: the registry cannot be reached or is damaged.
    """
    busy = PipelineError("gc: another one is at work.", "Wait for it.")
    with exclusive_lock(paths.lock("gc"), busy):
        cache = cache_folder(paths.root).resolve() / "files" / "md5"
        if not cache.is_relative_to(paths.root.resolve()):
            raise PipelineError(
                f"{cache}: DVC's cache lies outside of the project, so other projects may need its objects.",
                "Use `dvc gc --all-commits --projects OTHER...`, which knows the other projects.",
            )
        outputs = list(_outputs(paths.root))
        versions = Versions(paths, _pins(outputs, paths, cache))
        wanted = {digest for _, digest in outputs} | set(versions.data.values())
        needed = wanted | versions.objects | {digest for folder in wanted for digest in _listed(cache, folder)}
        objects = [path for path in sorted(cache.glob("??/*")) if path.parent.name + path.name not in needed]
        runs = deleted_runs(paths)
        _print(cache, objects, versions, runs, delete=delete)
        if delete:
            versions.delete()
            _delete_runs(paths, runs)
            database = TrackingStore.of(paths).database
            if database is not None and (runs or versions.unneeded):
                shrink(database)
            _remove(paths.root, objects)


def _outputs(root: Path) -> Iterator[tuple[str, str]]:
    """Path and digest of every output of the work tree and of everything that git's references reach.

    Not by DVC's own collection, which needs the cache to hold all outputs of all commits; that of a clone does not.
    """
    try:
        listed = git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *_RECORDS).decode()
        # In full: git leaves out side branches whose version of a file was not taken in a merge.
        reached = git(root, "rev-list", "--all", "--full-history", "--objects", "--", *_RECORDS).decode().splitlines()
    except (OSError, subprocess.CalledProcessError) as fault:
        raise PipelineError(
            f"{root}: git does not say which commits there are, so nothing is known to be unneeded.",
            "Use it in a clone of the project's repository.",
        ) from fault
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            try:
                text = (root / name).read_text(encoding="utf-8")
                yield from parse_outputs(text)
                if Path(name).name == LOCK_FILE:
                    _require_all_stages(root, name, text)
            except ValueError as fault:
                raise PipelineError(
                    f"{name}: damaged, so nothing is known to be unneeded: {fault}.",
                    f"Correct it, or type `git checkout {name}`, which brings back that of the last commit. "
                    "Commit it if the change is meant.",
                ) from fault
    for line in reached:
        blob, _, name = line.partition(" ")
        if name.endswith((LOCK_FILE, ".dvc")) and Path(name).name != ".dvc":  # which is DVC's own folder
            text = git(root, "cat-file", "blob", blob).decode(errors="replace")
            try:
                yield from parse_outputs(text)
            except ValueError:  # a commit cannot be corrected: keep all that it names
                yield from ((name, digest) for digest in _DIGEST.findall(text))


def _require_all_stages(root: Path, name: str, text: str) -> None:
    """Refuse a dvc.lock without stages of the last commit's: DVC may have been killed while it wrote the file.

    Raises:
        ValueError: some stages are not there.
    """
    try:
        committed = git(root, "show", f"HEAD:./{name}").decode(errors="replace")
    except subprocess.CalledProcessError:  # it is in no commit yet
        return
    lost = sorted(set(_STAGE.findall(committed)) - set(_STAGE.findall(text)))
    if lost:
        raise ValueError(f"it lacks stages that the last commit has, such as {lost[0]}")


def _pins(outputs: Iterable[tuple[str, str]], paths: Paths, cache: Path) -> Iterator[PairPin]:
    """Pins of the registered pair in all revisions, as far as the cache holds them, and that of the work tree."""
    if paths.pair_pin.is_file():
        yield PairPin.read(paths.pair_pin)
    name = paths.pair_pin.relative_to(paths.root).as_posix()
    for digest in {digest for path, digest in outputs if path.endswith(name)}:
        if (cache / digest[:2] / digest[2:]).is_file():
            yield PairPin.read(cache / digest[:2] / digest[2:])


def _listed(cache: Path, digest: str) -> Iterator[str]:
    """Digests of the files of a folder, where the cache has its listing."""
    place = cache / digest[:2] / digest[2:]
    if digest.endswith(_FOLDER) and place.is_file():
        yield from (entry["md5"] for entry in read_json(place, PipelineError, _DAMAGED))


def _remove(root: Path, objects: Sequence[Path]) -> None:
    """Remove objects while DVC itself cannot be at work."""
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo, repo.lock:
            for path in objects:
                path.unlink(missing_ok=True)
    except LockError as fault:
        raise PipelineError(f"DVC is at work: {fault}", "Type the command again when it has finished.") from fault


def _delete_runs(paths: Paths, runs: list[str]) -> None:
    """Remove runs that were deleted, for good, as `mlflow gc` does."""
    if not runs:
        return
    store = TrackingStore.of(paths)
    uris = ["--backend-store-uri", store.uri, "--tracking-uri", store.uri]
    command = [sys.executable, "-m", "mlflow", "gc", *uris, "--run-ids", ",".join(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise TrackingError(f"mlflow gc: {reason[0]}.", f"Type `mlflow gc` where {store.label} is.")


def _print(cache: Path, objects: Sequence[Path], versions: Versions, runs: list[str], *, delete: bool) -> None:
    sizes = [path.stat().st_size for path in objects]
    table = Table("what", "how many", "MiB", title="Removed" if delete else "Not needed", title_justify="left")
    table.add_row(f"objects of DVC's cache, {cache}", str(len(objects)), f"{sum(sizes) / 2**20:.1f}")
    table.add_row("versions of the model registry", str(len(versions.unneeded)), "")
    table.add_row("deleted runs of MLflow", str(len(runs)), "")
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    for version in versions.unneeded:
        console.print(f"{version.name} version {version.version}")
    if not delete and (objects or versions.unneeded or runs):
        console.print("Nothing was changed. Type `sensorium gc --delete` to remove this.")
