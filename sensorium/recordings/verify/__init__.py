"""Checks a raw mouse against every rule of the format, and reports all findings at once."""

from sensorium.recordings.verify.mouse import verify_mouse
from sensorium.recordings.verify.report import Finding, Level, Report

__all__ = ["Finding", "Level", "Report", "verify_mouse"]
