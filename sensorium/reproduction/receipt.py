"""A receipt of a training that travels: an RO-Crate with all that is needed to train the fold again and to compare.

An RO-Crate (https://www.researchobject.org/ro-crate/) is a folder of files with their description in JSON-LD. This one
holds the fold's config.json (settings, scores, the SHA-256 of the weights) and history.csv, the changes that were not
committed, the versions of all packages, and `receipt.json`, from which `sensorium reproduce` trains again. Weights and
data are named by their digests. The same training gives the same bytes.
"""

import json
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from sensorium.errors import ConfigError, PipelineError
from sensorium.files import Record, atomic_folder, read_json, sha256, write_json, write_text
from sensorium.secrets import redact
from sensorium.tracking.provenance import git
from sensorium.tracking.recorder import CONFIG, HISTORY, PATCH
from sensorium.tracking.training_record import TrainingRecord

RECEIPT, METADATA, ENVIRONMENT = "receipt.json", "ro-crate-metadata.json", "environment.txt"
_REMEDY = "Make the receipt again by `sensorium receipt`, or copy it again."
_DESCRIPTIONS = {
    RECEIPT: ("application/json", "Code, data and machine of the training, read by `sensorium reproduce`."),
    CONFIG: ("application/json", "Settings, scores, and the SHA-256 of the trained weights."),
    HISTORY: ("text/csv", "Metrics of every epoch."),
    PATCH: ("text/x-diff", "Changes of tracked files that were not committed."),
    ENVIRONMENT: ("text/plain", "Versions of the installed packages."),
}


class Receipt(Record):
    """receipt.json: what to clone, what to read, and the digests of the other files."""

    format: int = 1
    experiment: str
    fold: int = Field(ge=0)
    repository: str | None
    """Address of the git repository, None where it has none; without passwords."""
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    inside: str
    """The project's folder in the repository; empty for its root."""
    inputs: dict[str, str]
    """DVC's md5 of everything that was read, by path."""
    threads: int | None
    hardware: str
    python: str
    files: dict[str, str]
    """SHA-256 of the other files of the crate, by name."""

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        foreign = set(self.files) - set(_DESCRIPTIONS)
        if self.format != 1 or foreign or not {CONFIG, HISTORY} <= set(self.files):
            raise ValueError("not a receipt of format 1")
        return self


def write_receipt(root: Path, record: TrainingRecord, python: str, folder: Path) -> None:
    """Write the receipt of a training.

    Args:
        root: the project's root.
        record: the training.
        python: version of Python.
        folder: where to write; what is there is replaced.

    Raises:
        PipelineError: the record lacks the fold's settings or history.
    """
    missing = [name for name in (CONFIG, HISTORY) if name not in record.artifacts]
    if missing:
        raise PipelineError(f"{record.name}: its run has no {' and no '.join(missing)}.", "Name another run.")
    with atomic_folder(folder) as partial:
        for name, content in record.artifacts.items():
            (partial / name).write_bytes(content)
        if record.patch:
            (partial / PATCH).write_bytes(record.patch)
        write_text(partial / ENVIRONMENT, "".join(f"{line}\n" for line in _installed()))
        receipt = Receipt(
            experiment=record.experiment,
            fold=record.fold,
            repository=_origin(root),
            commit=record.commit,
            inside=git(root, "rev-parse", "--show-prefix").decode().strip(),
            inputs=record.inputs,
            threads=record.threads,
            hardware=record.hardware,
            python=python,
            files={path.name: sha256(path) for path in sorted(partial.iterdir())},
        )
        write_json(partial / RECEIPT, receipt.model_dump(mode="json"))
        _describe(root, receipt, json.loads(record.artifacts[CONFIG]), partial)


def _installed() -> list[str]:
    found = {(dist.metadata["Name"] or "").lower(): dist.version for dist in distributions()}
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name]


def _origin(root: Path) -> str | None:
    try:
        return redact(git(root, "remote", "get-url", "origin").decode().strip(), root)
    except subprocess.CalledProcessError:
        return None


def _describe(root: Path, receipt: Receipt, config: dict[str, Any], folder: Path) -> None:
    """Add the RO-Crate's own file: the training as an action on data that made weights."""
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    date = git(root, "show", "--no-patch", "--format=%cI", receipt.commit).decode().strip()
    crate = ROCrate()
    crate.name = f"Training of {receipt.experiment}, fold {receipt.fold}"
    crate.description = "What a fold of a Sensorium model was trained from, and what came out."
    crate.datePublished = date
    for name in [*receipt.files, RECEIPT]:
        form, text = _DESCRIPTIONS[name]
        known = {"encodingFormat": form, "description": text, "sha256": sha256(folder / name)}
        crate.add_file(folder / name, properties=known)
    repository = receipt.repository or "the repository of the project"
    code = {"@type": "SoftwareSourceCode", "codeRepository": repository, "version": receipt.commit}
    software = crate.add(ContextEntity(crate, f"#code-{receipt.commit}", properties=code))
    data = [
        crate.add(ContextEntity(crate, f"#dvc-{digest}", properties={"@type": "Dataset", "name": path, "md5": digest}))
        for path, digest in sorted(receipt.inputs.items())
    ]
    weights = {"@type": "CreativeWork", "name": "model.safetensors", **config["weights"]}
    result = crate.add(ContextEntity(crate, f"#sha256-{config['weights']['sha256']}", properties=weights))
    scores = [
        crate.add(
            ContextEntity(crate, f"#score-{name}", properties={"@type": "PropertyValue", "name": name, "value": value})
        )
        for name, value in sorted(config["info"]["scores"].items())
    ]
    action = {"@type": "CreateAction", "name": f"sensorium train -e {receipt.experiment} -f {receipt.fold}"}
    training = crate.add(ContextEntity(crate, "#training", properties=action))
    training["instrument"], training["object"], training["result"] = software, data, [result, *scores]
    crate.root_dataset["mentions"] = [training]
    write_json(folder / METADATA, crate.metadata.generate())


def is_receipt(path: Path) -> bool:
    """Whether a folder, or the file in it, is a receipt."""
    return (path / RECEIPT).is_file() or (path.name in (RECEIPT, METADATA) and path.is_file())


def read_receipt(path: Path) -> tuple[Receipt, TrainingRecord]:
    """Read a receipt and verify its files.

    Raises:
        ConfigError: it is not whole, or was changed.
    """
    folder = path if path.is_dir() else path.parent
    receipt = Receipt.load(folder / RECEIPT, ConfigError, _REMEDY)
    contents = {}
    for name, digest in receipt.files.items():
        if not (folder / name).is_file():
            raise ConfigError(f"{folder / name}: the file does not exist.", _REMEDY)
        if sha256(folder / name) != digest:
            raise ConfigError(f"{folder / name}: its SHA-256 is not the one in {RECEIPT}: damaged or changed.", _REMEDY)
        contents[name] = (folder / name).read_bytes()
    config = read_json(folder / CONFIG, ConfigError, _REMEDY)
    info = config.get("info") if isinstance(config, dict) else None
    if not isinstance(info, dict) or (info.get("experiment"), info.get("fold")) != (receipt.experiment, receipt.fold):
        raise ConfigError(f"{folder / CONFIG}: not of {receipt.experiment}, fold {receipt.fold}.", _REMEDY)
    record = TrainingRecord(
        None,
        receipt.experiment,
        receipt.fold,
        receipt.commit,
        contents.get(PATCH, b""),
        receipt.inputs,
        receipt.threads,
        receipt.hardware,
        {name: contents[name] for name in (CONFIG, HISTORY)},
    )
    return receipt, record
