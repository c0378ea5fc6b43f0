"""The model that an experiment is made on: a registered version, the pinned pair, or an experiment's trained folds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from sensorium.config import Config
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, DataError, TrackingError
from sensorium.files import digest_json
from sensorium.inference.encoding_model import EncodingModel, MouseInfo
from sensorium.inference.sliding import prediction_device
from sensorium.insilico.simulated import RateSubject
from sensorium.insilico.subject import ModelSubject, Weighted, mean_state
from sensorium.paths import PARAMS_FILE, Paths
from sensorium.recordings.synthetic.mouse import GENERATOR_VERSION, Recipe, Simulation
from sensorium.registry.manifest import trained_content
from sensorium.registry.registered import SCHEME, Registered, find_registered, pinned_pair
from sensorium.tracking.run_links import RUNS

SIMULATION = "simulation"
"""Name of the noiseless rate of simulated mice."""
PINNED = "pair"
"""Name of the pair that data/registry/pair.json pins."""
_CPU_ROOM = 1 << 27
"""Bytes of the widest tensor of a forward pass, as in `sensorium.inference.sliding`."""


@dataclass(frozen=True)
class Target:
    """Trained folds, their weights in the mean, and where they come from."""

    label: str
    """For readers: experiment, or name and version in the registry."""
    folds: Mapping[str, Sequence[Path]]
    """Verified fold folders by experiment."""
    digest: str
    """Identity of all weights."""
    weights: Mapping[str, float] | None = None
    """Weight of each experiment; None for equal weights."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Of the version in the registry, where it is one."""

    def subject(self, config: Config, store: MouseStore) -> ModelSubject:
        """Load the models for one mouse, its state the mean.

        Raises:
            ConfigError: the model has no readout for the mouse.
            CheckpointError: weights are damaged, or of other neurons.
        """
        settings = config.prediction.model_copy(update={"precision": "32-true"})
        mice = {store.name: MouseInfo.of(store)}
        accelerator = config.runtime.accelerator
        model = EncodingModel(self.folds, settings, weights=self.weights, mice=mice, accelerator=accelerator)
        parts = [Weighted(member, weight) for member, weight in model.members(store.name)]
        room = max(1, _CPU_ROOM // max(part.member.window_bytes for part in parts))
        device = torch.device(prediction_device(accelerator, "32-true"))
        batch = settings.batch_size if device.type == "cuda" else min(settings.batch_size, room)
        return ModelSubject(parts, mean_state(store), batch, device)


@dataclass(frozen=True)
class SimulationTarget(Target):
    """The noiseless rate of simulated mice, in the place of a model."""

    def subject(self, config: Config, store: MouseStore) -> RateSubject:  # type: ignore[override]
        """The neurons of one mouse, drawn again.

        Raises:
            ConfigError: params.yaml does not describe the simulation of the mouse.
            DataError: the store is not of that simulation.
        """
        if config.synthetic is None or store.name not in config.synthetic.neurons:
            raise ConfigError(
                f"synthetic.neurons: {PARAMS_FILE} has no entry for mouse {store.name}.",
                "Only a simulated mouse has a noiseless rate; name a model.",
            )
        simulation = Simulation(Recipe(store.name, config.dataset.mice[store.name], config.synthetic))
        if not np.array_equal(simulation.unit_ids, store.unit_ids):
            raise DataError(f"{store.path}: not the mouse that {PARAMS_FILE} simulates.", "Run `dvc repro ingest`.")
        return RateSubject(simulation, mean_state(store))


def load_target(config: Config, paths: Paths, name: str, folds: Sequence[int] | None) -> Target:
    """Find a model.

    Args:
        config: the settings.
        paths: the project.
        name: `simulation` for the noiseless rate of simulated mice, `pair` for the pinned pair,
            `models:/<name>/<version>`, `models:/<name>@<alias>`, or an experiment.
        folds: only these; None for all.

    Raises:
        ConfigError: there is no such experiment.
        TrackingError: there is no such version, fold or pin, or files are missing or damaged.
    """
    if name == SIMULATION:
        settings = None if config.synthetic is None else config.synthetic.model_dump(mode="json")
        return SimulationTarget("noiseless rate of the simulation", {}, digest_json([GENERATOR_VERSION, settings]))
    if name == PINNED:
        found = _registered(pinned_pair(paths))
    elif name.startswith(SCHEME):
        found = _registered(find_registered(name, paths))
    else:
        config.experiment(name)
        chosen = config.folds.train if folds is None else {f"fold_{fold}": fold for fold in folds}
        content = trained_content(config.folds.model_copy(update={"train": chosen}), paths, "", name)
        found = Target(name, {name: [paths.fold(name, fold) for fold in chosen.values()]}, content.digest)
    return found if folds is None else _only(found, folds)


def _only(target: Target, folds: Sequence[int]) -> Target:
    wanted = {f"fold_{fold}" for fold in folds}
    kept = {name: [folder for folder in own if folder.name in wanted] for name, own in target.folds.items()}
    for name, own in kept.items():
        if len(own) < len(wanted):
            known = ", ".join(folder.name for folder in target.folds[name])
            raise TrackingError(f"{target.label}: {name} lacks a fold of --folds.", f"Choose among {known}.")
    names = ", ".join(sorted(wanted))
    digest = digest_json([target.digest, sorted(wanted)])
    return Target(f"{target.label}, {names}", kept, digest, target.weights, target.tags)


def _registered(found: Registered) -> Target:
    return Target(found.label, found.folds, found.digest, found.weights, found.tags)


def listed_runs(target: Target) -> list[str]:
    """Ids of the runs of a registered version's folds."""
    return re.findall(r"fold_\d+: ([0-9a-f]{32})", target.tags.get(RUNS, ""))
