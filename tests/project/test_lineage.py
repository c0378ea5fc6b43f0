"""What each stage's outputs depend on: dvc.yaml, the digests of trainings and predictions, and the imports agree."""

from pathlib import Path

import grimp
import pytest
import yaml

from sensorium import lineage

ROOT = Path(__file__).parents[2]

NEUTRAL = {
    "architectures": "names a model's settings, which are parameters of a stage",
    "callbacks": "shows, logs, saves and stops a training",
    "config": "settings are parameters of a stage",
    "errors": "messages",
    "files": "moves bytes",
    "lineage": "digests of what is listed here",
    "mice": "names of mice and tiers, whose choice is a parameter",
    "paths": "names of files",
    "pipeline": "names of stages",
    "recovery": "messages",
}
"""Modules that no output depends on, and why."""

ROOTS = {
    "ingest": ["recordings.ingest"],
    "folds": ["recordings.folds"],
    "train": ["training.assembly", "training.loop", "training.devices"],
    "out_of_fold": ["inference.runner", "inference.plan"],
    "predict": ["inference.runner", "inference.plan"],
    "ensemble": ["inference.runner", "inference.plan", "inference.ensemble"],
    "evaluate": ["evaluation"],
    "report": ["report"],
    "submission": ["submission.writer"],
}
"""Stage -> the modules that make its outputs; `settings` and `register` write names and digests."""


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("sensorium")


@pytest.fixture(scope="module")
def listed():
    """Stage -> the code that it depends on, as modules and packages."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    deps = {name: stage.get("do", stage).get("deps", []) for name, stage in stages.items()}
    return {
        name: [
            Path(path).with_suffix("").as_posix().replace("/", ".") for path in paths if path.startswith("sensorium")
        ]
        for name, paths in deps.items()
    }


def within(module, packages):
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def imported(graph, roots):
    """All modules of this package that some modules use, but the neutral ones."""
    neutral = [f"sensorium.{name}" for name in NEUTRAL]
    left = [f"sensorium.{root}" for root in roots]
    left += [module for root in left for module in graph.find_descendants(root)]
    found = set()
    while left:
        module = left.pop()
        if module not in found and not within(module, neutral) and module != "sensorium":
            found.add(module)
            left += graph.find_modules_directly_imported_by(module)
    return found


@pytest.mark.parametrize("stage", ROOTS)
def test_a_stage_depends_on_the_code_that_makes_its_outputs(stage, graph, listed):
    used = imported(graph, ROOTS[stage])
    missing = {module for module in used if not within(module, listed[stage])}
    assert not missing, f"add them to the stage {stage} of dvc.yaml, or to NEUTRAL with a reason"
    assert not [package for package in listed[stage] if not any(within(module, [package]) for module in used)]


def test_nothing_in_the_packages_of_a_training_leaves_its_bits_alone(graph, listed):
    """A module that is not imported by a training is no reason to train again; models are found by their names."""
    used = imported(graph, ROOTS["train"]) | {f"sensorium.{name}" for name in ("data", "training")}
    packages = {f"sensorium.{name}" for name in ("data", "training")}
    owned = packages | set().union(*(graph.find_descendants(package) for package in packages))
    assert owned <= used


def test_the_digests_name_what_the_pipeline_names(listed):
    names = {
        stage: sorted(f"sensorium.{part.removesuffix('.py')}" for part in parts)
        for stage, parts in {
            "train": lineage.TRAINING_CODE,
            "predict": lineage.PREDICTION_CODE,
            "ensemble": lineage.PREDICTION_CODE,
        }.items()
    }
    assert {stage: sorted(listed[stage]) for stage in names} == names
