"""Writes one simulated mouse: what it sees, does and answers, in the competition's on-disk format.

The order of trials, the animal and its neurons are the mouse's own; the repeated videos of the test
tiers and some training videos depend on the seed alone, so that all mice see them.
L valid frames, T padded frames, N neurons, H W pixels.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sensorium.config import SyntheticConfig
from sensorium.files import atomic_folder, digest_json
from sensorium.mice import TEST_TIERS, TIERS, MouseSet, labelled_tiers
from sensorium.recordings.raw_writer import write_meta, write_trial
from sensorium.recordings.statistics import write_statistics
from sensorium.recordings.synthetic import movies, neurons
from sensorium.recordings.synthetic.exact import uniform
from sensorium.recordings.synthetic.marker import TRUTH_FOLDER, is_marked, read_digest, require_untouched, write_marker
from sensorium.recordings.synthetic.truth import PARAMETERS, parameters
from sensorium.seeding import generator

GENERATOR_VERSION = 2
"""Raised whenever the same seed and settings give other recordings."""
_CALIBRATION_TRIALS = 8
_SINGLE_TIERS = ("train", "none")
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Video:
    """Identity of a video: where its random choices come from."""

    purpose: str
    """`shared` or `repeated` for all mice, otherwise the mouse's name."""
    tier: str
    index: int

    def render(self, settings: SyntheticConfig) -> movies.Movie:
        """The video itself (L, H, W), the same in every trial and mouse."""
        rng = generator(settings.seed, f"video {self.purpose}", TIERS.index(self.tier), self.index)
        shortest, longest = settings.valid_frames
        frames = int(rng.integers(shortest, longest + 1))
        size = (settings.frame_height, settings.frame_width)
        if "bonus" in self.tier:
            offset = TEST_TIERS.index(self.tier)
            return movies.parametric(rng, self.index + offset, frames, *size)
        return movies.natural(rng, frames, *size)


