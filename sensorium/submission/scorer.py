"""Check a submission file against the recordings, and score it where the responses are known."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensorium.config import EvaluationConfig
from sensorium.metrics import StreamingCorrelation, response_precision
from sensorium.mice import SUBMISSION_NAMES
from sensorium.recordings.raw import RawMouse, read_array
from sensorium.recordings.synthetic.marker import TRUTH_FOLDER
from sensorium.submission.reader import FoundRow, open_table, read_rows, tier_of
from sensorium.submission.writer import SUFFIX

_SHOWN = 5
"""Trials that one finding names."""
_TELLING = 0.3
"""Distance, in natural logarithms, at which raw and normalised responses can be distinguished."""
_CLEARLY = 0.25
"""How much nearer predictions must be to the raw responses, as a share of their distance to the normalised ones."""


@dataclass
class MouseResult:
    """What is known of one mouse's rows."""

    name: str
    trials: int
    score: float | None
    """Single-trial correlation, the mean over neurons; None where responses are withheld."""
    noiseless: float | None
    """Correlation with the noiseless rate, for simulated mice."""
    neurons: int


@dataclass
class FileResult:
    """What is known of one file."""

    name: str
    tier: str | None
    mice: list[MouseResult] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def score(self) -> float | None:
        """Mean over the neurons of all mice; None unless every mouse is scored."""
        known = [(mouse.score, mouse.neurons) for mouse in self.mice if mouse.score is not None]
        if not known or len(known) < len(self.mice):
            return None
        return float(np.average([score for score, _ in known], weights=[neurons for _, neurons in known]))


def score_file(path: Path, raw: Path, config: EvaluationConfig) -> FileResult:
    """Check and score one parquet file; one trial is in memory at a time.

    Args:
        path: the file; its name gives the tier.
        raw: folder of the raw mice.
        config: which frames a submission holds.

    Raises:
        PredictionError: the file cannot be read as a submission at all.
        DataError: a raw mouse is damaged.
    """
    file, faults = open_table(path)
    result = FileResult(path.name, tier_of(path), faults=faults)
    if result.tier is None:
        names = ", ".join(f"{name}{SUFFIX}" for name in SUBMISSION_NAMES.values())
        result.faults.append(f"the server does not know this name, it expects one of {names}")
    checks: dict[str, _MouseCheck] = {}
    unknown: Counter[str] = Counter()
    for row in read_rows(file):
        if row.mouse not in checks and (raw / row.mouse).is_dir():
            checks[row.mouse] = _MouseCheck(RawMouse(raw / row.mouse), raw, config)
        if row.mouse in checks:
            checks[row.mouse].add(row)
        else:
            unknown[row.mouse] += 1
    result.faults += [f"mouse {name} ({count} rows) is not in {raw}" for name, count in unknown.items()]
    tiers = Counter(check.mouse.tiers[trial] for check in checks.values() for trial in check.seen)
    tier = result.tier or (tiers.most_common(1)[0][0] if tiers else None)
    for check in checks.values():
        result.faults += check.faults(tier)
        result.mice.append(check.result())
    return result


