"""What every NWB file that we write has: session, animal, neurons."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sensorium.errors import ConfigError, DataError
from sensorium.files import digest_json

if TYPE_CHECKING:
    import pynwb

UNKNOWN_START = datetime(2000, 1, 1, tzinfo=UTC)
"""Start of a session whose time is not known: the format requires one."""
_FILE = {
    "session_description": "Responses of visual cortex to videos. The start of the session stands for an unknown time; "
    "trials are in their order, without the pauses between them.",
    "session_start_time": UNKNOWN_START,
    "experiment_description": "Two-photon calcium imaging in the format of the Sensorium 2023 competition "
    "(arXiv:2305.19654), resampled to 30 Hz.",
    "experimenter": ["Unknown, Unknown"],
    "institution": "unknown",
    "keywords": ["mouse", "visual cortex", "two-photon calcium imaging", "video"],
}
_SUBJECT = {"species": "Mus musculus", "sex": "U", "age": "P1D/", "description": "Nothing else is known."}
"""What a store does not know, in the form that the format has for it."""
_UNKNOWN_NM = float("nan")


def import_pynwb() -> Any:
    """The module pynwb.

    Raises:
        DataError: it is not installed.
    """
    try:
        import pynwb
    except ImportError:
        raise DataError(
            "NWB files are written with pynwb, which is not installed.", "Type `pip install sensorium[nwb]`."
        ) from None
    return pynwb


def new_file(subject: str, source: Any, about: Mapping[str, Mapping[str, Any]]) -> "pynwb.NWBFile":
    """A file without data.

    Args:
        subject: name of the animal.
        source: what the data come from, plain JSON; the file's identifier is its digest.
        about: what is known of the session: keys of pynwb.NWBFile in `file`, of pynwb.file.Subject in `subject`.

    Raises:
        ConfigError: a key of `about` is unknown, or its value has the wrong type.
        DataError: pynwb is not installed.
    """
    pynwb = import_pynwb()
    unknown = set(about) - {"file", "subject"}
    if unknown:
        raise ConfigError(f"metadata: unknown key {sorted(unknown)[0]}.", "Known: file, subject.")
    known = {"session_id": subject, "identifier": digest_json(source), **_FILE, **about.get("file", {})}
    try:
        animal = pynwb.file.Subject(**{"subject_id": subject, **_SUBJECT, **about.get("subject", {})})
        return pynwb.NWBFile(**known, subject=animal)
    except (TypeError, ValueError) as fault:
        raise ConfigError(
            f"metadata: {fault}.", "The keys are those of pynwb.NWBFile and pynwb.file.Subject."
        ) from fault


def add_neurons(nwb: "pynwb.NWBFile", unit_ids: npt.NDArray[Any], coordinates: npt.NDArray[Any]) -> Any:
    """Add neurons and their positions to the module `ophys`.

    Args:
        nwb: the file.
        unit_ids: identifiers (N,).
        coordinates: positions (N, 3), micrometres.

    Returns:
        The region that refers to all of them, for one series.
    """
    pynwb = import_pynwb()
    device = nwb.create_device(name="microscope", description="Two-photon microscope; its type is not known.")
    plane = nwb.create_imaging_plane(
        name="volume",
        description="All imaged planes together; wavelengths and indicator are not known.",
        optical_channel=pynwb.ophys.OpticalChannel(
            name="channel", description="Emission of the calcium indicator.", emission_lambda=_UNKNOWN_NM
        ),
        device=device,
        excitation_lambda=_UNKNOWN_NM,
        indicator="calcium indicator",
        location="VISp",
    )
    table = pynwb.ophys.PlaneSegmentation(
        name="neurons",
        description="The neurons, in the order of the responses.",
        imaging_plane=plane,
        id=unit_ids.astype(np.int64).tolist(),
        columns=[
            pynwb.core.VectorData(
                name="image_mask",
                description="One pixel stands for the outline, which is not known; the format requires a mask.",
                data=np.ones((len(unit_ids), 1, 1), np.float32),
            ),
            *(
                pynwb.core.VectorData(name=axis, description=f"Motor coordinate {axis}, micrometres.", data=values)
                for axis, values in zip("xyz", coordinates.T, strict=True)
            ),
        ],
    )
    module = nwb.create_processing_module("ophys", "Neurons and their responses.")
    module.add(pynwb.ophys.ImageSegmentation(plane_segmentations=table))
    return table.create_roi_table_region(description="All neurons.", region=list(range(len(unit_ids))))
