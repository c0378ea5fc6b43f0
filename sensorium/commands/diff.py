"""`sensorium diff`: what changed in recordings, folds, settings and scores since a commit."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sensorium.paths import Paths
from sensorium.reproduction.revisions import Revision, diff, markdown


def run(
    paths: Paths,
    before: Annotated[str, typer.Argument(metavar="REV", help="Commit, branch or tag, such as HEAD~1 or main.")],
    after: Annotated[
        str | None, typer.Argument(metavar="[REV]", help="What to compare with it. Default: the work tree.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of Markdown.")] = False,
) -> None:
    """Say what changed since a commit: recordings by mouse, tier, trial and neuron; folds, weights, settings, scores.

    Both sides are read from dvc.lock; differing outputs come from DVC's cache, and from the remote where it lacks them.
    Those that neither has are named.
    The text is Markdown, for a pull request for example.

    Examples: `sensorium diff HEAD~1`, `sensorium diff main my-branch`.

    Raises:
        ConfigError: no such commit, or one without results.
        DataError: an output is damaged.
    """
    sides = Revision.of(paths.root, before), Revision.of(paths.root, after)
    paths.state.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.state) as scratch:
        found = diff(paths.root, *sides, Path(scratch))
    print(json.dumps(asdict(found), indent=2) if as_json else markdown(found))  # noqa: T201 - the command's output
