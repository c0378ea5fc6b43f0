"""Write the files of one track, and the zip to hand in."""

from rich.console import Console

from sensorium.commands.options import Experiments, Track, require_choice, select_experiments
from sensorium.config import Config
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.files import exclusive_lock
from sensorium.inference.predictions import Predictions
from sensorium.mice import TRACKS
from sensorium.paths import Paths
from sensorium.submission.writer import write_track


def run(config: Config, paths: Paths, experiments: Experiments, track: Track) -> None:
    """Write a track's two submission files and the zip to hand in, in data/submissions/TRACK.

    Several experiments stand for their ensemble, which must have been predicted.

    Raises:
        ConfigError: an experiment or the track does not exist.
        PredictionError: a prediction is missing, of another mouse, not finite, or a trial is too
            short, or another process writes the submission.
    """
    require_choice("track", track, tuple(TRACKS))
    names = ",".join(select_experiments(config, experiments))
    stores = [MouseStore(paths.store(mouse)) for mouse, kind in config.dataset.mice.items() if kind == "new"]
    parts = [(tier, Predictions.open(paths.predictions(names, tier))) for tier in TRACKS[track]]
    folder = paths.submission(track)
    busy = PredictionError(f"{folder}: another process is writing this submission.", "Wait until it has finished.")
    with exclusive_lock(paths.lock(f"submission-{track}"), busy, folder):
        archive = write_track(folder, track, parts, stores, config.evaluation)
    size = archive.stat().st_size / 2**20
    Console().print(f"Wrote {archive.relative_to(paths.root)}, {size:,.1f} MiB: hand in this file.", highlight=False)
