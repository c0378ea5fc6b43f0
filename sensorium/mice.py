"""Facts of the Sensorium 2023 competition that no setting changes (arXiv:2305.19654).

Which mice a run uses, their number, neurons and trials come from the data and params.yaml; this file
only knows the competition's names for things, and what is known of it without its data.
"""

from collections.abc import Iterable
from typing import Literal, get_args

MouseSet = Literal["new", "old"]
"""`new`: the five mice of the competition, test responses withheld. `old`: their five predecessors."""
Tier = Literal[
    "train",
    "oracle",
    "live_test_main",
    "live_test_bonus",
    "final_test_main",
    "final_test_bonus",
    "none",
]
TIERS: tuple[str, ...] = get_args(Tier)
"""The role of a trial; `none` marks an unusable one."""
TEST_TIERS: tuple[str, ...] = tuple(tier for tier in TIERS if "test" in tier)
"""The tiers whose responses are withheld for new mice: the splits to predict."""
FOLDS_SPLIT = "folds"
"""The split name for predicting each fold's trials with the fold's own model."""
OUT_OF_FOLD = "out-of-fold"
"""Folder name of the predictions of `FOLDS_SPLIT`."""
SPLITS: tuple[str, ...] = (FOLDS_SPLIT, *TEST_TIERS)

FRAMES_PER_SECOND = 30.0
"""Sampling rate of all modalities after resampling by the organisers, in Hz."""
NEURONS: dict[str, int] = {
    "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20": 7863,
    "dynamic29623-4-9-Video-9b4f6a1a067fe51e15306b9628efea20": 7908,
    "dynamic29647-19-8-Video-9b4f6a1a067fe51e15306b9628efea20": 8202,
    "dynamic29712-5-9-Video-9b4f6a1a067fe51e15306b9628efea20": 7939,
    "dynamic29755-2-8-Video-9b4f6a1a067fe51e15306b9628efea20": 8122,
    "dynamic29156-11-10-Video-8744edeac3b4d1ce16b680916b5267ce": 7440,
    "dynamic29228-2-10-Video-8744edeac3b4d1ce16b680916b5267ce": 7928,
    "dynamic29234-6-9-Video-8744edeac3b4d1ce16b680916b5267ce": 8285,
    "dynamic29513-3-5-Video-8744edeac3b4d1ce16b680916b5267ce": 7671,
    "dynamic29514-2-9-Video-8744edeac3b4d1ce16b680916b5267ce": 7495,
}
"""Neurons of the competition's mice, in the order of the published model's readouts. A run takes them from its
stores; these are used where published weights are read or a model is described before there is any data."""
SUBMISSION_NAMES: dict[str, str] = {
    "live_test_main": "predictions_live_main",
    "final_test_main": "predictions_final_main",
    "live_test_bonus": "predictions_live_test_bonus_ood",
    "final_test_bonus": "predictions_final_test_bonus_ood",
}
"""File stem that the competition asks for, by split; the ending is `.parquet.brotli`."""
TRACKS: dict[str, tuple[str, str]] = {
    "main": ("live_test_main", "final_test_main"),
    "bonus": ("live_test_bonus", "final_test_bonus"),
}
"""The two splits that one submitted zip holds, by track."""
MODALITIES: tuple[str, ...] = ("videos", "responses", "behavior", "pupil_center")
"""What is recorded in every trial, by folder name."""
STATISTICS: tuple[str, ...] = ("mean", "std", "min", "max", "median")
"""Statistics over the training trials, each with the shape of a trial."""


def labelled_tiers(mouse_set: MouseSet) -> tuple[str, ...]:
    """Tiers whose responses are data: train and oracle, for old mice the released tests as well."""
    if mouse_set == "new":
        return ("train", "oracle")
    return tuple(tier for tier in TIERS if tier != "none")


def short_name(mouse: str) -> str:
    """The part of a mouse's name that distinguishes it from others, for tables: animal, session and scan."""
    return mouse.split("-Video-")[0].removeprefix("dynamic")


def short_names(mice: Iterable[str]) -> dict[str, str]:
    """Short name by mouse; the whole names where short ones are not unique."""
    short = {mouse: short_name(mouse) for mouse in mice}
    return short if len(set(short.values())) == len(short) else {mouse: mouse for mouse in short}
