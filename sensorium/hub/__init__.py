"""Trained models for everybody: published as one folder, loaded from anywhere."""

from sensorium.hub.loading import load

__all__ = ["load"]
