"""Registering the teacher and the student as one pair, and loading the pair by its pin."""

from pathlib import Path
from typing import Any

from sensorium.config import Config
from sensorium.errors import TrackingError
from sensorium.files import digest_json, read_json
from sensorium.paths import Paths
from sensorium.registry.catalog import Catalog, Entry
from sensorium.registry.manifest import PAIR, STUDENT, TEACHER, ModelContent, PairPin, Pin, trained_content
from sensorium.tracking.provenance import locked_digests, run_tags
from sensorium.tracking.store import refusals_told


def register_pair(config: Config, paths: Paths) -> PairPin:
    """Register the trained teacher, student and their pair; equal content keeps its versions.

    Raises:
        TrackingError: folds or scores are missing, or teacher and student are one experiment.
    """
    contents = _contents(config, paths)
    scores = read_json(paths.evaluation / "metrics.json", TrackingError, "Type `dvc repro evaluate`.")
    tags = run_tags(paths.root, config, "register")
    digest = pair_digest(contents, scores)
    with refusals_told():
        catalog = Catalog(paths)
        versions = {role: catalog.register(_entry(content, tags)) for role, content in contents.items()}
        manifest = _pair_manifest(paths, contents, versions, scores, tags)
        experiment = ",".join(sorted(content.experiment for content in contents.values()))
        pair = catalog.register(Entry(PAIR, digest, experiment, manifest, tags=tags))
    return PairPin(Pin(PAIR, pair, digest), contents, versions)


def _entry(content: ModelContent, tags: dict[str, str]) -> Entry:
    return Entry(content.name, content.digest, content.experiment, _manifest(content), content, tags)


def _pair_manifest(
    paths: Paths, contents: dict[str, ModelContent], versions: dict[str, int], scores: Any, tags: dict[str, str]
) -> dict[str, Any]:
    return {
        "models": {role: {**_manifest(content), "version": versions[role]} for role, content in contents.items()},
        "scores": scores,
        "data": locked_digests(paths.root),
        "code": {key: value for key, value in tags.items() if "git" in key or key.endswith("version")},
    }


def pair_digest(contents: dict[str, ModelContent], scores: Any) -> str:
    """Identity of a pair: what its models hold, and how they scored."""
    return digest_json({"models": {role: content.digest for role, content in contents.items()}, "scores": scores})


def _contents(config: Config, paths: Paths) -> dict[str, ModelContent]:
    teacher, student = config.registry.teacher, config.registry.student
    if teacher == student:
        raise TrackingError(f"registry: {teacher} is both teacher and student.", "Name two experiments in params.yaml.")
    return {
        "teacher": trained_content(config, paths, TEACHER, teacher),
        "student": trained_content(config, paths, STUDENT, student),
    }


def _manifest(content: ModelContent) -> dict[str, Any]:
    return {
        "name": content.name,
        "experiment": content.experiment,
        "digest": content.digest,
        "files": content.files,
    }


def load_pair(pin: Path, paths: Paths) -> dict[str, list[Path]]:
    """Fold folders of a registered pair, from the model registry, every file verified.

    Args:
        pin: file that `sensorium register` wrote.
        paths: where everything lies.

    Returns:
        Experiment name to its fold folders, in the order of the folds.

    Raises:
        TrackingError: the pin is missing, or a version is missing, deleted or damaged.
    """
    pinned = PairPin.read(pin)
    folders = {}
    with refusals_told():
        catalog = Catalog(paths)
        catalog.resolve(pinned.pair.name, pinned.pair.version, pinned.pair.digest)
        for role, content in pinned.models.items():
            version = catalog.resolve(content.name, pinned.versions[role], content.digest)
            folder = catalog.folder(version, content)
            folders[content.experiment] = [folder / fold for fold in content.folds]
    return folders


def restore_pair(config: Config, paths: Paths) -> tuple[PairPin, bool]:
    """Register again what data/experiments holds, in a store that lost it.

    Returns:
        What is registered now, and whether it is what the pin on disk asks for.
    """
    restored = register_pair(config, paths)
    wanted = PairPin.read(paths.pair_pin) if paths.pair_pin.exists() else restored
    same = {role: content.digest for role, content in wanted.models.items()} == {
        role: content.digest for role, content in restored.models.items()
    }
    return restored, same and wanted.pair.digest == restored.pair.digest
