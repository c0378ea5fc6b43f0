"""Do the experiments in silico recover what the neurons of simulated mice are?

    dvc pull && python benchmarks/insilico.py distillation_001 --mouse MOUSE

measures tuning and receptive fields of all neurons twice: on the noiseless rate of the simulation, where a method that
is right recovers the truth, and on a model, whose errors beyond that are its own. Preferred orientation, centre of the
receptive field and spatial frequency are compared with the parameters that the simulation has drawn; the preferred
speed, to which no single parameter corresponds, with that of the noiseless rate. For the model the medians are those
of well predicted neurons: their single-trial correlation out of fold (`sensorium evaluate`) is at least `--threshold`
of the ceiling that the noise allows.

Writes reports/insilico/benchmark: index.html, its figure, and the table of all neurons.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from sensorium import files
from sensorium.commands.options import select_mice
from sensorium.config import load
from sensorium.data.store import MouseStore
from sensorium.evaluation.sources import CEILING, ENSEMBLE
from sensorium.evaluation.tables import SINGLE_TRIAL
from sensorium.insilico import figures, receptive_field, tuning
from sensorium.insilico.page import experiment_page
from sensorium.insilico.session import Session
from sensorium.insilico.target import SIMULATION, load_target
from sensorium.paths import PARAMS_FILE, Paths, find_root
from sensorium.recordings.synthetic.mouse import Recipe, Simulation
from sensorium.recordings.synthetic.truth import parameters
from sensorium.report.figures import STYLE

RATE, MODEL = "noiseless rate", "model"
ERRORS = {
    "orientation": "orientation by gratings, degrees",
    "fitted_orientation": "orientation by gradient, degrees",
    "centre": "centre by gradient, pixels",
    "noise_centre": "centre by white noise, pixels",
    "sigma": "standard deviation by gradient, % of the true one",
    "spatial_frequency": "spatial frequency by gradient, % of the true one",
    "speed": "speed by gratings, octaves from that of the noiseless rate",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pair", help="as for `sensorium insilico`")
    parser.add_argument("--threshold", type=float, default=0.85, help="share of the ceiling")
    parser.add_argument("--mouse", help="only this one")
    parser.add_argument("--noise-movies", type=int, default=200)
    parser.add_argument("--gradient-movies", type=int, default=16)
    options = parser.parse_args()
    paths = Paths(find_root())
    config = load(paths.root / PARAMS_FILE)
    parts = []
    for mouse in select_mice(config, options.mouse):
        store = MouseStore(paths.store(mouse))
        found = {
            name: measure(config, paths, target, store, options)
            for name, target in ((RATE, SIMULATION), (MODEL, options.model))
        }
        truth = parameters(Simulation(Recipe(mouse, config.dataset.mice[mouse], config.synthetic)))
        quality = prediction_quality(paths, options.model, mouse)
        for name, table in found.items():
            joined = table.merge(truth, on="unit_id", suffixes=("", "_true")).merge(quality, on="unit_id", how="left")
            joined["speed_true"] = found[RATE]["speed"].to_numpy()
            parts.append(joined.assign(subject=name, mouse=mouse))
    neurons = with_errors(pd.concat(parts, ignore_index=True))
    write(paths, neurons, options)


def measure(config, paths, name, store, options) -> pd.DataFrame:
    """One row per neuron: what the experiments find."""
    target = load_target(config, paths, name, None)
    gratings = tuning.Gratings.every(16)
    noise = receptive_field.Noise(store.frame_shape, config.seed, options.noise_movies, options.gradient_movies)
    session = partial(Session, config=config, paths=paths, target=target, store=store, neurons=np.arange(store.neurons))
    # sessions of their own, so that a killed benchmark goes on where it was
    curves = session(f"benchmark-tuning-{name.replace('/', '_')}", settings=gratings.described, batch=2000)
    shape = store.frame_shape
    tuned = curves.measure(partial(tuning.measure, gratings=gratings, shape=shape)).tables["summary"]
    settings = {"seed": noise.seed, "movies": [noise.movies, noise.gradient_movies]}
    fields = session(f"benchmark-fields-{name.replace('/', '_')}", settings=settings, batch=30)
    found = fields.measure(partial(receptive_field.measure, stimuli=noise)).tables["summary"]
    by_gradient, by_noise = (found[found["method"] == method].set_index("unit_id") for method in ("gradient", "noise"))
    table = tuned.set_index("unit_id")[["preferred_orientation", "osi", "speed"]]
    table[["row", "column", "sigma", "fitted_orientation", "spatial_frequency"]] = by_gradient[
        ["row", "column", "sigma", "orientation", "spatial_frequency"]
    ]
    table[["noise_row", "noise_column"]] = by_noise[["row", "column"]]
    return table.reset_index()


def prediction_quality(paths: Paths, model: str, mouse: str) -> pd.DataFrame:
    """Share of the ceiling that each neuron's correlation out of fold reaches."""
    scores = pd.read_parquet(paths.evaluation / "neurons.parquet")
    own = scores[scores["mouse"] == mouse].pivot_table(index="unit_id", columns="source", values=SINGLE_TRIAL)
    source = model if model in own.columns else ENSEMBLE
    return (own[source] / own[CEILING]).rename("quality").reset_index()


