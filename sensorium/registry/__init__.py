"""The model registry: the teacher, the student, and the pair that pins one version of each."""

from sensorium.registry.pair import load_pair, pinned_weights, register_pair

__all__ = ["load_pair", "pinned_weights", "register_pair"]
