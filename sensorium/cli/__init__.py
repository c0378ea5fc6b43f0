"""The command line: parses the arguments, calls the function of a verb, turns errors into exit codes."""

from sensorium.cli.app import main

__all__ = ["main"]
