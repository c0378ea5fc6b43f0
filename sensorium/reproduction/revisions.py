"""What changed between two revisions of a project: recordings, folds, settings and scores.

The outputs of a revision are those of its dvc.lock. Only what differs is looked into: an output with the same digest is
the same. N neurons, R trials.
"""

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, DataError, PipelineError
from sensorium.evaluation.comparison import Interval, compare
from sensorium.evaluation.tables import SINGLE_TRIAL
from sensorium.files import load_yaml
from sensorium.paths import PARAMS_FILE, Paths
from sensorium.recovery import LOCK_FILE, locked_digests, parse_lock, remedy
from sensorium.reproduction.rebuild import place_data
from sensorium.tracking.provenance import git

_RECORDED = ("videos", "responses", "behavior", "pupil_center")


@dataclass(frozen=True)
class Revision:
    """A commit of the project, or its work tree."""

    name: str
    """Commit, branch or tag; `work tree` for what is not committed."""
    outputs: Mapping[str, str]
    """DVC's md5 by path, of dvc.lock."""
    settings: Mapping[str, Any]
    """params.yaml as a flat dictionary, keys joined by dots, without the derived section `pipeline`."""

    @classmethod
    def of(cls, root: Path, name: str | None) -> "Revision":
        """Read a revision; None reads the work tree.

        Raises:
            ConfigError: there is no such commit, or it holds no project.
        """
        if name is None:
            name, found = "work tree", locked_digests(root)
            return cls(name, found, _settings(name, (root / PARAMS_FILE).read_text(encoding="utf-8")))
        try:
            git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        except (OSError, subprocess.CalledProcessError):
            raise ConfigError(
                f"{name}: no commit, branch or tag of this repository.", "`git log --oneline` lists commits."
            ) from None
        try:
            lock, params = (git(root, "show", f"{name}:./{file}").decode() for file in (LOCK_FILE, PARAMS_FILE))
        except subprocess.CalledProcessError:
            raise ConfigError(
                f"{name}: the commit has no {LOCK_FILE} or no {PARAMS_FILE}.", "Choose a commit with results."
            ) from None
        return cls(name, parse_lock(lock), _settings(name, params))


def _settings(name: str, text: str) -> dict[str, Any]:
    """Value of each dotted key of a params.yaml."""
    try:
        tree = load_yaml(text)
        tree.pop("pipeline", None)
    except (yaml.YAMLError, AttributeError) as fault:
        raise ConfigError(
            f"{name}: its {PARAMS_FILE} holds no settings: {fault}", "Correct it, or choose a commit with results."
        ) from fault
    return dict(_leaves(tree, ""))