@dataclass(frozen=True)
class Recipe:
    """All that one mouse is made from."""

    mouse: str
    mouse_set: MouseSet
    settings: SyntheticConfig

    @property
    def digest(self) -> str:
        """Digest of the recipe; equal digests give equal bytes."""
        own = self.settings.model_dump(mode="json") | {"neurons": self.settings.neurons[self.mouse]}
        return digest_json([GENERATOR_VERSION, self.mouse, self.mouse_set, own])

    @property
    def trials(self) -> int:
        """Number of trials."""
        return len(self.plan())

    def generator(self, purpose: str, *coordinates: int) -> np.random.Generator:
        """Randomness of this mouse alone."""
        return generator(self.settings.seed, purpose, zlib.crc32(self.mouse.encode()), *coordinates)

    def plan(self) -> list[Video]:
        """The video of every trial, in the order of the session."""
        counts = dict.fromkeys(TIERS, self.settings.repeated_trials)
        counts["train"] = self.settings.train_trials
        counts["none"] = self.settings.unusable_trials if self.mouse_set == "old" else 0
        videos = [self._video(tier, position) for tier, count in counts.items() for position in range(count)]
        return [videos[i] for i in self.generator("trial order").permutation(len(videos))]

    def _video(self, tier: str, position: int) -> Video:
        if tier not in _SINGLE_TIERS:
            return Video("repeated", tier, position // self.settings.repeats)
        shared = tier == "train" and position < self.settings.shared_videos
        return Video("shared" if shared else self.mouse, tier, position)


@dataclass(frozen=True)
class Trial:
    """One simulated trial, valid frames only."""

    movie: movies.Movie
    behavior: neurons.Behavior
    rate: Float64Array
    responses: Float64Array


class Simulation:
    """A mouse ready to be shown videos."""

    def __init__(self, recipe: Recipe) -> None:
        """Draw the mouse's neurons and calibrate them on its first training trials."""
        self.recipe = recipe
        self.plan = recipe.plan()
        count = recipe.settings.neurons[recipe.mouse]
        rng = recipe.generator("neurons")
        self.unit_ids = np.sort(1 + rng.permutation(2 * count)[:count]).astype(np.uint32)
        self.coordinates = np.rint(uniform(rng, (-450, -450, 120), (450, 450, 280), (count, 3)))
        size = (recipe.settings.frame_height, recipe.settings.frame_width)
        self.population = neurons.draw(rng, self.coordinates, *size)
        self._repeated: dict[Video, movies.Movie] = {}
        train = [i for i, video in enumerate(self.plan) if video.tier == "train"][:_CALIBRATION_TRIALS]
        self.population.calibrate([self._stimulus(trial) for trial in train])

    def _movie(self, video: Video) -> movies.Movie:
        """Render a video, or recall it where it is shown more than once."""
        if video.tier in _SINGLE_TIERS:
            return video.render(self.recipe.settings)
        if video not in self._repeated:
            self._repeated[video] = video.render(self.recipe.settings)
        return self._repeated[video]

    def _stimulus(self, trial: int) -> tuple[movies.Movie, neurons.Behavior]:
        movie = movies.present(self.recipe.generator("presentation", trial), self._movie(self.plan[trial]))
        return movie, neurons.simulate(self.recipe.generator("behavior", trial), len(movie))

    def trial(self, trial: int) -> Trial:
        """Show a trial's video; responses are zero where the competition withholds them."""
        movie, animal = self._stimulus(trial)
        rate = self.population.rate(movie, animal)
        if self.plan[trial].tier in labelled_tiers(self.recipe.mouse_set):
            noise = self.recipe.generator("response noise", trial)
            responses = neurons.respond(noise, rate, self.recipe.settings.noise_shape)
        else:
            responses = np.zeros_like(rate)
        return Trial(movie, animal, rate, responses)


def _arrays(simulated: Trial) -> dict[str, npt.NDArray[Any]]:
    """What is recorded in a trial, by modality, time last."""
    return {
        "videos": simulated.movie.transpose(1, 2, 0),
        "responses": simulated.responses,
        "behavior": simulated.behavior.channels,
        "pupil_center": simulated.behavior.pupil_center,
    }


State = Literal["missing", "current", "outdated", "foreign"]
"""Of a mouse's folder by its marker: absent; written from this recipe; from another recipe; by somebody else."""


def state(raw: Path, recipe: Recipe) -> State:
    """How the mouse's folder under `raw` stands to the recipe."""
    folder = raw / recipe.mouse
    if not folder.exists():
        return "missing"
    if not is_marked(folder):
        return "foreign"
    known = read_digest(folder) == recipe.digest
    return "current" if known and (raw / TRUTH_FOLDER / recipe.mouse).is_dir() else "outdated"


def write_mouse(raw: Path, recipe: Recipe, on_trial: Callable[[], None] = lambda: None) -> None:
    """Simulate a mouse into `raw`/<mouse>, its noiseless rates and the parameters of its neurons beside it.

    Both folders appear whole or not at all, the rates first: a mouse that is there has its truth.

    Raises:
        DataError: something else than an untouched simulated mouse is there.
    """
    place = raw / recipe.mouse
    if place.exists():
        require_untouched(place)
    with atomic_folder(place) as folder, atomic_folder(raw / TRUTH_FOLDER / recipe.mouse) as truth:
        simulation = Simulation(recipe)
        parameters(simulation).to_parquet(truth / PARAMETERS, index=False)
        for trial in range(len(simulation.plan)):
            simulated = simulation.trial(trial)
            np.save(truth / f"{trial}.npy", simulated.rate.astype(np.float32))
            write_trial(folder, trial, _arrays(simulated), recipe.settings.padded_frames)
            on_trial()
        train = [trial for trial, video in enumerate(simulation.plan) if video.tier == "train"]
        write_statistics(folder, train)
        write_meta(folder, [video.tier for video in simulation.plan], simulation.unit_ids, simulation.coordinates)
        write_marker(folder, GENERATOR_VERSION, recipe.digest)
        if place.exists():  # the user may have put a mouse there meanwhile
            require_untouched(place)
