"""How many neurons each mouse has, also before its data is there."""

from sensorium.config import Config
from sensorium.errors import ConfigError
from sensorium.mice import NEURONS
from sensorium.paths import Paths


def count_neurons(config: Config, paths: Paths) -> dict[str, int]:
    """Neurons of the mice of params.yaml, in their order.

    A store tells; without one, the settings of the simulation where mice are simulated, or what is known of
    the competition's mice.

    Raises:
        ConfigError: nothing tells for some mouse.
        DataError: a store is damaged.
    """
    return {mouse: _count(config, paths, mouse) for mouse in config.dataset.mice}


def _count(config: Config, paths: Paths, mouse: str) -> int:
    if paths.store(mouse).exists():
        from sensorium.data.store import MouseStore

        return MouseStore(paths.store(mouse)).neurons
    if config.dataset.get == "synthesize" and config.synthetic is not None:
        return config.synthetic.neurons[mouse]
    if mouse not in NEURONS:
        raise ConfigError(f"mouse {mouse}: its number of neurons is not known yet.", "Run `dvc repro ingest` first.")
    return NEURONS[mouse]
