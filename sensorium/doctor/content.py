"""What stands in the outputs: stores, folds, weights, predictions.

An output that differs from dvc.lock is named by its own check already, and is not examined a second time. What a deep
examination has read and found as dvc.lock records it is not read again.
"""

from collections.abc import Iterator
from pathlib import Path

from sensorium.data.folds import Folds
from sensorium.data.metadata import check_arrays, check_group, check_mouse
from sensorium.doctor.finding import Finding, Project, of_error
from sensorium.errors import CheckpointError, SensoriumError
from sensorium.files import read_json
from sensorium.inference.predictions import Predictions
from sensorium.recovery import later_remedy, remedy

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


def check_stores(project: Project) -> Iterator[Finding]:
    """Check the metadata of every store, and the checksums of those that dvc.lock does not vouch for."""
    for path in _present(project, project.paths.stores, "*.zarr"):
        try:
            check_group(path)
            check_arrays(path)
            check_mouse(path)
            if project.deep and path not in project.intact:
                from sensorium.data.store import MouseStore

                MouseStore(path).verify()
        except SensoriumError as fault:
            yield of_error(fault)


def check_folds(project: Project) -> Iterator[Finding]:
    """Read the table of folds, and compare it with the mice of params.yaml."""
    folder = project.paths.folds
    if not folder.is_dir() or folder in project.damaged:
        return
    try:
        folds = Folds.load(folder)
        for mouse in project.config.dataset.mice if project.config else ():
            folds.of(mouse)
    except SensoriumError as fault:
        yield of_error(fault)


def check_weights(project: Project) -> Iterator[Finding]:
    """Compare the weights of every trained fold with its config.json: their size, or in a deep look all of them."""
    for folder in _present(project, project.paths.experiments, "*/fold_*"):
        try:
            _check_size(folder)
            if project.deep and folder not in project.intact:
                from sensorium.model.checkpoint import load

                load(folder)
        except SensoriumError as fault:
            yield of_error(fault)


def _check_size(folder: Path) -> None:
    """Compare sizes without PyTorch, which takes seconds to import."""
    advice = "Train or import the fold again."
    about, weights = read_json(folder / _CONFIG, CheckpointError, later_remedy(folder, advice)), folder / _WEIGHTS
    try:
        expected = int(about["weights"]["bytes"])
    except (KeyError, TypeError, ValueError) as fault:
        raise CheckpointError(f"{folder / _CONFIG}: no size of the weights.", remedy(folder, advice)) from fault
    if not weights.is_file():
        raise CheckpointError(f"{weights}: the file does not exist.", remedy(folder, advice))
    if (found := weights.stat().st_size) != expected:
        raise CheckpointError(f"{weights}: has {found:,} bytes, expected {expected:,}.", remedy(folder, advice))


def check_predictions(project: Project) -> Iterator[Finding]:
    """Open every folder of predictions, and look whether it has a mouse."""
    for folder in _present(project, project.paths.root / "data" / "predictions", "*/*"):
        try:
            found = Predictions.open(folder)
        except SensoriumError as fault:
            yield of_error(fault)
            continue
        split = sorted({path.name for path in found.folder.iterdir() if path.is_dir()})
        if not split:
            yield Finding(
                "error", f"{project.name(folder)}: holds no mouse.", remedy(folder, "Type `dvc repro predict`.")
            )


def _present(project: Project, parent: Path, pattern: str) -> list[Path]:
    found = [path for path in sorted(parent.glob(pattern)) if path.is_dir() and not path.name.startswith(".")]
    return [path for path in found if path not in project.damaged]
