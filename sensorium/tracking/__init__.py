"""Tracking: what a training reports to MLflow, without ever waiting for it."""

from sensorium.tracking.recorder import TrainingRun, start_training_run

__all__ = ["TrainingRun", "start_training_run"]
