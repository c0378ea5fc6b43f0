"""`sensorium insilico most-exciting-input`: the image and the movie that drive a neuron most."""

from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from sensorium.commands.insilico import Batch, Model, Neurons, OneMouse, Output, Seed, open_session
from sensorium.commands.options import Folds
from sensorium.config import Config
from sensorium.errors import ConfigError
from sensorium.insilico.most_exciting import Ascent, measure
from sensorium.insilico.stimulus_figures import of_most_exciting
from sensorium.insilico.target import PINNED
from sensorium.paths import Paths


def run(
    config: Config,
    paths: Paths,
    model: Model = PINNED,
    mouse: OneMouse = None,
    neurons: Neurons = None,
    folds: Folds = None,
    contrast: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            max=120.0,
            help="Contrast of the stimuli: root mean square deviation from mean grey, grey levels. Default: that of "
            "the natural stimulus that drives the neuron most.",
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Length, frames. Default: the shortest that the models can predict.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of gradient ascent.")] = 40,
    starts: Annotated[int, typer.Option(min=1, help="Random stimuli to start from.")] = 3,
    smoothing: Annotated[
        float, typer.Option(min=0.0, help="Blur of the gradient, standard deviation in pixels, of a movie also frames.")
    ] = 2.0,
    every: Annotated[int, typer.Option(min=1, help="Compare with every so manieth natural frame.")] = 10,
    seed: Seed = None,
    batch: Batch = 8,
    output: Output = None,
) -> None:
    """Image and movie that drive each neuron most, by gradient ascent at a fixed contrast.

    The animal's state is its mean. Writes the stimuli and their predicted responses beside those to the natural frame
    and clip that drive the neuron most.

    Raises:
        ConfigError: no such mouse, neuron, fold or experiment; or a stimulus shorter than the models' window.
        TrackingError: no such model.
        CheckpointError: the model has no readout for the mouse.
        PredictionError: no neuron can be driven, or the ascent diverged.
    """
    shortest = config.window.shortest_trial
    length = shortest if frames is None else frames
    if length < shortest:
        raise ConfigError(
            f"--frames {length}: the models' window needs {shortest} frames.", f"Give {shortest} or more."
        )
    ascents = {
        name: Ascent(length, moving, steps, starts, smoothing=smoothing)
        for name, moving in (("image", False), ("movie", True))
    }
    chosen_seed = config.seed if seed is None else seed
    settings = asdict(ascents["movie"]) | {"contrast": contrast, "every": every, "seed": chosen_seed}
    del settings["moving"]
    session = open_session("most-exciting-input", config, paths, model, mouse, neurons, folds, settings, batch, output)
    found = session.measure(
        partial(measure, store=session.store, ascents=ascents, seed=chosen_seed, every=every, wanted=contrast)
    )
    summary = found.tables["summary"]
    dead = summary.groupby("neuron")["dead"].all()
    session.refuse_dead(dead[dead].index, "respond the same to every stimulus")
    better = (summary["response"] > summary["natural_response"]).groupby(summary["stimulus"]).mean()
    gain = (summary["response"] / summary["natural_response"]).groupby(summary["stimulus"]).median()
    lead = (
        f"the image drives {better['image']:.0%} of {len(dead)} neurons more than the best natural frame, the movie "
        f"{better['movie']:.0%} more than the best clip; median gain {gain['image']:.2f} and {gain['movie']:.2f}."
    )
    metrics = {f"most-exciting-input/{name}_better": better[name] for name in ascents}
    metrics |= {f"most-exciting-input/{name}_gain": gain[name] for name in ascents}
    session.publish(found, lead, of_most_exciting(summary, found.arrays), metrics)
