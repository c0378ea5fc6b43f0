"""Former name of `project_run`."""

from sensorium.tracking.project_run import note_run

__all__ = ["note_run"]
