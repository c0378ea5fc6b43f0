"""Say whether a DVC remote works, and name what does not."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TextColumn

from sensorium.errors import TransferError
from sensorium.paths import Paths
from sensorium.remote.check import check
from sensorium.remote.config import open_remote
from sensorium.remote.objects import TrackedObject, audit, repair, tracked_objects

if TYPE_CHECKING:
    from dvc.data_cloud import Remote


def run(
    paths: Paths,
    name: Annotated[
        str | None, typer.Argument(help="Remote of DVC's configuration; the default one if not given.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Write nothing: for those who only pull.")] = False,
    every_object: Annotated[
        bool, typer.Option("--objects", help="Read every object of this project; name damage.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Replace damaged and lost objects by the intact copies of this clone's cache."),
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a server may take to answer.")] = 10,
) -> None:
    """Check a DVC remote: reach it, sign in, read, write, measure; say what is wrong.

    Without --read-only a small object is written, read back and removed.

    Raises:
        TransferError: the first thing that does not work, or all damaged objects.
    """
    from dvc.config import ConfigError
    from dvc.repo import Repo

    console = Console(soft_wrap=True, highlight=False)
    try:
        repo = Repo(str(paths.root))
    except ConfigError as fault:
        raise TransferError(f".dvc/config: {fault}", "Correct the option named above.") from fault
    with repo:
        remote = open_remote(repo.config, name, timeout)
        if repair and (read_only or remote.fs.protocol in ("http", "https")):
            raise TransferError(
                f"remote {remote.name!r}: --repair needs a remote that can be written.",
                "Repair it from a clone whose remote of the same data is S3 or a folder, without --read-only.",
            )
        items = tracked_objects(repo, remote.name)
        console.print(f"remote {escape(remote.name)}")
        audited = every_object or repair
        check(remote, items, partial(_print, console), read_only=read_only, compare=not audited)
        if audited:
            _audit(console, remote, items, repo.cache.local if repair else None)


def _print(console: Console, what: str, detail: str, *, good: bool = True) -> None:
    console.print(f"{'[green]ok  [/]' if good else '[yellow]note[/]'} {what:<7} {escape(detail)}")


def _audit(console: Console, remote: "Remote", items: Sequence[TrackedObject], cache: Any | None) -> None:
    """Read every object of this project; `cache` has the intact copies for a repair."""
    columns = TextColumn("{task.completed} objects  {task.description}")
    with Progress(columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        found = audit(remote, items, lambda item: bar.update(task, advance=1, description=item.path))
    repaired = repair(remote, cache, found["damaged"]) if cache is not None else []
    for item in repaired:
        _print(console, "repair", f"{item.path} ({item.key})")
    if damaged := [item for item in found["damaged"] if item not in repaired]:
        lines = "\n".join(f"  {item.path} ({item.key})" for item in damaged)
        raise TransferError(
            f"remote {remote.name!r}: {len(damaged)} damaged object(s), lost or with another MD5 than its name:\n"
            f"{lines}",
            f"From a clone that has the data intact: `sensorium remote check {remote.name} --objects --repair`",
        )
    _print(console, "objects", f"{len(found['intact'])} intact, none damaged")
    if missing := found["missing"]:
        names = ", ".join(item.path for item in missing[:5]) + (", …" if len(missing) > 5 else "")
        text = f"{len(missing)} not there (never pushed): {names}; `dvc push` sends what DVC's cache holds"
        _print(console, "objects", text, good=False)
