"""Sensorium: predict the activity of mouse visual cortex from video, versioned by DVC and tracked by MLflow."""

__version__ = "0.1.0"
