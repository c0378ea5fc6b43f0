"""`sensorium ingest`: provide a raw mouse and write it into its store."""

from rich.console import Console
from rich.progress import Progress

from sensorium.commands import download, synthesize, verify
from sensorium.commands.options import Mouse, select_mice
from sensorium.config import Config
from sensorium.errors import DataError
from sensorium.files import atomic_folder, exclusive_lock
from sensorium.paths import Paths
from sensorium.recordings.ingest import ingest, steps
from sensorium.recordings.raw import RawMouse
from sensorium.recordings.synthetic.marker import TRUTH_FOLDER


def run(config: Config, paths: Paths, mouse: Mouse = None) -> None:
    """Provide a raw mouse as `dataset.get` says, and write it into its Zarr store: compact, time-major, checked.

    Raises:
        SensoriumError: the raw mouse cannot be provided or is unsound, or another process writes the same store.
    """
    for name in select_mice(config, mouse):
        _ingest(config, paths, name)


def _ingest(config: Config, paths: Paths, mouse: str) -> None:
    """Build one mouse's store; it appears when it is complete."""
    provide = {"synthesize": synthesize.run, "download": download.run, "verify": verify.run}[config.dataset.get]
    provide(config, paths, mouse)
    store = paths.store(mouse)
    folder = config.raw_folder(paths.root)
    busy = DataError(f"{store}: another process is writing this store.", "Wait until it has finished.")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with exclusive_lock(paths.lock(f"ingest-{mouse}"), busy, store):
        raw = RawMouse(folder / mouse)
        truth = folder / TRUTH_FOLDER / mouse
        with atomic_folder(store) as partial, Progress(console=console) as progress:
            task = progress.add_task(mouse, total=steps(raw))
            ingest(
                raw,
                config.dataset.mice[mouse],
                partial,
                truth if truth.is_dir() else None,
                lambda: progress.advance(task),
            )
    console.print(f"{mouse}: {raw.trials} trials of {raw.neurons} neurons in {store}")