class _MouseCheck:
    """Collects what is wrong with the rows of one mouse, and their score."""

    def __init__(self, mouse: RawMouse, raw: Path, config: EvaluationConfig) -> None:
        self.mouse = mouse
        self.seen: Counter[int] = Counter()
        self._trials: dict[str, list[int]] = defaultdict(list)  # by what is wrong with them
        self._config = config
        self._truth = raw / TRUTH_FOLDER / mouse.name
        frames = slice(config.first_frame, config.first_frame + config.frames)
        self._frames = frames
        self._precision = response_precision(mouse.statistics("responses", "std"))[:, frames]
        self._sum = np.zeros(mouse.neurons)
        self._scored = 0
        self._measured = StreamingCorrelation(mouse.neurons)
        self._noiseless = StreamingCorrelation(mouse.neurons)

    def add(self, row: FoundRow) -> None:
        """Check one row, and score it where it is of the right form."""
        if not 0 <= row.trial < self.mouse.trials:
            self._trials["the mouse has no such trial"].append(row.trial)
            return
        self.seen[row.trial] += 1
        fault = self._fault(row)
        if fault:
            self._trials[fault].append(row.trial)
        elif self.seen[row.trial] == 1:
            self._score(row)

    def _fault(self, row: FoundRow) -> str | None:
        """What is wrong with a row of an existing trial."""
        ids, expected = row.unit_ids, self.mouse.unit_ids.astype(np.int64)
        fewest, most = row.frames
        if not np.array_equal(ids, expected):
            same = np.array_equal(np.sort(ids), np.sort(expected))
            return "neuron_ids are not in the order of unit_ids" if same else "neuron_ids are not those of the mouse"
        if fewest != most:
            return f"the neurons have from {fewest} to {most} frames"
        if most != self._config.frames:
            return f"{most} frames, expected {self._config.frames}"
        if len(row.prediction) != self.mouse.neurons:
            return f"predictions of {len(row.prediction)} neurons, the mouse has {self.mouse.neurons}"
        if not np.isfinite(row.prediction).all():
            return "values are NaN or infinite"
        return None

    def _score(self, row: FoundRow) -> None:
        self._sum += row.prediction.mean(1)
        self._scored += 1
        responses = self.mouse.load("responses", row.trial)[:, self._frames]
        if np.nan_to_num(responses).any():  # withheld responses are all zero
            self._update(self._measured, responses, row)
        truth = self._truth / f"{row.trial}.npy"
        if truth.is_file():
            self._update(self._noiseless, read_array(truth)[:, self._frames], row)

    def _update(self, stream: StreamingCorrelation, target: NDArray[np.floating], row: FoundRow) -> None:
        frames = int(np.isfinite(target[0]).sum())
        stream.update(target[:, :frames] * self._precision[:, :frames], row.prediction[:, :frames])

    def faults(self, tier: str | None) -> list[str]:
        """What is wrong, once all rows are seen.

        Args:
            tier: what the file should hold.
        """
        found = [f"{fault}: {_name_trials(trials)}" for fault, trials in self._trials.items()]
        doubled = [trial for trial, count in self.seen.items() if count > 1]
        found += [f"more than one row: {_name_trials(doubled)}"] if doubled else []
        if tier is not None:
            expected = {trial for trial, kind in enumerate(self.mouse.tiers) if kind == tier}
            foreign, missing = sorted(set(self.seen) - expected), sorted(expected - set(self.seen))
            found += [f"not of the tier {tier}: {_name_trials(foreign)}"] if foreign else []
            found += [f"missing: {_name_trials(missing)}"] if missing else []
        if self._looks_raw():
            found.append("the values look like responses that were not normalised (multiplied by precision)")
        return [f"{self.mouse.name}: {fault}" for fault in found]

    def _looks_raw(self) -> bool:
        """Whether the mean predictions are clearly nearer to the mean raw responses than to the normalised ones."""
        raw = self.mouse.statistics("responses", "mean")[:, self._frames]
        known = (self._sum > 0) & (np.nanmean(raw, 1) > 0)
        if not known.any():
            return False
        means = [np.log(np.nanmean(reference, 1)[known]) for reference in (raw, raw * self._precision)]
        predicted = np.log(self._sum[known] / self._scored)
        distances = [float(np.median(np.abs(predicted - mean))) for mean in means]
        apart = float(np.median(np.abs(means[0] - means[1]))) > _TELLING
        return apart and distances[0] < _CLEARLY * distances[1]

    def result(self) -> MouseResult:
        """The score of the rows of the right form."""
        streams = (self._measured, self._noiseless)
        score, noiseless = (float(stream.correlation().mean()) if stream.frames else None for stream in streams)
        return MouseResult(self.mouse.name, sum(self.seen.values()), score, noiseless, self.mouse.neurons)


def _name_trials(trials: Sequence[int]) -> str:
    shown = ", ".join(str(trial) for trial in trials[:_SHOWN])
    more = f" and {len(trials) - _SHOWN} more" if len(trials) > _SHOWN else ""
    return f"trial {shown}" if len(trials) == 1 else f"trials {shown}{more}"
