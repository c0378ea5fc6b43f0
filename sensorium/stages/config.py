"""Print the settings in force, or those that a preset would put in force."""

import sys

import yaml

from sensorium.config import load, parse
from sensorium.errors import ConfigError
from sensorium.paths import PARAMS_FILE, Paths, find_root


def compose(paths: Paths, preset: str) -> dict[str, object]:
    """Compose a preset as `dvc exp run -S preset=<preset>` does.

    Raises:
        ConfigError: there is no such preset.
    """
    from hydra import compose as compose_config
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    folder = paths.root / "conf"
    known = sorted(file.stem for file in (folder / "preset").glob("*.yaml"))
    if preset not in known:
        raise ConfigError(f"preset {preset!r}: not in {folder / 'preset'}.", f"Choose one of: {', '.join(known)}.")
    with initialize_config_dir(str(folder), version_base=None):
        composed = compose_config(config_name="config", overrides=[f"preset={preset}"])
    tree = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def run(preset: str | None) -> None:
    """Write the settings to standard output as YAML.

    Args:
        preset: name of a file in conf/preset/; None for params.yaml as it is.

    Raises:
        ConfigError: the preset does not exist, or the settings are not valid.
    """
    paths = Paths(find_root())
    if preset is None:
        tree = load(paths.root / PARAMS_FILE).model_dump(mode="json", exclude_none=True)
    else:
        tree = compose(paths, preset)
        parse(tree, f"conf/preset/{preset}.yaml")
    yaml.safe_dump(tree, sys.stdout, sort_keys=False)
