"""`sensorium ingest`: write a raw mouse into its store."""

from rich.console import Console
from rich.progress import Progress

from sensorium.config import Config
from sensorium.errors import DataError
from sensorium.files import atomic_folder, sole_writer
from sensorium.paths import Paths
from sensorium.recordings.ingest import ingest, steps
from sensorium.recordings.raw import RawMouse
from sensorium.recordings.synthetic.marker import TRUTH_FOLDER


def run(config: Config, paths: Paths, mouse: str) -> None:
    """Build one mouse's store; it appears when it is complete.

    Raises:
        DataError: the raw mouse is missing or unsound, or another process writes the same store.
    """
    store = paths.store(mouse)
    folder = config.raw_folder(paths.root)
    busy = DataError(f"{store}: another process is writing this store.", "Wait until it has finished.")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with sole_writer(paths.lock(f"ingest-{mouse}"), busy, store):
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
