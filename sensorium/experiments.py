"""Experiments as files: conf/experiment/<name>.yaml, composed into params.yaml by Hydra.

DVC composes the same files by itself (`dvc exp run -S preset=<name>`,
https://dvc.org/doc/user-guide/experiment-management/hydra-composition) and writes the same bytes.
"""

import difflib
import io
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sensorium.config import EXPERIMENT_NAME, EXPERIMENT_RULE, parse
from sensorium.errors import ConfigError
from sensorium.files import load_yaml, write_text
from sensorium.paths import PARAMS_FILE
from sensorium.pipeline import pipeline

CONF = "conf"
"""Folder of the files that params.yaml is composed from."""
RESOLVER = "pipeline"
"""Name in conf/config.yaml of what derives the section `pipeline`."""
_HEADER = "# @package experiments."
_CHOICE = "override /experiment"  # entry of a preset's defaults list that names its experiments


def experiment_file(root: Path, name: str) -> Path:
    """The file of an experiment."""
    return root / CONF / "experiment" / f"{name}.yaml"


def known_experiments(root: Path) -> list[str]:
    """Names of the experiments that have a file."""
    return sorted(path.stem for path in (root / CONF / "experiment").glob("*.yaml"))


def known_presets(root: Path) -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in (root / CONF / "preset").glob("*.yaml"))


def check_files(root: Path) -> None:
    """Make sure that each file of conf/experiment/ describes the experiment that it is named after.

    Raises:
        ConfigError: a name that no folder can carry, a file that describes another experiment, or two files
            whose names some file systems take for one.
    """
    names: dict[str, str] = {}
    for name in known_experiments(root):
        other = names.setdefault(name.casefold(), name)
        if other != name:
            raise ConfigError(
                f"{experiment_file(root, name)}: differs from {other}.yaml in upper and lower case alone.",
                "Rename or remove one of the two: their folders would be one on some file systems.",
            )
        path = experiment_file(root, name)
        if not EXPERIMENT_NAME.fullmatch(name):
            raise ConfigError(f"{path}: {name!r} cannot name an experiment.", f"Rename the file: {EXPERIMENT_RULE}.")
        first = path.read_text(encoding="utf-8").partition("\n")[0].strip()
        if first != f"{_HEADER}{name}":
            found = first.removeprefix(_HEADER) if first.startswith(_HEADER) else None
            problem = "does not name it" if found is None else f"describes {found}, not {name}"
            raise ConfigError(f"{path}: its first line {problem}.", f"Begin the file with: {_HEADER}{name}")


def register_resolver(root: Path) -> None:
    """Let Hydra derive the section `pipeline`; conf/hydra_plugins/ calls it where DVC composes.

    Args:
        root: the project's root, whose conf/experiment/ is checked while composing.
    """
    from omegaconf import DictConfig, ListConfig, OmegaConf

    def derive(
        dataset: DictConfig,
        experiments: DictConfig,
        folds: DictConfig,
        members: ListConfig,
        tracks: ListConfig,
        insilico: ListConfig,
    ) -> DictConfig:
        check_files(root)
        names = [str(name) for name in experiments]
        teachers = {name: OmegaConf.select(experiments, f"{name}.distillation.teacher") for name in names}
        starts = {name: OmegaConf.select(experiments, f"{name}.start.experiment") for name in names}
        trained = {str(name): fold for name, fold in folds.items()}
        derived = pipeline(dataset, teachers, starts, trained, list(members), list(tracks), list(insilico))
        return OmegaConf.create(derived)

    OmegaConf.register_new_resolver(RESOLVER, derive, replace=True)


def compose(root: Path, preset: str, overrides: Sequence[str] = ()) -> str:
    """Compose a preset.

    Args:
        root: the project's root.
        preset: name of a file in conf/preset/.
        overrides: as Hydra takes them, such as `experiments.true_batch_001.training.batch_size=16`.

    Returns:
        The text of params.yaml.

    Raises:
        ConfigError: there is no such preset, or its files do not fit together.
    """
    from hydra import compose as compose_config
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if preset not in known_presets(root):
        raise ConfigError(f"preset {preset!r}: not in {root / CONF / 'preset'}.", _choose(known_presets(root), preset))
    check_files(root)
    register_resolver(root)
    try:
        with initialize_config_dir(str(root / CONF), version_base=None):
            composed = compose_config(config_name="config", overrides=[f"preset={preset}", *overrides])
        OmegaConf.resolve(composed)
        text = str(OmegaConf.to_yaml(composed))
    except RecursionError:
        raise ConfigError(f"{root / CONF}: a file is based on itself.", "Look at the lists `defaults`.") from None
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as fault:
        raise ConfigError(f"{root / CONF}: {_first_lines(fault)}", _remedy(root, fault)) from fault
    return text


