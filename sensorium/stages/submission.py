"""Write the files of one track, and the zip to hand in."""

from collections.abc import Sequence

from rich.console import Console

from sensorium.config import Config
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.files import exclusive_lock
from sensorium.inference.predictions import Predictions
from sensorium.mice import TRACKS
from sensorium.paths import Paths
from sensorium.submission.writer import write_track


def run(config: Config, paths: Paths, experiments: Sequence[str], track: str) -> None:
    """Write data/submissions/<track>/: two parquet files and <track>.zip.

    Args:
        config: all settings.
        paths: the project.
        experiments: one experiment, or several whose ensemble has been predicted.
        track: main or bonus.

    Raises:
        PredictionError: a prediction is missing, of another mouse, not finite, or a trial is too
            short, or another process writes the submission.
    """
    stores = [MouseStore.open(paths.store(mouse)) for mouse, kind in config.dataset.mice.items() if kind == "new"]
    parts = [(tier, Predictions.open(paths.predictions(",".join(experiments), tier))) for tier in TRACKS[track]]
    folder = paths.submission(track)
    busy = PredictionError(f"{folder}: another process is writing this submission.", "Wait until it has finished.")
    with exclusive_lock(paths.lock(f"submission-{track}"), busy, folder):
        archive = write_track(folder, track, parts, stores, config.evaluation)
    size = archive.stat().st_size / 2**20
    Console().print(f"Wrote {archive.relative_to(paths.root)}, {size:,.1f} MiB: hand in this file.", highlight=False)
