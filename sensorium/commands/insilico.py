"""`sensorium insilico`: experiments on a trained model, as on an animal."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from sensorium.commands.options import Folds, select_folds, select_mice
from sensorium.config import Config
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError
from sensorium.insilico import figures, receptive_field, state, tuning
from sensorium.insilico.session import Session
from sensorium.insilico.target import PINNED, load_target
from sensorium.paths import Paths

Model = Annotated[
    str,
    typer.Argument(
        metavar="[MODEL]",
        help="`pair` for the registered pair, a version such as `models:/sensorium-student@champion` or "
        "`models:/sensorium-pair/1`, an experiment of params.yaml, or `simulation` for the noiseless rate of "
        "simulated mice.",
    ),
]
OneMouse = Annotated[str | None, typer.Option("-m", "--mouse", help="Whose neurons. Default: the first mouse.")]
Neurons = Annotated[
    str | None, typer.Option("-n", "--neurons", help="Neurons from 0 on, such as 0-9,12. Default: all.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the stimuli. Default: `seed` of params.yaml.")]
Batch = Annotated[int, typer.Option(min=1, help="Neurons at once; a killed experiment goes on after its last batch.")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder. Default: reports/insilico/MOUSE/EXPERIMENT.")
]


def run_tuning(
    config: Config,
    paths: Paths,
    model: Model = PINNED,
    mouse: OneMouse = None,
    neurons: Neurons = None,
    folds: Folds = None,
    directions: Annotated[int, typer.Option(min=4, help="Directions of movement, an even number.")] = 16,
    batch: Batch = 2000,
    output: Output = None,
) -> None:
    """Tuning of neurons to drifting gratings: direction, spatial and temporal frequency, contrast.

    Writes the responses to all gratings, and preferred direction, preferred orientation and selectivity indices of
    each neuron.

    Raises:
        ConfigError: no such mouse, neuron, fold or experiment.
        TrackingError: no such model.
        CheckpointError: the model has no readout for the mouse.
    """
    if directions % 2:
        raise ConfigError(f"--directions {directions}: must be even, so that each has its opposite.", "Give 8 or 16.")
    gratings = tuning.Gratings.every(directions)
    settings = gratings.described
    session = open_session("tuning", config, paths, model, mouse, neurons, folds, settings, batch, output)
    found = session.measure(partial(tuning.measure, gratings=gratings, shape=session.store.frame_shape))
    summary = found.tables["summary"]
    session.refuse_dead(summary[summary["preferred_direction"].isna()]["neuron"], "respond the same to every grating")
    lead = f"median OSI {summary['osi'].median():.2f} and DSI {summary['dsi'].median():.2f}, {len(summary)} neurons."
    metrics = {f"tuning/{name}": summary[name].median() for name in ("osi", "dsi")}
    session.publish(found, lead, figures.of_tuning(found.tables), metrics)


def run_receptive_field(
    config: Config,
    paths: Paths,
    model: Model = PINNED,
    mouse: OneMouse = None,
    neurons: Neurons = None,
    folds: Folds = None,
    noise_movies: Annotated[int, typer.Option(min=1, help="Movies of white noise, 2 seconds each.")] = 200,
    gradient_movies: Annotated[int, typer.Option(min=1, help="Movies at which gradients are taken.")] = 16,
    seed: Seed = None,
    batch: Batch = 50,
    output: Output = None,
) -> None:
    """Receptive fields of neurons, by white noise and by the gradient of the response, with centre and size.

    Writes the linear fields as arrays, and centre, size, orientation and spatial frequency of each neuron by both
    methods.

    Raises:
        ConfigError: no such mouse, neuron, fold or experiment.
        TrackingError: no such model.
        CheckpointError: the model has no readout for the mouse.
        PredictionError: all gradients are zero, or a response is not finite.
    """
    chosen = config.seed if seed is None else seed
    settings = {"seed": chosen, "noise_movies": noise_movies, "gradient_movies": gradient_movies}
    session = open_session("receptive-field", config, paths, model, mouse, neurons, folds, settings, batch, output)
    stimuli = receptive_field.Noise(session.store.frame_shape, chosen, noise_movies, gradient_movies)
    found = session.measure(partial(receptive_field.measure, stimuli=stimuli))
    summary = found.tables["summary"]
    fields = summary[summary["method"] == "gradient"]
    session.refuse_dead(fields[fields["row"].isna()]["neuron"], "have a gradient of zero")
    lead = (
        f"receptive fields of {len(fields)} neurons, median standard deviation {fields['sigma'].median():.1f} pixels."
    )
    metrics = {f"receptive_field/{name}": fields[name].median() for name in ("sigma", "explained")}
    session.publish(found, lead, figures.of_receptive_fields(found.tables["summary"], found.arrays), metrics)


def run_state(
    config: Config,
    paths: Paths,
    model: Model = PINNED,
    mouse: OneMouse = None,
    neurons: Neurons = None,
    folds: Folds = None,
    trials: Annotated[int, typer.Option(min=1, help="Training trials whose videos are shown.")] = 6,
    batch: Batch = 2000,
    output: Output = None,
) -> None:
    """How running speed and pupil dilation scale the responses of neurons to the same videos.

    The values are quantiles of what the animal did in the training trials. Writes response, gain and offset by neuron
    and value, and a modulation index of each neuron.

    Raises:
        ConfigError: no such mouse, neuron, fold or experiment.
        TrackingError: no such model.
        CheckpointError: the model has no readout for the mouse.
    """
    settings = {"trials": trials, "quantiles": list(state.QUANTILES)}
    session = open_session("state", config, paths, model, mouse, neurons, folds, settings, batch, output)
    store = session.store
    shown = partial(state.measure, movies=state.clips(store, trials), quantiles=state.training_states(store))
    found = session.measure(shown)
    summary = found.tables["summary"]
    session.refuse_dead(summary[summary["running_gain"].isna()]["neuron"], "respond the same to every video")
    lead = (
        f"median gain {summary['running_gain'].median():.2f} between slow and fast running, "
        f"{summary['pupil_gain'].median():.2f} between narrow and wide pupil, {len(summary)} neurons."
    )
    metrics = {f"state/{name}": summary[name].median() for name in summary.columns[2:]}
    session.publish(found, lead, figures.of_states(found.tables), metrics)


def open_session(
    name: str,
    config: Config,
    paths: Paths,
    model: str,
    mouse: str | None,
    neurons: str | None,
    folds: str | None,
    settings: Mapping[str, Any],
    batch: int,
    output: Path | None,
) -> Session:
    """Find model, mouse and neurons of an experiment; nothing is computed yet.

    Args:
        name: of the experiment.
        config: the settings.
        paths: the project.
        model: see `sensorium.insilico.target.load_target`.
        mouse: its name; None for the first one.
        neurons: such as `0-9,12`; None for all.
        folds: such as `0,2`; None for all.
        settings: all that the results depend on besides, plain values.
        batch: neurons at once.
        output: folder of the results; None for the usual one.

    Raises:
        ConfigError: no such mouse, neuron, fold or experiment.
        TrackingError: no such model.
        DataError: the mouse has no store.
    """
    store = MouseStore(paths.store(select_mice(config, mouse)[0]))
    chosen = select_neurons(store, neurons)
    target = load_target(config, paths, model, None if folds is None else select_folds(config, folds))
    return Session(name, config, paths, target, store, chosen, settings, batch, output)


def select_neurons(store: MouseStore, text: str | None) -> NDArray[np.int64]:
    """Parse `0-9,12` into indices of neurons in rising order, each once; all of them by default.

    Raises:
        ConfigError: not a list of neurons, or one that the mouse does not have.
    """
    if text is None:
        return np.arange(store.neurons)
    remedy = f"Mouse {store.name} has the neurons 0 to {store.neurons - 1}; for example: --neurons 0-9,12"
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise ConfigError(f"--neurons {text}: {part.strip()!r} is no number and no range.", remedy)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"--neurons {text}: the range {part.strip()} is empty.", remedy)
        if last >= store.neurons:
            raise ConfigError(f"--neurons {text}: there is no neuron {last}.", remedy)
        chosen.update(range(first, last + 1))
    return np.array(sorted(chosen), np.int64)
