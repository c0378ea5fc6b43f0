"""MLflow's database and the registered pair, read as files: MLflow itself takes seconds to import."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sensorium.doctor.finding import Finding, Project, command
from sensorium.errors import SensoriumError
from sensorium.files import sha256
from sensorium.recovery import is_stored
from sensorium.tracking import database
from sensorium.tracking.store import TrackingStore

if TYPE_CHECKING:
    from sensorium.registry.manifest import PairPin

_RESTORE = "sensorium registry restore"
_REGISTER = "dvc repro register"


def check_registry(project: Project) -> Iterator[Finding]:
    """Check the database, that the registry has the pinned versions, and that their files are there."""
    from sensorium.registry.manifest import PairPin

    pin_file = project.paths.pair_pin
    pin = PairPin.read(pin_file) if pin_file.is_file() and pin_file not in project.damaged else None
    store = TrackingStore.of(project.paths)
    fix = command(project.root, *_RESTORE.split())
    if store.database is None:
        yield Finding("note", f"{store.label}: another MLflow store than the project's own: not examined.")
    elif not store.database.exists():
        if pin is not None:
            yield Finding(
                "warning",
                f"{project.name(store.database)}: there is no MLflow store; the pinned pair is not registered here.",
                f"Type `{_RESTORE}`.",
                fix,
            )
    else:
        wanted = _wanted(pin)
        yield from _check_database(project, store, wanted)
    if pin is not None:
        for model in pin.models.values():
            yield from _check_folds(project, model.experiment, model.files)


def _wanted(pin: "PairPin | None") -> dict[str, str]:
    """Digest by name of the models that a pin asks for."""
    if pin is None:
        return {}
    return {pin.pair.name: pin.pair.digest} | {model.name: model.digest for model in pin.models.values()}


def _check_database(project: Project, store: TrackingStore, wanted: dict[str, str]) -> Iterator[Finding]:
    """Check a database that exists.

    Args:
        project: the project.
        store: its embedded store.
        wanted: digest by name of the registered models that the pin asks for.
    """
    path, fix = store.database, command(project.root, *_RESTORE.split())
    assert path is not None
    name, again = project.name(path), f"Type `{_RESTORE}`."
    try:
        database.check_readable(path)
        if not database.is_whole(path):
            yield Finding("error", f"{name}: the database is damaged.", database.RESTORE_DATABASE, fix)
            return
        found, newest = database.schema(path), database.newest_schema()
        if newest is not None and found != newest:
            upgrade = database.schema_remedy(found, store.label)
            yield Finding("error", f"{name}: its tables are those of another version of MLflow.", upgrade)
            return
        versions = database.registered(path)
    except SensoriumError as fault:
        damaged = fault.remedy == database.RESTORE_DATABASE
        yield Finding("error", fault.problem, fault.remedy, fix if damaged else None)
        return
    for model, digest in wanted.items():
        folders = [version.folder for version in versions if version.name == model and version.digest == digest]
        if not folders:
            yield Finding("error", f"{name}: {model} is not registered with the digest of the pin.", again, fix)
    for version in versions:
        pinned = wanted.get(version.name) == version.digest
        absent = [digest for digest in version.objects if not is_stored(project.root, digest)]
        lost = f"its files in {project.name(version.folder)} are lost" if version.folder is not None else ""
        if absent:
            lost = f"{len(absent)} of its {len(version.objects)} files are not in DVC's cache"
        if absent or (version.folder is not None and not (version.folder / "MLmodel").is_file()):
            yield Finding(
                "error" if pinned and not absent else "warning",  # another remote may have them
                f"{version.name} {version.version}: {lost}.",
                again if pinned else "Register it again from the commit that trained it, or delete the version.",
                fix if pinned else None,
            )


def _check_folds(project: Project, experiment: str, files: dict[str, str]) -> Iterator[Finding]:
    """Compare the pinned digests with the trained folds: config.json, and in a deep look the weights as well."""
    folder = project.paths.experiment(experiment)
    for name, digest in files.items():
        path = folder / name
        if path.parent in project.damaged or not path.is_file() or not (project.deep or path.suffix == ".json"):
            continue
        if sha256(path) != digest:
            yield Finding(
                "warning",
                f"{project.name(path)}: not the file that {project.name(project.paths.pair_pin)} pins.",
                f"Type `{_REGISTER}` to pin the present folds, or `dvc checkout` to bring back those of dvc.lock.",
            )
            return
