"""The old mice's test responses, which the organisers released after their zips.

The zips of old mice hold zeros in the four test tiers. The released responses lie in the Deep Lake hub,
one data set per mouse and tier; who has them as files can give them as <folder>/<mouse>/<trial>.npy.
Only files of zeros are filled in: responses that are already there are compared, never replaced.
N neurons, L frames with the padding.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sensorium.errors import ConfigError, DataError, TransferError
from sensorium.files import PARTIAL_SUFFIX, sha256, sync_tree, write_json
from sensorium.mice import TEST_TIERS
from sensorium.recordings.download.mouse import MANIFEST, read_manifest
from sensorium.recordings.inventory import FileEntry
from sensorium.recordings.raw import RawMouse, first_nan, read_array

Float64Array = npt.NDArray[np.float64]
Released = Iterator[tuple[int, npt.NDArray[Any]]]
"""Trial and its responses (N, frames), frames up to L."""
HUB = "hub://sinzlab/Sensorium_2023_{mouse}_{tier}"
"""Address of the released responses, by mouse and tier; tensors `id` (the trial) and `responses`."""


def from_folder(folder: Path, mouse: RawMouse) -> Released:
    """Released responses given as files.

    Args:
        folder: holds <mouse>/<trial>.npy, each (N, frames).
        mouse: the raw mouse.

    Raises:
        DataError: the mouse's folder or a file is missing or unsound.
    """
    source = folder / mouse.name
    if not source.is_dir():
        raise DataError(
            f"{source}: the folder does not exist.", "Put the responses there as <trial>.npy, one per trial."
        )
    for trial in _test_trials(mouse):
        yield trial, read_array(source / f"{trial}.npy")


def from_hub(mouse: RawMouse, address: str = HUB) -> Released:
    """Released responses from the Deep Lake hub.

    Args:
        mouse: the raw mouse.
        address: of a data set, with `{mouse}` and `{tier}`.

    Raises:
        ConfigError: the optional library is not installed.
        TransferError: the hub does not answer, or has no such data set.
    """
    try:
        import deeplake
    except ImportError:
        raise ConfigError(
            "deeplake: the library that reads the released responses is not installed.",
            "Install it with `pip install deeplake`, or give the responses as files with --from FOLDER.",
        ) from None
    for tier in sorted({mouse.tiers[trial] for trial in _test_trials(mouse)}):
        source = address.format(mouse=mouse.name, tier=tier)
        try:
            rows = deeplake.query(f'select id, responses from "{source}"')  # noqa: S608  the address is ours
            for row in rows:
                # A copy: the library's arrays are views of memory that it frees with the query.
                yield int(np.ravel(row["id"])[0]), np.array(row["responses"])
        except RuntimeError as fault:  # all that the library raises
            raise TransferError(
                f"{source}: cannot be read ({fault}).",
                "Check the connection, or give the responses as files with --from FOLDER.",
            ) from fault


def _test_trials(mouse: RawMouse) -> list[int]:
    return [trial for trial, tier in enumerate(mouse.tiers) if tier in TEST_TIERS]


def fill_in(mouse: RawMouse, released: Released) -> int:
    """Write released responses over the zeros of the test tiers.

    All responses are checked before the first is written; a killed run is finished by the next.

    Args:
        mouse: an old mouse.
        released: responses of its test trials.

    Returns:
        Number of trials that were filled in.

    Raises:
        DataError: responses are missing, of another shape, not finite, or contradict those that are there.
    """
    wanted = _test_trials(mouse)
    parent = mouse.folder.parent
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{mouse.name}.", suffix=PARTIAL_SUFFIX) as partial:
        seen, empty = _stage(mouse, released, Path(partial))
        if missing := sorted(set(wanted) - seen):
            raise DataError(
                f"{mouse.name}: no released responses for {len(missing)} test trials, the first is {missing[0]}.",
                "Give the responses of all test trials.",
            )
        sync_tree(Path(partial))
        for trial in empty:
            Path(partial, f"{trial}.npy").replace(mouse.file("responses", trial))
    if (manifest := read_manifest(mouse.folder)) is not None:  # the mouse was downloaded
        for trial in wanted:
            path = mouse.file("responses", trial)
            entry = FileEntry(size=path.stat().st_size, sha256=sha256(path))
            manifest["files"][str(path.relative_to(mouse.folder))] = entry
        write_json(mouse.folder / MANIFEST, manifest)
    return len(empty)


def _stage(mouse: RawMouse, released: Released, partial: Path) -> tuple[set[int], list[int]]:
    """Write what has to be filled in to `partial`; returns the trials seen, and those written."""
    seen: set[int] = set()
    empty: list[int] = []
    for trial, responses in released:
        if trial >= mouse.trials or mouse.tiers[trial] not in TEST_TIERS:
            raise DataError(
                f"{mouse.name}: released responses for trial {trial}, which is in no test tier.",
                "The responses belong to another mouse or recording: check where they come from.",
            )
        padded = _padded(mouse, trial, responses)
        if trial not in seen and _is_empty(mouse, trial, padded):
            np.save(partial / f"{trial}.npy", padded)
            empty.append(trial)
        seen.add(trial)
    return seen, empty


def _padded(mouse: RawMouse, trial: int, responses: npt.NDArray[Any]) -> Float64Array:
    """The responses in the raw format: float64 (N, L), NaN after the trial's last frame."""
    frames = first_nan(mouse.open("behavior", trial)[0])
    name = f"{mouse.name}: released responses of trial {trial}"
    if responses.ndim != 2 or responses.shape[0] != mouse.neurons or responses.shape[1] > mouse.padded_frames:
        raise DataError(
            f"{name}: shape {responses.shape}, expected {mouse.neurons} neurons x up to {mouse.padded_frames} frames.",
            "The responses belong to another mouse or recording: check where they come from.",
        )
    valid = responses[:, :frames].astype(np.float64)
    valid = valid[:, : first_nan(valid[0])]
    if valid.shape[1] == 0 or not np.isfinite(valid).all():
        raise DataError(f"{name}: NaN or infinite values before the end of the trial.", "Give sound responses.")
    out = np.full((mouse.neurons, mouse.padded_frames), np.nan)
    out[:, : valid.shape[1]] = valid
    return out


def _is_empty(mouse: RawMouse, trial: int, released: Float64Array) -> bool:
    """Whether the trial's responses are zeros still; others than the released ones are an error."""
    present = mouse.load("responses", trial)
    if not np.nan_to_num(present).any():
        return True
    if np.array_equal(present, released, equal_nan=True):
        return False
    raise DataError(
        f"{mouse.file('responses', trial)}: holds other responses than the released ones.",
        "They are never replaced: move the file away if the released ones are wanted.",
    )
