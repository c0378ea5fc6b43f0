"""How to get an output of the pipeline back that is missing or damaged: one command for every message.

DVC removes a stage's outputs before it runs the stage, so a stage that fails leaves nothing in the work tree; what was
there usually lies in DVC's cache. Only names of objects are looked up, nothing is read.
"""

import json
import os
import shlex
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from sensorium.errors import CheckpointError, PipelineError
from sensorium.files import load_yaml
from sensorium.paths import Paths

LOCK_FILE = "dvc.lock"


def remedy(path: Path, otherwise: str) -> str:
    """What to do about an output that is missing or damaged.

    Args:
        path: an output, a file in one, or a folder of several.
        otherwise: how it is made anew.
    """
    root = next((folder for folder in path.parents if (folder / LOCK_FILE).is_file()), None)
    if root is None or find_spec("dvc") is None:
        return otherwise
    name = path.relative_to(root)
    outputs = {
        output: digest
        for output, digest in locked_digests(root).items()
        if name.is_relative_to(output) or Path(output).is_relative_to(name)
    }
    if not outputs:
        return otherwise
    names = {output: shlex.quote(os.path.relpath(root / output)) for output in sorted(outputs)}
    listed = " ".join(names.values())
    present = [name for output, name in names.items() if os.path.lexists(root / output)]
    # What is in the way is removed first: DVC takes a file for whole by its time and size.
    clear = f"rm -r {' '.join(present)} && " if present else ""
    if all(_holds(cache_folder(root), digest) for digest in outputs.values()):
        return f"Type `{clear}dvc checkout {listed}`: it is in DVC's cache."
    remote, url = _remote(root)
    if remote is None:
        return otherwise
    if url is not None and all(_holds(url, digest) for digest in outputs.values()):
        return f"Type `{clear}dvc pull {listed}`: it is in the remote {remote!r}."
    advice = f"Type `dvc pull {listed}` where it was pushed. {otherwise}"
    return advice if url is None else otherwise


def later_remedy(path: Path, otherwise: str) -> Callable[[], str]:
    """`remedy` for a fault that may not occur: nothing is looked up before it does."""
    return partial(remedy, path, otherwise)


def trained_folds(folds: Iterable[int], paths: Paths, experiment: str) -> dict[int, Path]:
    """Folder of every fold of an experiment that the pipeline trains.

    Raises:
        CheckpointError: one of them is not there.
    """
    found = {fold: paths.fold(experiment, fold) for fold in sorted(folds)}
    for fold, folder in found.items():
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: fold {fold} of {experiment} is not trained.",
                remedy(folder, f"Type `dvc repro train@{experiment}-{fold}`."),
            )
    return found


def locked_digests(root: Path) -> dict[str, str]:
    """Digest of every output in dvc.lock, by path; empty without a lock file."""
    try:
        return parse_lock((root / LOCK_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}


def parse_lock(text: str) -> dict[str, str]:
    """Digest of every output in the text of a dvc.lock, by path; empty where it is damaged."""
    try:
        return dict(parse_outputs(text))
    except ValueError:
        return {}


def parse_outputs(text: str) -> list[tuple[str, str]]:
    """Path and digest of every output in the text of a dvc.lock or of a .dvc file.

    Raises:
        ValueError: it is not what DVC writes.
    """
    try:
        tree = load_yaml(text) or {}
        outs = [out for stage in tree.get("stages", {"": tree}).values() for out in stage.get("outs") or ()]
        return [(str(out["path"]), str(out["md5"])) for out in outs if "md5" in out and "path" in out]
    except yaml.YAMLError as fault:
        raise ValueError(" ".join(str(fault).split())) from fault
    except (AttributeError, TypeError) as fault:
        raise ValueError("valid YAML, but not what DVC writes") from fault


def cache_folder(root: Path) -> Path:
    """DVC's cache folder."""
    return Path(dvc_settings(root)["cache"].get("dir", root / ".dvc" / "cache"))


def is_stored(root: Path, digest: str) -> bool:
    """Whether DVC's cache has an object, or the default remote, where that is a folder of this machine."""
    _, url = _remote(root)
    return any(_holds(folder, digest) for folder in (cache_folder(root), url) if folder is not None)


def dvc_settings(root: Path) -> Any:
    """DVC's settings of the system, the user and the project, with paths of local folders resolved.

    Raises:
        PipelineError: a file with settings is damaged.
    """
    from dvc.config import Config, ConfigError  # takes a tenth of a second, and few commands need it

    try:
        return Config(str(root / ".dvc"), validate=False)
    except (ConfigError, UnicodeDecodeError, IsADirectoryError) as fault:
        reason = " ".join(f"{fault}. {fault.__cause__ or ''}".split()).rstrip(".")
        raise PipelineError(
            f".dvc/config: DVC cannot read its settings: {reason}.",
            "Correct the file, or type `git checkout .dvc/config`, which brings back that of the last commit.",
        ) from fault


def _remote(root: Path) -> tuple[str | None, Path | None]:
    """Name of the default remote and, where it is a folder of this machine, that folder."""
    settings = dvc_settings(root)
    name = settings["core"].get("remote")
    url = settings["remote"].get(name, {}).get("url")
    if url is None:
        return None, None
    return name, None if "://" in url else Path(url)


def _holds(folder: Path, digest: str) -> bool:
    """Whether a cache or a remote has an object and, where it is a folder, all files of it."""
    objects = folder / "files" / "md5"
    try:
        found = objects / digest[:2] / digest[2:]
        if not digest.endswith(".dir"):
            return found.is_file()
        listed = [str(entry["md5"]) for entry in json.loads(found.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return all((objects / name[:2] / name[2:]).is_file() for name in listed)