def with_errors(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `error_*` for each entry of `ERRORS`."""

    def turned(name):
        return ((table[name] - table["orientation"] + 90) % 180 - 90).abs()

    def distance(prefix):
        return np.hypot(table[f"{prefix}row"] - table["row_true"], table[f"{prefix}column"] - table["column_true"])

    errors = {
        "orientation": turned("preferred_orientation"),
        "fitted_orientation": turned("fitted_orientation"),
        "centre": distance(""),
        "noise_centre": distance("noise_"),
        "sigma": 100 * (table["sigma"] / table["sigma_true"] - 1).abs(),
        "spatial_frequency": 100 * (table["spatial_frequency"] / table["spatial_frequency_true"] - 1).abs(),
        "speed": np.log2(table["speed"] / table["speed_true"]).abs(),
    }
    return table.assign(**{f"error_{name}": values for name, values in errors.items()})


def medians(neurons: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Median of each error: of the noiseless rate, of the model's well predicted neurons, and of all its neurons."""
    model, rate = neurons[neurons["subject"] == MODEL], neurons[neurons["subject"] == RATE]
    well = model[model["quality"] >= threshold]
    oriented = well[well["osi"] >= 0.1]
    groups = {
        f"noiseless rate, {len(rate)} neurons": rate,
        f"model, {len(well)} well predicted": well,
        f"of these {len(oriented)} with OSI 0.1 or more": oriented,
        f"model, all {len(model)}": model,
    }
    return pd.DataFrame(
        {
            "median error": list(ERRORS.values()),
            **{name: [own[f"error_{key}"].median() for key in ERRORS] for name, own in groups.items()},
        }
    )


@mpl.rc_context(STYLE)
def scatter(neurons: pd.DataFrame, threshold: float):
    """Recovered over true: orientation, centre, speed; the model below the noiseless rate."""
    pairs = {
        "orientation, degrees": ("orientation", "preferred_orientation"),
        "row, pixels": ("row_true", "row"),
        "column, pixels": ("column_true", "column"),
        "log2 speed": ("speed_true", "speed"),
    }
    figure, panels = figures.grid(2 * len(pairs), 2.0, columns=len(pairs))
    rng = np.random.default_rng(0)
    for line, subject in enumerate((RATE, MODEL)):
        own = neurons[neurons["subject"] == subject]
        good = own["quality"].to_numpy() >= threshold if subject == MODEL else np.ones(len(own), bool)
        for axes, (label, (true, found)) in zip(panels[line * len(pairs) :], pairs.items(), strict=False):
            x, y = own[true].to_numpy(), own[found].to_numpy()
            if "orientation" in label:
                y = x + (y - x + 90) % 180 - 90
            if "speed" in label:  # few values are possible: spread those that coincide
                x, y = np.log2(x) + rng.normal(0, 0.06, len(x)), np.log2(y) + rng.normal(0, 0.06, len(y))
            axes.plot([x.min(), x.max()], [x.min(), x.max()], color="#999999", linewidth=0.8)
            axes.scatter(x[~good], y[~good], s=8, color="#CCCCCC", linewidths=0)
            axes.scatter(x[good], y[good], s=8, color="#0072B2", linewidths=0)
            axes.set_title(label if line == 0 else "", fontsize=8)
            axes.tick_params(labelsize=7)
        panels[line * len(pairs)].set_ylabel(subject)
    figure.supxlabel("true", fontsize=9)
    figure.supylabel("recovered", fontsize=9)
    return figure


def write(paths: Paths, neurons: pd.DataFrame, options: argparse.Namespace) -> None:
    folder = paths.root / "reports" / "insilico" / "benchmark"
    table = medians(neurons, options.threshold)
    with files.atomic_folder(folder) as partial_folder:
        figure = partial_folder / "recovered.png"
        scatter(neurons, options.threshold).savefig(figure)
        neurons.to_parquet(partial_folder / "neurons.parquet", index=False)
        caption = (
            "True and recovered values. Blue: all neurons of the noiseless rate, and those neurons of the model whose "
            f"correlation is at least {options.threshold:g} of the ceiling; grey: the others."
        )
        lead = f"Recovery of the simulation's parameters from the noiseless rate and from {options.model}."
        facts = {"Model": options.model, "Well predicted": f"correlation / ceiling of {options.threshold:g} or more"}
        images = [("Recovered and true", caption, figure.read_bytes())]
        page = experiment_page("What experiments in silico recover", lead, images, table, facts)
        (partial_folder / "index.html").write_text(page, encoding="utf-8")
    print(table.round(2).to_string(index=False))
    print(f"Wrote {os.path.relpath(folder, Path.cwd())}.")


if __name__ == "__main__":
    main()