def _leaves(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


@dataclass
class MouseChange:
    """What differs in one mouse's recordings."""

    mouse: str
    state: str
    """`added`, `removed` or `changed`."""
    trials: tuple[int, int] = (0, 0)
    """Number before and after."""
    neurons: tuple[int, int] = (0, 0)
    neurons_added: list[int] = field(default_factory=list)
    """Unit ids."""
    neurons_removed: list[int] = field(default_factory=list)
    tiers: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Trials before and after by tier, where the number differs."""
    changed: dict[str, list[int]] = field(default_factory=dict)
    """Trials of both that differ, by what differs: tier, length, labelled, or a modality."""


@dataclass(frozen=True)
class RevisionDiff:
    """What changed from one revision to another."""

    before: str
    after: str
    settings: dict[str, tuple[Any, Any]]
    """Values before and after by key; None where the key is missing."""
    mice: list[MouseChange]
    folds: dict[str, list[int]]
    """Trials whose fold or video group differs by mouse, of the mice that both have."""
    experiments: dict[str, str]
    """`added`, `removed` or `changed` by experiment whose trained folds differ."""
    scores: dict[str, tuple[float, float, Interval | None]]
    """Correlation out of fold before and after by source, and the paired difference over mice and folds."""
    lost: dict[str, str] = field(default_factory=dict)
    """Outputs that differ and were not compared, as neither DVC's cache nor the remote has that of this revision."""

    @property
    def empty(self) -> bool:
        """Whether nothing differs."""
        return not (self.settings or self.mice or self.folds or self.experiments or self.scores or self.lost)


def diff(root: Path, before: Revision, after: Revision, scratch: Path) -> RevisionDiff:
    """Compare two revisions.

    Args:
        root: the project's root.
        before: the earlier revision.
        after: the later one.
        scratch: an empty folder; differing outputs of both are checked out into it.

    Raises:
        DataError: an output is damaged.
    """
    places = Paths(Path())
    wanted = (places.stores, places.folds, places.evaluation)
    old, new = sides = [Paths(scratch / str(number)) for number in range(2)]
    lost: dict[str, str] = {}
    for side, ours, theirs in ((old, before, after), (new, after, before)):
        for path, digest in ours.outputs.items():
            if theirs.outputs.get(path) != digest and any(_below(path, place) for place in wanted):
                try:
                    place_data(root, {path: digest}, side.root)
                except PipelineError:
                    lost[path] = ours.name
    for path in lost:
        for side in sides:
            shutil.rmtree(side.root / path, ignore_errors=True)
    stores = [
        {Path(path).stem for path in revision.outputs if _below(path, places.stores)} for revision in (before, after)
    ]
    return RevisionDiff(
        before.name,
        after.name,
        _differing(before.settings, after.settings),
        [
            _mouse_change(mouse, old.store(mouse), new.store(mouse))
            for mouse in sorted(stores[0] | stores[1])
            if old.store(mouse).exists() or new.store(mouse).exists()
        ],
        _changed_folds(old, new),
        _changed_experiments(before, after),
        _changed_scores(old.evaluation, new.evaluation),
        lost,
    )


def _below(path: str, folder: Path) -> bool:
    return Path(path).is_relative_to(folder)


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return {key: (before.get(key), after.get(key)) for key in keys}


def _mouse_change(mouse: str, before: Path, after: Path) -> MouseChange:
    if not (before.exists() and after.exists()):
        state, store = ("added", MouseStore(after)) if after.exists() else ("removed", MouseStore(before))
        counts = ((0, store.trials), (0, store.neurons))
        trials, neurons = counts if state == "added" else (counts[0][::-1], counts[1][::-1])
        return MouseChange(mouse, state, trials, neurons)
    old, new = MouseStore(before), MouseStore(after)
    change = MouseChange(mouse, "changed", (old.trials, new.trials), (old.neurons, new.neurons))
    change.neurons_added = np.setdiff1d(new.unit_ids, old.unit_ids).tolist()
    change.neurons_removed = np.setdiff1d(old.unit_ids, new.unit_ids).tolist()
    for tier in sorted({*old.tiers, *new.tiers}):
        counts_of = tuple(int((store.tiers == tier).sum()) for store in (old, new))
        if counts_of[0] != counts_of[1]:
            change.tiers[tier] = (counts_of[0], counts_of[1])
    shared = min(old.trials, new.trials)
    for name, (first, second) in {
        "tier": (old.tiers, new.tiers),
        "length": (old.lengths, new.lengths),
        "labelled": (old.labels, new.labels),
    }.items():
        _note(change, name, np.flatnonzero(first[:shared] != second[:shared]))
    for name in _RECORDED:
        if name == "responses" and not np.array_equal(old.unit_ids, new.unit_ids):
            continue  # said by the neurons
        differs = [trial for trial in range(shared) if not _equal(old, new, name, trial)]
        _note(change, name, np.array(differs, dtype=np.int64))
    return change


def _note(change: MouseChange, name: str, trials: NDArray[np.int64]) -> None:
    if len(trials):
        change.changed[name] = trials.tolist()


def _equal(old: MouseStore, new: MouseStore, name: str, trial: int) -> bool:
    return np.array_equal(old.view(name, trial), new.view(name, trial))


def _changed_folds(old: Paths, new: Paths) -> dict[str, list[int]]:
    if not (old.folds.exists() and new.folds.exists()):
        return {}
    before, after = Folds.load(old.folds), Folds.load(new.folds)
    found = {}
    for mouse in after.mice:
        if mouse not in before.mice:
            continue
        parts = [np.stack([table.of(mouse), table.group(mouse).astype(np.int64)]) for table in (before, after)]
        shared = min(part.shape[1] for part in parts)
        differs = np.flatnonzero((parts[0][:, :shared] != parts[1][:, :shared]).any(axis=0))
        if len(differs):
            found[mouse] = differs.tolist()
    return found


def _changed_experiments(before: Revision, after: Revision) -> dict[str, str]:
    folder = Paths(Path()).experiments
    names = [
        {Path(path).relative_to(folder).parts[0] for path in revision.outputs if _below(path, folder)}
        for revision in (before, after)
    ]
    found = dict.fromkeys(names[1] - names[0], "added") | dict.fromkeys(names[0] - names[1], "removed")
    for name in names[0] & names[1]:
        folds = [
            {path: digest for path, digest in revision.outputs.items() if _below(path, folder / name)}
            for revision in (before, after)
        ]
        if folds[0] != folds[1]:
            found[name] = "changed"
    return dict(sorted(found.items()))


def _changed_scores(old: Path, new: Path) -> dict[str, tuple[float, float, Interval | None]]:
    if not (old.exists() and new.exists()):
        return {}
    before, after = (_scores(folder) for folder in (old, new))
    found: dict[str, tuple[float, float, Interval | None]] = {}
    for source in after["source"].unique():
        sides = [table[(table["source"] == source) & (table["tier"] == "all")] for table in (before, after)]
        if any(side.empty for side in sides):
            continue
        whole = [_whole(side) for side in sides]
        cells = compare(_by_cell(sides[1]), _by_cell(sides[0]))
        interval = None if cells is None else Interval(cells.mean, cells.low, cells.high)
        if whole[0] != whole[1]:
            found[str(source)] = (whole[0], whole[1], interval)
    return found


def _scores(folder: Path) -> pd.DataFrame:
    path = folder / "scores.csv"
    try:
        return pd.read_csv(path, dtype={"fold": str})
    except (OSError, ValueError) as fault:
        raise DataError(f"{path}: no table of scores ({fault}).", remedy(path, "Type `dvc repro evaluate`.")) from fault


def _whole(side: pd.DataFrame) -> float:
    return float(side[(side["mouse"] == "all") & (side["fold"] == "all")][SINGLE_TRIAL].iloc[0])


def _by_cell(side: pd.DataFrame) -> dict[str, dict[str, float]]:
    cells = side[(side["mouse"] != "all") & (side["fold"] != "all")]
    return {str(mouse): dict(zip(own["fold"], own[SINGLE_TRIAL], strict=True)) for mouse, own in cells.groupby("mouse")}


def markdown(found: RevisionDiff) -> str:
    """The differences as Markdown, for a terminal or a pull request."""
    lines = [f"## {found.before} to {found.after}", ""]
    if found.empty:
        return "\n".join([*lines, "No difference in settings, recordings, folds, weights and scores.", ""])
    lines += [
        f"* `{path}` differs, but neither DVC's cache nor the remote has that of {name}."
        for path, name in found.lost.items()
    ]
    lines += [""] if found.lost else []
    lines += _score_lines(found.scores) + _mouse_lines(found.mice, found.folds)
    if found.experiments:
        lines += ["**Trained folds**", ""]
        lines += [f"* {name}: {state}" for name, state in found.experiments.items()] + [""]
    if found.settings:
        lines += ["| setting | before | after |", "|---|---|---|"]
        lines += [f"| `{key}` | {_cell(old)} | {_cell(new)} |" for key, (old, new) in found.settings.items()] + [""]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return "" if value is None else f"`{value}`"


def _score_lines(scores: Mapping[str, tuple[float, float, Interval | None]]) -> list[str]:
    if not scores:
        return []
    lines = ["| correlation out of fold | before | after | difference, 95% interval | |", "|---|---|---|---|---|"]
    for source, (old, new, interval) in scores.items():
        known = ["", ""]
        if interval is not None:
            known = [f"{interval.mean:+.4f}, {interval.low:+.4f} to {interval.high:+.4f}", interval.verdict]
        lines.append(f"| {source} | {old:.4f} | {new:.4f} | {known[0]} | {known[1]} |")
    return [*lines, ""]


def _mouse_lines(mice: Sequence[MouseChange], folds: Mapping[str, Sequence[int]]) -> list[str]:
    lines = []
    for change in mice:
        (old_trials, new_trials), (old_neurons, new_neurons) = change.trials, change.neurons
        counts = f"trials {old_trials} to {new_trials}, neurons {old_neurons} to {new_neurons}"
        lines.append(f"* mouse {change.mouse}: {change.state}, {counts}")
        for text, units in (("added", change.neurons_added), ("removed", change.neurons_removed)):
            if units:
                lines.append(f"    * neurons {text}: {_list(units)}")
        lines += [f"    * tier {tier}: {old} to {new} trials" for tier, (old, new) in change.tiers.items()]
        lines += [f"    * {name} differs in trials {_list(trials)}" for name, trials in change.changed.items()]
    lines += [f"* folds of mouse {mouse} differ in trials {_list(trials)}" for mouse, trials in folds.items()]
    return ["**Recordings and folds**", "", *lines, ""] if lines else []


def _list(numbers: Sequence[int], most: int = 12) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return shown if len(numbers) <= most else f"{shown} and {len(numbers) - most} more"