def compose_valid(root: Path, preset: str, overrides: Sequence[str]) -> str:
    """As `compose`, and the settings are checked.

    Raises:
        ConfigError: as `compose`, or the settings are not valid; the files that they come from are named.
    """
    text = compose(root, preset, overrides)
    try:
        parse(load_yaml(text), f"{CONF}/preset/{preset}.yaml")
    except ConfigError as fault:
        files = [f"{CONF}/preset/{preset}.yaml"]
        for entry in load_yaml((root / files[0]).read_text(encoding="utf-8")).get("defaults", []):
            for group, names in entry.items() if isinstance(entry, dict) else ():
                folder = str(group).removeprefix("override").strip(" /")
                files += [f"{CONF}/{folder}/{name}.yaml" for name in ([names] if isinstance(names, str) else names)]
        raise ConfigError(fault.problem, f"The settings come from {', '.join(files)}. {fault.remedy}") from fault
    return text


_MISSING = re.compile(r"Missing mandatory value: (\S+)")


def _first_lines(fault: Exception) -> str:
    if isinstance(fault, yaml.MarkedYAMLError) and fault.problem_mark is not None:
        return f"{fault.problem_mark.name}, line {fault.problem_mark.line + 1}: not valid YAML: {fault.problem}."
    if left := _MISSING.search(str(fault)):
        return f"the preset has no value of {left[1]}."
    lines = [line.strip().removesuffix(" Config search path:") for line in str(fault).splitlines() if line.strip()]
    return " ".join(lines[:2])


def _remedy(root: Path, fault: Exception) -> str:
    missing = re.search(r"Could not (?:find|load) 'experiment/([^']+)'", str(fault))
    if missing:
        return _choose(known_experiments(root), missing[1])
    if left := _MISSING.search(str(fault)):
        return f"Set it: -S '{left[1]}=<value>'; the comment of the preset's file has an example."
    return "Correct the file or key named above; docs/how-to/experiments.md explains the files of conf/."


