"""Predict how a mouse would respond to a video of the user's own."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich.console import Console

from sensorium import files
from sensorium.commands.options import select_mice
from sensorium.config import Config
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.inference.encoding_model import EncodingModel, MouseInfo
from sensorium.inference.video import read_clip, resample
from sensorium.mice import FRAMES_PER_SECOND, short_name
from sensorium.paths import Paths
from sensorium.registry.pair import load_pair
from sensorium.report.figures import draw_responses

STATES = ("pupil dilation", "running speed", "pupil centre x", "pupil centre y")


def run(
    config: Config,
    paths: Paths,
    video: Annotated[Path, typer.Option("--video", help="A video: .npy (frames, rows, columns), .gif or .mp4.")],
    mouse: Annotated[str | None, typer.Option("-m", "--mouse", help="Whose neurons. Default: the first mouse.")] = None,
    behavior: Annotated[
        Path | None,
        typer.Option(
            "--behavior", help="Pupil dilation, running speed, pupil centre: .npy (4, frames). Default: means."
        ),
    ] = None,
    fps: Annotated[
        float | None, typer.Option("--fps", min=0.1, help="Frames per second, if not the file's own.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder. Default: reports/responses/VIDEO.")
    ] = None,
) -> None:
    """Predict a mouse's responses to your own video with the registered student.

    Writes responses.npy, responses.parquet and responses.png; the video is resized and resampled to the form of the
    recordings.

    Raises:
        ConfigError: no such mouse.
        PredictionError: the video or the behaviour cannot be used.
        TrackingError: no pair is registered.
    """
    output = output or paths.root / "reports" / "responses" / video.stem
    mouse = select_mice(config, mouse)[0]
    store = MouseStore(paths.store(mouse))
    shown = resample(read_clip(video, fps), store.frame_shape)
    states = (None, None) if behavior is None else _states(len(shown), behavior)
    student = {config.registry.student: load_pair(paths.pair_pin, paths)[config.registry.student]}
    known, accelerator = {mouse: MouseInfo.of(store)}, config.runtime.accelerator
    model = EncodingModel(student, config.prediction, mice=known, accelerator=accelerator)
    responses = model.predict(shown, mouse, *states).values
    with files.atomic_folder(output) as partial:
        _write(partial, store, responses)
        draw_responses(shown, responses, f"{video.name}, seen by mouse {short_name(mouse)}").savefig(
            partial / "responses.png"
        )
    Console().print(
        f"Wrote {output}: {len(responses):,} neurons, {len(shown) / FRAMES_PER_SECOND:.1f} s.", highlight=False
    )


def _states(frames: int, path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Behaviour (2, L) and pupil centre (2, L) at every frame."""
    remedy = f"Give an .npy file of shape (4, {frames}): {', '.join(STATES)}, 30 values per second."
    try:
        states = files.read_npy(path)
    except (ValueError, OSError) as fault:
        raise PredictionError(f"{path}: not a readable .npy file ({fault}).", remedy) from fault
    if states.ndim != 2 or len(states) != len(STATES) or states.shape[1] < frames or states.dtype.kind not in "uif":
        raise PredictionError(f"{path}: {states.dtype} of shape {states.shape}.", remedy)
    if not np.isfinite(states[:, :frames]).all():
        raise PredictionError(f"{path}: values are NaN or infinite.", remedy)
    return states[:2, :frames], states[2:, :frames]


def _write(folder: Path, store: MouseStore, responses: NDArray[np.float32]) -> None:
    """The responses as (N, L) array, and as a table with one row per frame and one column per neuron."""
    np.save(folder / "responses.npy", responses)
    table = pd.DataFrame(responses.T, columns=[str(unit) for unit in store.unit_ids])
    table.insert(0, "seconds", np.arange(len(table)) / FRAMES_PER_SECOND)
    table.to_parquet(folder / "responses.parquet", index=False)
