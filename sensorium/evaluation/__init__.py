"""Scores of out-of-fold predictions: by mouse, fold and tier, in one pass over the trials."""

from sensorium.evaluation.scores import ALL, Cell, MouseScores, score_mouse
from sensorium.evaluation.sources import CEILING, ENSEMBLE, EQUAL, PAIR, OutOfFold
from sensorium.evaluation.tables import neuron_table, score_table, summary

__all__ = [
    "ALL",
    "CEILING",
    "ENSEMBLE",
    "EQUAL",
    "PAIR",
    "Cell",
    "MouseScores",
    "OutOfFold",
    "neuron_table",
    "score_mouse",
    "score_table",
    "summary",
]
