"""What a training depends on, as one digest: another digest never resumes the state."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from sensorium.config import Config
from sensorium.files import digest_json, folder_digest, sha256
from sensorium.paths import Paths

_PACKAGE = Path(__file__).parents[1]
_CODE = ("data", "model", "training", "metrics.py", "seeding.py")
_CHECKSUM_BYTES = 4


def provenance(config: Config, paths: Paths, experiment: str, fold: int, teacher: str | None) -> dict[str, Any]:
    """Settings, data, code and command that one fold's training depends on; digests for what is large.

    The section `runtime` is left out: a training may go on with other devices or loader processes.

    Args:
        config: settings.
        paths: where stores and folds lie.
        experiment: its name.
        fold: fold to hold out.
        teacher: digest of the teacher's fold, where there is one.
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
        "code": {part: _code_digest(_PACKAGE / part) for part in _CODE},
        "torch": torch.__version__,
    }


def fingerprint(provenance: dict[str, Any]) -> str:
    """Digest of a provenance, in hexadecimal."""
    return digest_json(provenance)


def _code_digest(part: Path) -> str:
    return folder_digest(part, "*.py") if part.is_dir() else sha256(part)


def store_digest(store: Path) -> str:
    """Digest of a mouse's store from its metadata and the checksums that end its chunks.

    Gigabytes are told apart without reading them: see `sensorium.data.layout`.
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
