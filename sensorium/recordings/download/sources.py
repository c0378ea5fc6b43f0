"""Where the competition's zips lie."""

import os

from sensorium.errors import ConfigError
from sensorium.mice import MouseSet

BASE_URLS: dict[MouseSet, str] = {
    "new": "https://gin.g-node.org/pollytur/sensorium_2023_dataset/raw/master",
    "old": "https://gin.g-node.org/pollytur/Sensorium2023Data/raw/master",
}
"""Folder of the zips, by the mouse's set."""

MIRROR_VARIABLE = "SENSORIUM_DOWNLOAD_URL"
"""Environment variable with the address of a mirror that holds all zips in one folder."""


def zip_url(mouse: str, mouse_set: MouseSet) -> str:
    """Address of a mouse's zip, on the mirror where one is set.

    Raises:
        ConfigError: the mirror is no HTTP address.
    """
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror and not mirror.startswith(("http://", "https://")):
        raise ConfigError(f"{MIRROR_VARIABLE}: {mirror!r} is no HTTP address.", "Start it with https:// or http://.")
    return f"{(mirror or BASE_URLS[mouse_set]).rstrip('/')}/{mouse}.zip"
