"""What the bits of trainings and predictions depend on: settings, data, code and libraries, as digests."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from sensorium.config import Config
from sensorium.files import digest_json, folder_digest, sha256
from sensorium.paths import Paths

_PACKAGE = Path(__file__).parent
TRAINING_CODE = ("data", "metrics.py", "model", "seeding.py", "training")
"""What a training's bits depend on, in this package; the stage `train` of dvc.yaml lists the same."""
PREDICTION_CODE = ("data", "inference", "model")
"""What the bits of predictions depend on; the stages of dvc.yaml that predict list the same."""
_CHECKSUM_BYTES = 4


def provenance(
    config: Config, paths: Paths, experiment: str, fold: int, teacher: str | None, start: str | None = None
) -> dict[str, Any]:
    """Settings, data, code and command that one fold's training depends on; digests for what is large.

    `teacher` is the digest of the teacher's fold, where there is one, `start` that of the fold whose weights the
    training starts from; without one there is no such key. The section `runtime` is left out: a training may
    continue with other devices or loader processes.
    """
    return {
        "experiment": experiment,
        "fold": fold,
        "seed": config.seed,
        "window": config.window.model_dump(mode="json"),
        "settings": config.experiment(experiment).model_dump(mode="json"),
        "stores": [[mouse, store_digest(paths.store(mouse))] for mouse in config.dataset.mice],
        "folds": folder_digest(paths.folds),
        "teacher": teacher,
        **({} if start is None else {"start": start}),
        "code": code_digests(TRAINING_CODE),
        "torch": torch.__version__,
    }


def fingerprint(provenance: dict[str, Any]) -> str:
    """Digest of a provenance, in hexadecimal; a training never continues from checkpoints of another one."""
    return digest_json(provenance)


def code_digests(parts: Iterable[str]) -> dict[str, str]:
    """Digest of each of some modules and packages of this package."""
    found = {part: _PACKAGE / part for part in parts}
    return {
        part: folder_digest(path, "*.py", "*.cpp") if path.is_dir() else sha256(path) for part, path in found.items()
    }


def store_digest(store: Path) -> str:
    """Digest of a mouse's store from its metadata and the checksums that end its chunks.

    Gigabytes are compared without reading them: see `sensorium.data.layout`.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(store).as_posix()}\0{size}\0".encode())
        with path.open("rb") as stream:
            if path.suffix != ".json":
                stream.seek(max(0, size - _CHECKSUM_BYTES))
            digest.update(stream.read())
    return digest.hexdigest()
