# ruff: noqa: E402 - what an old package needs comes before it
"""Makes tests/fixtures/baseline_parity.npz: what `neuralpredictors` gives for readout and shifter.

    pip install --no-deps --target /tmp/reference neuralpredictors==0.3.0
    PYTHONPATH=/tmp/reference python tests/model/baseline_figures.py

Weights are random, under our names. The released package lacks the starter kit's 3D core and recurrent layer.
"""

import collections
import collections.abc
import sys
import warnings
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

sys.modules.setdefault("torchvision", MagicMock())  # for parts that are not needed here
collections.Iterable = collections.abc.Iterable  # of Pythons before 3.10, which the package was written for
warnings.simplefilter("ignore")

from neuralpredictors.layers.readouts.gaussian import FullGaussian2d
from neuralpredictors.layers.shifters.mlp import MLP
from torch import nn

TARGET = Path(__file__).parents[1] / "fixtures" / "baseline_parity.npz"


def readout() -> dict[str, torch.Tensor]:
    coordinates = np.random.default_rng(0).uniform(-400, 400, (9, 3))
    predictor = {"hidden_layers": 1, "hidden_features": 7, "final_tanh": True}
    source = coordinates[:, :2]
    reference = FullGaussian2d(
        (5, 4, 6), 9, bias=True, gauss_type="full", grid_mean_predictor=predictor, source_grid=source
    )
    for entry in (reference._features, reference.bias):
        nn.init.normal_(entry)
    shifter = MLP(2, 5, 3)
    x, pupil = torch.randn(8, 5, 4, 6), torch.randn(8, 2)
    with torch.no_grad():
        drive = reference.eval()(x, shift=shifter(pupil))
    figures = {"coordinates": torch.tensor(coordinates).float(), "input": x, "pupil": pupil}
    figures |= {"output": nn.functional.elu(drive) + 1, "weights|sigma": reference.sigma[0]}
    figures |= {"weights|weight": reference._features[0, :, 0].T, "weights|bias": reference.bias}
    figures |= {f"weights|position.{key}": entry for key, entry in reference.mu_transform.state_dict().items()}
    figures |= {f"weights|shifter.{key}": entry for key, entry in shifter.mlp.state_dict().items()}
    torch.manual_seed(1)
    figures["draws"] = torch.randn(8, 9, 2)
    torch.manual_seed(1)
    figures["drawn"] = reference.train().sample_grid(8)[:, :, 0]
    return figures


def main() -> None:
    torch.manual_seed(0)
    np.savez_compressed(TARGET, **{name: entry.detach().numpy() for name, entry in readout().items()})


if __name__ == "__main__":
    main()
