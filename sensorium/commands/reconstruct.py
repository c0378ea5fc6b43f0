"""`sensorium insilico reconstruct`: the movie that an animal saw, from its responses."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from sensorium.commands.insilico import Model, Neurons, OneMouse, Output, Seed, open_session
from sensorium.config import Config
from sensorium.data.folds import Folds
from sensorium.errors import CheckpointError, ConfigError
from sensorium.files import folder_digest
from sensorium.insilico.reconstruction import (
    Descent,
    Held,
    Mask,
    disc,
    keep,
    measure,
    sensitivity,
    write_film,
)
from sensorium.insilico.session import Advance, Outcome, Session
from sensorium.insilico.stimulus_figures import of_reconstruction
from sensorium.insilico.subject import Subject
from sensorium.insilico.target import PINNED
from sensorium.model import checkpoint
from sensorium.paths import Paths
from sensorium.seeding import generator

_TRIALS = 4


def run(
    config: Config,
    paths: Paths,
    model: Model = PINNED,
    mouse: OneMouse = None,
    neurons: Neurons = None,
    fold: Annotated[
        int | None,
        typer.Option("-f", "--fold", min=0, help="Fold whose models and held-out trials are used. Default: the first."),
    ] = None,
    trials: Annotated[
        str | None, typer.Option(help=f"Trials of the fold, joined by commas. Default: the first {_TRIALS}.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Only so many frames of each trial.")] = None,
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the neurons that are used.")] = 1.0,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Give each neuron the responses of another: the chance level.")
    ] = False,
    mask: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Smallest relative sensitivity of the pixels; 0 takes them all.")
    ] = 0.5,
    radius: Annotated[
        float | None, typer.Option(min=0.5, help="Take the pixels within this radius of the most sensitive instead.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of gradient descent.")] = 100,
    rate: Annotated[float, typer.Option(min=0.01, help="Change of the pixels in the first step, grey levels.")] = 5.0,
    smoothing: Annotated[
        float, typer.Option(min=0.0, help="Blur of the gradient, standard deviation in pixels and frames.")
    ] = 3.0,
    stride: Annotated[
        int, typer.Option(min=1, help="One of so many places of the models' window is taken: quicker by as much.")
    ] = 4,
    seed: Seed = None,
    output: Output = None,
) -> None:
    """Reconstruct the movies of held-out trials from the responses that were recorded to them.

    The models of one fold are used together, on trials that none of them was trained on. Writes the movies, films
    side by side, and the pixel correlation with what was shown.

    Raises:
        ConfigError: no such mouse, neuron, fold, experiment or held-out trial.
        TrackingError: no such model.
        CheckpointError: a model has no readout for the mouse, or was trained with another table of folds.
        PredictionError: no pixel changes the responses, or the descent diverged.
    """
    chosen_fold = next(iter(config.folds.train.values())) if fold is None else fold
    chosen_seed = config.seed if seed is None else seed
    descent = Descent(steps, rate, smoothing)
    settings: dict[str, Any] = asdict(descent) | {
        "fold": chosen_fold, "trials": trials, "frames": frames, "share": share, "shuffle": shuffle, "mask": mask,
        "radius": radius, "stride": stride, "seed": chosen_seed,
    }  # fmt: skip
    session = open_session(
        "reconstruct", config, paths, model, mouse, neurons, str(chosen_fold), settings, _TRIALS, output
    )
    skipped = config.window.shortest_trial
    chosen = _held_out(session, paths, chosen_fold, trials)
    _check_folds(session, paths)
    if frames is not None and frames <= skipped:
        raise ConfigError(f"--frames {frames}: the first {skipped} are not compared.", f"Give more than {skipped}.")
    inside = _mask(session, mask, radius, chosen_seed)

    def part(number: int, subject: Subject, advance: Advance) -> Outcome:
        held = Held.read(session.store, chosen[number], frames)
        if shuffle:
            order = generator(chosen_seed, "shuffled neurons", chosen[number]).permutation(len(held.responses))
            held = replace(held, responses=held.responses[order])
        kept = keep(session.neurons, share, chosen_seed, chosen[number])
        return measure(subject, held, kept, inside, descent, stride, skipped, advance)

    found = session.in_parts(len(chosen), f"{len(chosen)} trials", part)
    table = found.tables["trials"]
    ends = np.cumsum(table["frames"])[:-1]
    films = list(zip(*(np.split(found.arrays[name], ends) for name in ("shown", "reconstructed")), strict=True))
    mean = table["pixel_correlation"].mean()
    lead = (
        f"pixel correlation {mean:.2f} with the movie that was shown, mean of {len(table)} held-out trials; "
        f"{table['neurons'].iloc[0]} neurons, {table['models'].iloc[0]} models, {inside.mean():.0%} of the frame."
    )
    pictures = of_reconstruction(table, found.tables["losses"], films, inside)
    found = Outcome(found.tables, {**found.arrays, "mask": inside})
    session.publish(
        found, lead, pictures, {"reconstruct/pixel_correlation": mean}, "trials", partial(_films, films, chosen, inside)
    )


def _films(
    films: Sequence[tuple[NDArray[Any], NDArray[Any]]], trials: Sequence[int], inside: Mask, folder: Path
) -> None:
    for trial, movies in zip(trials, films, strict=True):
        write_film(folder / f"trial_{trial}.gif", movies, inside)


def _mask(session: Session, smallest: float, radius: float | None, seed: int) -> Mask:
    """Pixels that are reconstructed.

    Raises:
        PredictionError: no pixel changes a response.
    """
    shape = session.store.frame_shape
    if smallest == 0 and radius is None:
        return np.ones(shape, bool)
    subject = session.target.subject(session.config, session.store).select(session.neurons)
    seen = sensitivity(subject, shape, seed)
    if radius is None:
        inside: Mask = seen >= smallest
        return inside
    row, column = np.unravel_index(seen.argmax(), shape)
    return disc(shape, (float(row), float(column)), radius)


def _held_out(session: Session, paths: Paths, fold: int, text: str | None) -> list[int]:
    """The chosen trials of a fold.

    Raises:
        ConfigError: a trial is not of the fold, or the fold has none.
    """
    store = session.store
    own = np.flatnonzero(Folds.load(paths.folds).of(store.name, store.trials) == fold).tolist()
    if text is None and own:
        return own[:_TRIALS]
    chosen = [part.strip() for part in (text or "").split(",")]
    for part in chosen:
        if part not in map(str, own):
            raise ConfigError(
                f"--trials {text}: of mouse {store.name}, {part!r} is not held out from fold {fold}.",
                f"Choose among {', '.join(map(str, own)) or 'those of another fold'}.",
            )
    return [int(part) for part in dict.fromkeys(chosen)]


def _check_folds(session: Session, paths: Paths) -> None:
    """Make sure that the table of folds is the one that the models were trained with, where they know theirs.

    Raises:
        CheckpointError: it is not, so that a model may have been trained on the trials.
    """
    present = folder_digest(paths.folds)
    for folder in (folder for own in session.target.folds.values() for folder in own):
        if checkpoint.read_info(folder).provenance.get("folds", present) != present:
            raise CheckpointError(
                f"{folder}: trained with another table of folds than {paths.folds}; it may have seen the trials.",
                "Use a model that was trained on the present folds.",
            )
