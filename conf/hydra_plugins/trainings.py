"""Makes the resolver of conf/config.yaml known where DVC composes; see `hydra.plugins_path` in .dvc/config."""

from pathlib import Path

from sensorium.experiments import register_resolver

register_resolver(Path(__file__).parents[2])
