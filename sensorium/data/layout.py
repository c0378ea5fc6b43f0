"""The on-disk format of a mouse's store: which arrays there are, how they are cut into files.

One Zarr v3 group per mouse (https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html). Time-major,
uncompressed, a few trials per chunk, one chunk per file: the raw little-endian values and after them their
CRC-32C. A window is therefore one contiguous piece of one file, which can be mapped, and any Zarr tool
reads the arrays and checks the checksums.
"""

from dataclasses import dataclass

FORMAT = "sensorium-mouse"
"""Value of the attribute `format`, which distinguishes such a store from any other Zarr group."""
FORMAT_VERSION = 2
"""Counted up with every change that a reader must know."""
READABLE_VERSIONS = (1, 2)
"""Versions that a reader accepts. Version 1 holds responses of all trials, zero where they are no data."""
CHUNK_BYTES = 128 * 2**20
"""Largest chunk, bytes; a mouse of the competition then has some 90 files."""
THUMBNAIL_STEP = 10
"""Distance between the frames that have a thumbnail, frames."""
CRC_BYTES = 4
"""Checksum after the values of a chunk."""


@dataclass(frozen=True)
class ArraySpec:
    """What an array holds."""

    dimensions: tuple[str, ...]
    """Names of its axes."""
    units: str
    description: str


ARRAYS: dict[str, ArraySpec] = {
    "videos": ArraySpec(
        ("trial", "frame", "row", "column"), "grey level 0..255", "The movie; uint8 where every value is whole."
    ),
    "responses": ArraySpec(
        ("labelled_trial", "frame", "neuron"), "as published", "Deconvolved calcium activity of the labelled trials."
    ),
    "behavior": ArraySpec(("trial", "frame", "channel"), "as published", "Pupil dilation, running speed."),
    "pupil_center": ArraySpec(
        ("trial", "frame", "channel"), "pixels of the eye camera", "Position of the pupil: x, y."
    ),
    "truth": ArraySpec(
        ("trial", "frame", "neuron"), "as responses", "Noiseless rate behind simulated responses; simulated mice only."
    ),
    "lengths": ArraySpec(("trial",), "frames at 30 Hz", "Valid frames; whatever comes after them is zero padding."),
    "tiers": ArraySpec(("trial",), "", "Role of the trial, as an index into the attribute flag_meanings."),
    "labelled": ArraySpec(("trial",), "", "1 where the responses are data: a labelled tier, and not withheld."),
    "video_hash": ArraySpec(("trial",), "", "XOR of the perceptual hashes of five frames; folds derive from it."),
    "thumbnails": ArraySpec(
        ("trial", "thumbnail", "block_row", "block_column"), "grey level 0..255", "Block means of every tenth frame."
    ),
    "unit_ids": ArraySpec(("neuron",), "", "Identifiers of the neurons, in the order of the responses."),
    "coordinates": ArraySpec(("neuron", "axis"), "micrometres", "Positions of the neurons, motor coordinates."),
}
"""Every array of the group's top level."""
STATISTICS_GROUP = "statistics"
"""Group with one array per modality, (statistic, frame, ...), the raw files' NaN tail included."""
STATISTICS_MODALITIES = ("responses", "behavior", "pupil_center")
"""Modalities whose statistics a store holds; nothing reads those of the videos."""
STATISTICS_UNITS = "as the modality"


def trials_per_chunk(trials: int, trial_bytes: int) -> int:
    """Trials of one chunk: as many as fit `CHUNK_BYTES`, spread evenly so that the last is not mostly padding."""
    most = max(1, CHUNK_BYTES // trial_bytes)
    chunks = max(1, -(-trials // most))
    return max(1, -(-trials // chunks))
