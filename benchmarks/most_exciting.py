"""Do most exciting inputs drive neurons more than any natural frame, in the model and in the simulated animal?

    dvc pull && python benchmarks/most_exciting.py distillation_001 --folds 0

compares with every frame, and every clip of the same length, of the training trials, at the contrast of the best one.
A model's most exciting inputs are then shown to the noiseless rate of the simulation, as an inception loop shows them
to the animal: its response to them is compared with that to the best natural stimulus of all, which is chosen by the
noiseless rate itself. Neurons are well predicted whose single-trial correlation out of fold (`sensorium evaluate`) is
at least `--threshold` of the ceiling that the noise allows. Prints a Markdown table.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sensorium.config import load
from sensorium.data.store import MouseStore
from sensorium.insilico.most_exciting import Ascent, best_natural, find, mean_response, natural_stimuli
from sensorium.insilico.target import SIMULATION, load_target
from sensorium.paths import PARAMS_FILE, Paths, find_root

sys.path.insert(0, str(Path(__file__).parent))
from insilico import prediction_quality

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pair", help="as for `sensorium insilico`")
    parser.add_argument("--folds", help="such as 0,2; all by default")
    parser.add_argument("--threshold", type=float, default=0.85, help="share of the ceiling")
    parser.add_argument("--every", type=int, default=1, help="compare with every so manieth frame")
    options = parser.parse_args()
    paths = Paths(find_root())
    config = load(paths.root / PARAMS_FILE)
    folds = None if options.folds is None else [int(fold) for fold in options.folds.split(",")]
    model, simulation = load_target(config, paths, options.model, folds), load_target(config, paths, SIMULATION, None)
    tables = []
    for mouse in config.dataset.mice:
        store = MouseStore(paths.store(mouse))
        quality = prediction_quality(paths, options.model, mouse).set_index("unit_id")["quality"]
        well = (quality.reindex(store.unit_ids) >= options.threshold).to_numpy()
        subjects = model.subject(config, store), simulation.subject(config, store)
        for kind, moving in (("image", False), ("movie", True)):
            ascent = Ascent(config.window.shortest_trial, moving)
            table = measure(*subjects, store, ascent, config.seed, options.every)
            tables.append(table.assign(mouse=mouse, stimulus=kind, well=well))
            print(f"{mouse}: {kind} done, {well.sum()} of {len(well)} neurons well predicted", file=sys.stderr)
    report(pd.concat(tables))


def measure(model, rate, store, ascent, seed, every) -> pd.DataFrame:
    """One row per neuron."""
    seen = best_natural(model, natural_stimuli(store, ascent, every), ascent.frames, 32)
    seen_rate = best_natural(rate, natural_stimuli(store, ascent, every), ascent.frames, 32)
    parts = []
    for first in range(0, store.neurons, BATCH):
        own = np.arange(first, min(first + BATCH, store.neurons))
        found = find(model.select(own), seen.contrasts[own], store.frame_shape, ascent, seed)
        best = find(rate.select(own), seen_rate.contrasts[own], store.frame_shape, ascent, seed)
        with torch.no_grad():
            shown = mean_response(rate.select(own), torch.from_numpy(found.movies), ascent.frames)
        parts.append(
            pd.DataFrame(
                {
                    "model": found.responses.max(1) / seen.responses[own],
                    "animal": shown.numpy()[range(len(own)), range(len(own))] / seen_rate.responses[own],
                    "simulation": best.responses.max(1) / seen_rate.responses[own],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def report(neurons: pd.DataFrame) -> None:
    kinds = {
        "model": "model's own, shown to the model",
        "animal": "model's own, shown to the noiseless rate",
        "simulation": "noiseless rate's own, shown to it",
    }
    print("| most exciting input | neurons | number | above the best natural one | median gain | 5 % quantile |")
    print("|---|---|---|---|---|---|")
    for stimulus in ("image", "movie"):
        for name, label in kinds.items():
            for which in ("well predicted", "all"):
                chosen = neurons[(neurons["stimulus"] == stimulus) & (neurons["well"] | (which == "all"))]
                gain = chosen[name]
                print(
                    f"| {stimulus}: {label} | {which} | {len(gain)} | {(gain > 1).mean():.1%} | {gain.median():.2f} "
                    f"| {gain.quantile(0.05):.2f} |"
                )


if __name__ == "__main__":
    main()
