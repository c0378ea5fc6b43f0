"""Writes a simulated recording as laboratories write theirs: own clocks, pauses, dropped frames, blinks.

The animal is none of the demonstration's. conf/nwb/lab.yaml reads the file. F frames shown, N neurons.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sensorium.config import SyntheticConfig
from sensorium.mice import FRAMES_PER_SECOND
from sensorium.recordings.nwb.session import add_neurons, import_pynwb, new_file
from sensorium.recordings.synthetic.mouse import Recipe, Simulation

ANIMAL = "simulated-animal"
_PAUSES = (0.6, 1.4)
"""Shortest and longest pause between trials, seconds."""
_SCREEN_JITTER, _DROPPED = 0.0005, 0.004
"""Standard deviation of the flips of the screen, seconds; share of the frames that it drops."""
_SCAN_HZ, _WHEEL_HZ, _EYE_HZ = 15.5, 100.0, 20.0
_BLINKS, _BLINK_SECONDS = 0.1, 0.25
"""Blinks per second, and how long one lasts."""
_INTERRUPTION = 0.9
"""Seconds without a scan, in one trial."""
Array = npt.NDArray[np.float64]


@dataclass
class _Recorded:
    """The session at 30 Hz; between trials, signals go from the last value of one to the first of the next."""

    times: list[Array] = field(default_factory=list)
    frames: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    responses: list[Array] = field(default_factory=list)
    states: list[Array] = field(default_factory=list)
    """Pupil dilation, running speed, pupil centre x and y (4, L) of each trial."""

    def at(self, moments: Array, signals: list[Array]) -> Array:
        """Signals (len, K) at any moments."""
        known, values = np.concatenate(self.times), np.concatenate(signals, axis=1)
        return np.stack([np.interp(moments, known, row) for row in values], axis=1)


def sample_recipe(neurons: int, trials: int, seed: int) -> Recipe:
    """The animal of a sample: a quarter of its trials repeat clips, and are for validation.

    Args:
        neurons: N.
        trials: how many; a multiple of 4.
        seed: of all that is random.
    """
    tested = trials // 4
    settings = SyntheticConfig(
        seed=seed,
        frame_height=36,
        frame_width=64,
        padded_frames=160,
        valid_frames=(150, 160),
        neurons={ANIMAL: neurons},
        train_trials=trials - tested,
        repeated_trials=tested,
        repeats=2,
        unusable_trials=0,
        shared_videos=0,
        noise_shape=1.5,
    )
    return Recipe(ANIMAL, "old", settings)


def write_sample(recipe: Recipe, path: Path, advance: Callable[[], None]) -> None:
    """Write the file.

    Args:
        recipe: of `sample_recipe`; trials of other tiers than train and oracle are left out.
        path: a file that does not exist.
        advance: called once per trial.

    Raises:
        DataError: pynwb is not installed.
    """
    pynwb = import_pynwb()
    import h5py

    simulation, rng = Simulation(recipe), recipe.generator("clocks")
    about = {
        "file": {
            "session_description": "A simulated recording of visual cortex during natural movies.",
            "experiment_description": "Written by `sensorium synthesize-nwb`; no animal was recorded.",
        },
        "subject": {"description": "Simulated."},
    }
    nwb = new_file(ANIMAL, recipe.digest, about)
    recorded, now = _Recorded(), 5.0
    nwb.add_trial_column("set", "training or validation")
    for trial in _shown(recipe):
        simulated = simulation.trial(trial)
        length = len(simulated.movie)
        recorded.times.append(now + np.arange(length) / FRAMES_PER_SECOND)
        recorded.frames.append(simulated.movie)
        recorded.responses.append(simulated.responses)
        recorded.states.append(np.concatenate([simulated.behavior.channels, simulated.behavior.pupil_center]))
        stop = now + length / FRAMES_PER_SECOND
        usage = "training" if simulation.plan[trial].tier == "train" else "validation"
        nwb.add_trial(start_time=now, stop_time=stop, set=usage)
        now = stop + float(rng.uniform(*_PAUSES))
        advance()
    nwb.add_stimulus(_movie(pynwb, recorded, rng))
    _add_responses(nwb, simulation, recorded, now, rng)
    _add_behavior(nwb, recorded, now, rng)
    with h5py.File(path, "w") as file, pynwb.NWBHDF5IO(file=file, mode="w") as io:
        io.write(nwb)


def _shown(recipe: Recipe) -> list[int]:
    return [trial for trial, video in enumerate(recipe.plan()) if video.tier in ("train", "oracle")]


def _data(values: npt.NDArray[Any]) -> Any:
    from hdmf.backends.hdf5 import H5DataIO

    return H5DataIO(data=values, compression="gzip", shuffle=True)


def _movie(pynwb: Any, recorded: _Recorded, rng: np.random.Generator) -> Any:
    frames, flips = np.concatenate(recorded.frames), np.concatenate(recorded.times)
    flips = np.sort(flips + _SCREEN_JITTER * rng.standard_normal(len(flips)))
    kept = rng.random(len(flips)) >= _DROPPED
    return pynwb.image.ImageSeries(
        name="clips",
        description="Frames of the movies, at the times at which the screen showed them; dropped frames are missing.",
        data=_data(frames[kept]),
        timestamps=_data(flips[kept]),
        unit="n.a.",
    )


def _add_responses(nwb: Any, simulation: Simulation, recorded: _Recorded, end: float, rng: np.random.Generator) -> None:
    pynwb = import_pynwb()
    scans = np.cumsum((1 + 0.002 * rng.standard_normal(int(end * _SCAN_HZ))) / _SCAN_HZ)
    interrupted = recorded.times[len(recorded.times) // 2]
    broken = (scans > interrupted[60]) & (scans < interrupted[60] + _INTERRUPTION)
    scans = scans[~broken]
    rois = add_neurons(nwb, simulation.unit_ids, simulation.coordinates.astype(np.float32))
    container = pynwb.ophys.Fluorescence(name="events")
    nwb.processing["ophys"].add(container)
    container.add_roi_response_series(
        pynwb.ophys.RoiResponseSeries(
            name="deconvolved",
            description="Deconvolved activity.",
            data=_data(recorded.at(scans, recorded.responses).astype(np.float32)),
            timestamps=_data(scans),
            rois=rois,
            unit="n.a.",
        )
    )


def _add_behavior(nwb: Any, recorded: _Recorded, end: float, rng: np.random.Generator) -> None:
    pynwb = import_pynwb()
    turns = np.sort(np.arange(0, end, 1 / _WHEEL_HZ) + 0.001 * rng.random(int(np.ceil(end * _WHEEL_HZ))))
    pictures = np.sort(np.arange(0, end, 1 / _EYE_HZ) + 0.002 * rng.random(int(np.ceil(end * _EYE_HZ))))
    eye = recorded.at(pictures, recorded.states)
    for blink in rng.uniform(0, end, int(end * _BLINKS)).tolist():
        eye[(pictures > blink) & (pictures < blink + _BLINK_SECONDS)] = np.nan
    speed = recorded.at(turns, recorded.states)[:, 1] / 100
    wheel = pynwb.TimeSeries(
        name="wheel", description="Running speed.", data=_data(speed), timestamps=_data(turns), unit="m/s"
    )
    radius = pynwb.TimeSeries(
        name="pupil_radius",
        description="Radius of the pupil; NaN in blinks.",
        data=_data(eye[:, 0] / 2),
        timestamps=_data(pictures),
        unit="pixels",
    )
    centre = pynwb.behavior.SpatialSeries(
        name="pupil_position",
        description="Centre of the pupil, x and y; NaN in blinks.",
        reference_frame="The eye camera's image.",
        data=_data(eye[:, 2:]),
        timestamps=_data(pictures),
        unit="pixels",
    )
    nwb.add_acquisition(wheel)
    nwb.add_acquisition(pynwb.behavior.PupilTracking(time_series=radius))
    nwb.add_acquisition(pynwb.behavior.EyeTracking(spatial_series=centre))