def _choose(known: Iterable[str], typed: str) -> str:
    names = list(known)
    near = difflib.get_close_matches(typed, names, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Choose one of: {', '.join(names)}."


def write_experiment(root: Path, name: str, base: str, changes: Mapping[str, Any]) -> Path:
    """Write the file of a new experiment.

    Args:
        root: the project's root.
        name: of the experiment.
        base: experiment that it is based on.
        changes: what differs from the base, values by dotted keys such as `training.learning_rate`.

    Raises:
        ConfigError: the name is taken or of no use, or the base does not exist.
    """
    path = experiment_file(root, name)
    if not EXPERIMENT_NAME.fullmatch(name):
        raise ConfigError(f"experiment {name!r}: cannot name an experiment.", f"Choose another: {EXPERIMENT_RULE}.")
    taken = [known for known in known_experiments(root) if known.casefold() == name.casefold()]
    if taken:
        raise ConfigError(f"{experiment_file(root, taken[0])}: exists already.", "Choose another name.")
    if base not in known_experiments(root):
        raise ConfigError(f"experiment {base!r}: has no file in {path.parent}.", _choose(known_experiments(root), base))
    tree: dict[str, Any] = {}
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = tree
        for part in sections:
            section = section.setdefault(part, {})
        section[last] = value
    defaults = yaml.safe_dump({"defaults": [f"{base}@_here_", "_self_"]}, sort_keys=False)
    write_text(path, f"{_HEADER}{name}\n{defaults}{yaml.safe_dump(tree, sort_keys=False) if tree else ''}")
    return path


def add_experiment(root: Path, name: str) -> str:
    """Put an experiment that has a file into the preset in force and into params.yaml.

    Nothing else of params.yaml changes, so that what was edited there by hand stays.

    Returns:
        Name of the preset that now runs it.

    Raises:
        ConfigError: the experiment has no file or is not valid with the settings in force.
    """
    if name not in known_experiments(root):
        raise ConfigError(
            f"experiment {name!r}: has no file in {root / CONF / 'experiment'}.", _choose(known_experiments(root), name)
        )
    params = root / PARAMS_FILE
    text = params.read_text(encoding="utf-8")
    preset = str(_tree(text, params).get("preset", ""))
    chosen = root / CONF / "preset" / f"{preset}.yaml"
    composed = load_yaml(compose(root, preset, [f"experiment=[{','.join(dict.fromkeys([*_chosen(chosen), name]))}]"]))
    updated = _edited(text, lambda tree: tree["experiments"].update({name: composed["experiments"][name]}))
    updated = _with_pipeline(updated)
    parse(load_yaml(updated), f"{PARAMS_FILE} with {name}")
    listed = _edited(chosen.read_text(encoding="utf-8"), lambda tree: _choice(tree).append(name))
    if name not in _chosen(chosen):
        write_text(chosen, listed)
    write_text(params, updated)
    return preset


def _choice(tree: Any) -> Any:
    """The list of experiments in a preset's defaults; a preset without one is refused."""
    for entry in tree.get("defaults", []):
        if isinstance(entry, dict) and _CHOICE in entry:
            return entry[_CHOICE]
    raise ConfigError(f"{CONF}/preset: no entry `{_CHOICE}: [...]` in the list `defaults`.", "Add one to the preset.")


def _chosen(preset: Path) -> list[str]:
    """Experiments that a preset names; its file may be missing where params.yaml was written by hand."""
    if not preset.exists():
        raise ConfigError(
            f"{PARAMS_FILE}: preset {preset.stem!r} has no file {preset}.",
            "Set `preset` to the preset that the settings come from.",
        )
    return list(_choice(_tree(preset.read_text(encoding="utf-8"), preset)))


def update_pipeline(root: Path) -> bool:
    """Derive the section `pipeline` anew after params.yaml was edited by hand.

    Returns:
        Whether it had to be changed.
    """
    params = root / PARAMS_FILE
    text = params.read_text(encoding="utf-8")
    updated = _with_pipeline(text)
    parse(load_yaml(updated), PARAMS_FILE)
    if updated != text:
        write_text(params, updated)
    return updated != text


def _with_pipeline(text: str) -> str:
    tree = _tree(text, PARAMS_FILE)
    tree.pop("pipeline", None)
    derived = parse(tree, PARAMS_FILE).derived_pipeline
    return _edited(text, lambda edited: edited.update({"pipeline": derived}))


def _tree(text: str, source: Path | str) -> dict[str, Any]:
    try:
        tree = load_yaml(text)
    except yaml.YAMLError as fault:
        raise ConfigError(f"{source}: not valid YAML: {fault}", "Correct the line named above.") from fault
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: no keys in it.", f"Restore it: `git checkout {source}`.")
    return tree


def _edited(text: str, change: Callable[[Any], object]) -> str:
    """YAML text after a change of its tree; comments and layout stay."""
    from ruamel.yaml import YAML

    editor = YAML()
    editor.width = 1000
    editor.preserve_quotes = True
    editor.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    tree = editor.load(text)
    change(tree)
    stream = io.StringIO()
    editor.dump(tree, stream)
    return stream.getvalue()


def write_params(root: Path, preset: str, overrides: Sequence[str], *, force: bool) -> Path:
    """Compose a preset into params.yaml.

    Args:
        root: the project's root.
        preset: name of a file in conf/preset/.
        overrides: as Hydra takes them.
        force: whether changes that git does not hold may be lost.

    Raises:
        ConfigError: the settings are not valid, or params.yaml holds changes that are not committed.
    """
    params = root / PARAMS_FILE
    text = compose_valid(root, preset, overrides)
    if not force and params.exists() and params.read_text(encoding="utf-8") != text and not _committed(params):
        raise ConfigError(
            f"{params}: holds changes that are not committed; composing {preset} would overwrite them.",
            "Commit them, or add --force. `git diff params.yaml` shows them.",
        )
    write_text(params, text)
    return params


def _committed(path: Path) -> bool:
    """Whether git holds the file as it is."""
    done = subprocess.run(  # noqa: S603 - the name of a file of ours
        ["git", "status", "--porcelain", "--", path.name],  # noqa: S607 - git of the user's PATH
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0 and not done.stdout.strip()
