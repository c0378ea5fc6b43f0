"""`sensorium publish`: give a trained model to others, as one self-contained folder."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sensorium.hub.places import Folder, place
from sensorium.hub.publishing import write_release
from sensorium.hub.release import is_release, verify
from sensorium.paths import Paths


def run(
    paths: Paths,
    target: Annotated[
        str,
        typer.Argument(help="Folder of a trained fold, of an experiment or of a published model; models:/NAME@ALIAS."),
    ],
    destination: Annotated[str, typer.Argument(help="A folder, s3://BUCKET/PREFIX or hf://OWNER/NAME.")],
    revision: Annotated[
        str | None, typer.Option(help="Name of this release, such as v1: a tag on the hub, elsewhere a subfolder.")
    ] = None,
) -> None:
    """Publish a trained model: weights, settings, unit ids, scores and model card in one folder, for `sensorium.load`.

    Equal weights, scores and data give equal bytes.

    Raises:
        ConfigError: target, destination or revision cannot be used.
        CheckpointError: weights are missing or damaged, or of other neurons than the stores.
        DataError: a mouse's store is missing.
        TrackingError: the registry has no such version.
        TransferError: the model cannot be uploaded.
    """
    goal = place(destination, revision)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(target).expanduser()
        if not is_release(folder):
            folder = Path(temporary)
            write_release(target, paths, folder)
        config = verify(folder)
        goal.publish(folder, revision)
    named = f", revision {revision}" if revision and not isinstance(goal, Folder) else ""
    where = f"{destination}/{revision}" if revision and isinstance(goal, Folder) else f"{destination}{named}"
    Console(soft_wrap=True, highlight=False).print(f"Published {config.digest[:12]} in {where}.")
