"""Is the reconstruction of movies bounded by the noiseless rate, and what do neurons, models and noise do to it?

    dvc pull && python benchmarks/reconstruction.py

reconstructs the beginning of held-out trials of fold 0 of the first mouse. Through the noiseless rate of the simulation
the method itself is judged, without a model: from the rate, from the recorded responses, from a share of the neurons,
from a mouse with ten times as many, and with the neurons shuffled. Then the same through the trained models of the
fold, one by one and together. Prints a Markdown table of pixel correlations, mean over the trials.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch

from sensorium.config import load
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.insilico.reconstruction import Descent, Held, keep, measure
from sensorium.insilico.simulated import RateSubject
from sensorium.insilico.subject import mean_state
from sensorium.insilico.target import Target, load_target
from sensorium.paths import PARAMS_FILE, Paths, find_root
from sensorium.recordings.synthetic.mouse import Recipe, Simulation
from sensorium.recordings.synthetic.neurons import respond
from sensorium.seeding import generator

MORE = 10
"""Times as many neurons in the larger mouse."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--frames", type=int, default=90)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--smoothing", type=float, default=3.0)
    parser.add_argument("--experiments", default="baseline_001,distillation_001,true_batch_001")
    options = parser.parse_args()
    paths = Paths(find_root())
    config = load(paths.root / PARAMS_FILE)
    mouse = next(iter(config.dataset.mice))
    store = MouseStore(paths.store(mouse))
    own = np.flatnonzero(Folds.load(paths.folds).of(mouse, store.trials) == 0)[: options.trials]
    held = [Held.read(store, int(trial), options.frames) for trial in own]
    rates = [replace(trial, responses=store.truth(trial.trial)[: len(trial.movie)].T) for trial in held]
    bench = Bench(config, store, options)
    print(f"Trials {own.tolist()} of {mouse}, {options.frames} frames, {options.steps} steps\n")
    print("| through | responses | neurons | models | pixel correlation | each trial |")
    print("|---|---|---|---|---|---|")
    truth = RateSubject(simulated(config, mouse, 1), mean_state(store))
    compare(bench, "noiseless rate", truth, rates, held, shares=(0.25, 0.5))
    subject = RateSubject(simulated(config, mouse, MORE), mean_state(store))
    noiseless, noisy = answers(subject, held, config.synthetic.noise_shape)
    bench.row("noiseless rate", "noiseless", subject, noiseless)
    bench.row("noiseless rate", "simulated again", subject, noisy)
    targets = {name: load_target(config, paths, name, [0]) for name in options.experiments.split(",")}
    for name, target in targets.items():
        bench.row(name, "recorded", target.subject(config, store), held)
    folds = {name: target.folds[name] for name, target in targets.items()}
    together = Target("all models", folds, "").subject(config, store)
    compare(bench, "all models", together, rates, held, shares=(0.25, 0.5))


def simulated(config, mouse: str, times: int) -> Simulation:
    count = config.synthetic.neurons[mouse] * times
    settings = config.synthetic.model_copy(update={"neurons": {mouse: count}})
    return Simulation(Recipe(mouse, config.dataset.mice[mouse], settings))


def answers(subject, held, shape):
    """Noiseless and noisy responses of another mouse to the same movies."""
    noiseless, noisy = [], []
    for trial in held:
        with torch.no_grad():
            rate = subject(torch.from_numpy(trial.movie)[None], torch.from_numpy(trial.states))[0].numpy()
        noiseless.append(replace(trial, responses=rate))
        noisy.append(replace(trial, responses=respond(generator(0, "benchmark noise", trial.trial), rate, shape)))
    return noiseless, noisy


def compare(bench, through, subject, rates, held, shares) -> None:
    bench.row(through, "noiseless", subject, rates)
    bench.row(through, "recorded", subject, held)
    for share in shares:
        bench.row(through, "recorded", subject, held, share)
    shuffled = [
        replace(trial, responses=generator(0, "shuffle", trial.trial).permutation(trial.responses)) for trial in held
    ]
    bench.row(through, "recorded, neurons shuffled", subject, shuffled)


class Bench:
    def __init__(self, config, store, options) -> None:
        self.skipped = config.window.shortest_trial
        self.mask = np.ones(store.frame_shape, bool)
        self.descent = Descent(options.steps, smoothing=options.smoothing)

    def row(self, through, responses, subject, trials, share=1.0) -> None:
        """Reconstruct all trials and print their mean."""
        found = []
        for trial in trials:
            kept = keep(np.arange(len(trial.responses)), share, 0, trial.trial)
            outcome = measure(subject, trial, kept, self.mask, self.descent, 4, self.skipped)
            found.append(outcome.tables["trials"].iloc[0])
        values = np.array([row["pixel_correlation"] for row in found])
        each = " ".join(f"{value:.2f}" for value in values)
        counts = f"{int(found[0]['neurons'])} | {int(found[0]['models'])}"
        print(f"| {through} | {responses} | {counts} | {values.mean():.3f} | {each} |", flush=True)


if __name__ == "__main__":
    main()
