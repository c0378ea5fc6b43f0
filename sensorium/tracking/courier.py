"""Former name of `uploader_process`."""

from sensorium.tracking.uploader_process import start_early

__all__ = ["start_early"]
