"""Say whether a DVC remote works, and name what does not."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TextColumn

from sensorium.errors import TransferError
from sensorium.paths import Paths
from sensorium.remote import objects
from sensorium.remote.check import Finding, check
from sensorium.remote.settings import RemoteSettings, object_key, read
from sensorium.remote.stores import Store, WritableStore, open_store


def _print(console: Console, finding: Finding) -> None:
    mark = "[green]ok  [/]" if finding.good else "[yellow]note[/]"
    console.print(f"{mark} {finding.what:<7} {escape(finding.detail)}")


def _cache_folder(paths: Paths) -> Path:
    from dvc.repo import Repo

    with Repo(str(paths.root)) as repo:
        return Path(repo.cache.local_cache_dir)


def _audit(
    console: Console, store: Store, settings: RemoteSettings, items: list[objects.Wanted], cache: Path | None
) -> None:
    """Read every object of this project; `cache` is where intact copies for a repair are."""
    columns = TextColumn("{task.completed} objects  {task.description}")
    with Progress(columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        result = objects.audit(store, items, lambda item: bar.update(task, advance=1, description=item.path))
    if result.damaged and cache is not None and isinstance(store, WritableStore):
        left = objects.repair(store, cache, result.damaged)
        for item in (item for item in result.damaged if item not in left):
            _print(console, Finding("repair", True, f"{item.path} ({object_key(item.digest)})"))
        result.damaged = left
    if result.damaged:
        raise objects.damage(result, settings)
    _print(console, Finding("objects", True, f"{len(result.intact)} intact, none damaged"))
    if result.missing:
        names = ", ".join(item.path for item in result.missing[:5]) + (", …" if len(result.missing) > 5 else "")
        _print(console, Finding("objects", False, f"{len(result.missing)} not there (never pushed): {names}"))


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
        bool, typer.Option("--repair", help="Replace damaged objects by the intact copies of this clone's cache.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a server may take to answer.")] = 10,
) -> None:
    """Check a DVC remote: reach it, sign in, read, write, measure; say what is wrong.

    Without --read-only a small object is written, read back and removed.

    Raises:
        TransferError: the first thing that does not work, or all damaged objects.
    """
    console = Console(soft_wrap=True, highlight=False)
    settings = read(paths.root, name)
    if repair and (read_only or settings.kind == "http"):
        raise TransferError(
            f"remote {settings.name!r}: --repair needs a remote that can be written.",
            "Repair it from a clone whose remote of the same data is S3 or a folder, without --read-only.",
        )
    items = objects.wanted(paths.root, settings.name)
    console.print(f"remote {escape(settings.name)}")
    store = open_store(settings, [object_key(item.digest) for item in items], timeout)
    check(store, settings, read_only, report=lambda finding: _print(console, finding))
    if every_object or repair:
        _audit(console, store, settings, items, _cache_folder(paths) if repair else None)
