"""The command line: parses, calls one verb of `sensorium.stages`, returns an exit code."""

from sensorium.cli.app import main

__all__ = ["main"]
