"""How every experiment in silico runs: in batches of neurons that a killed one does not measure again.

n neurons of a batch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from sensorium import files
from sensorium.config import Config
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError, TrackingError
from sensorium.insilico.page import experiment_page
from sensorium.insilico.subject import Subject
from sensorium.insilico.target import Target, listed_runs
from sensorium.lineage import PREDICTION_CODE, code_digests
from sensorium.mice import short_name
from sensorium.paths import Paths
from sensorium.tracking.insilico import MODEL, MODEL_DIGEST, ExperimentRecord, log_experiment


@dataclass(frozen=True)
class Outcome:
    """What was measured on some neurons."""

    tables: Mapping[str, pd.DataFrame]
    """By name; their column `neuron` counts the neurons from 0, a session turns it into the index in the mouse."""
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """By name; the neurons come first."""


Advance = Callable[[float], None]
"""Told the share of a measurement that was done since the last call; all shares add up to 1."""
_NAMED = 10
"""Neurons that a message names."""
Measure = Callable[[Subject, Advance], Outcome]
"""Measures the neurons that are observed of the subject."""


@dataclass(frozen=True)
class Picture:
    """A figure of the page."""

    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Session:
    """One experiment on one mouse."""

    name: str
    """Such as `tuning`."""
    config: Config
    paths: Paths
    target: Target
    store: MouseStore
    neurons: NDArray[np.int64]
    """Indices of the neurons."""
    settings: Mapping[str, Any]
    """All that the results depend on besides model, mouse and neurons; plain values."""
    batch: int
    """Neurons at once."""
    output: Path | None = None
    """Folder of the results. Default: `folder`."""

    @property
    def folder(self) -> Path:
        """Folder of the results: reports/insilico/MOUSE/EXPERIMENT."""
        return self.output or self.paths.root / "reports" / "insilico" / self.store.name / self.name

    @property
    def _identity(self) -> dict[str, Any]:
        return {
            "experiment": self.name,
            "model": self.target.digest,
            "mouse": self.store.name,
            "recordings": self.store.sources,
            "neurons": self.neurons.tolist(),
            "settings": dict(self.settings),
            "batch": self.batch,
            "code": code_digests(("insilico", *PREDICTION_CODE)),
        }

    @property
    def _work(self) -> Path:
        return self.paths.state / "insilico" / self.store.name / self.name

    def measure(self, measure: Measure) -> Outcome:
        """Measure all neurons, batch by batch; those that an interrupted session has measured are read.

        Raises:
            PredictionError: another process makes this experiment on this mouse; or what the measurement raises.
        """
        batches = [self.neurons[first : first + self.batch] for first in range(0, len(self.neurons), self.batch)]

        def part(number: int, subject: Subject, advance: Advance) -> Outcome:
            return self._named(measure(subject.select(batches[number]), advance), batches[number])

        return self.in_parts(len(batches), f"{len(self.neurons)} neurons", part)

    def in_parts(self, count: int, what: str, part: Callable[[int, Any, Advance], Outcome]) -> Outcome:
        """Make all parts of an experiment; those that an interrupted session has made are read.

        Args:
            count: of the parts.
            what: they are together, for the progress bar.
            part: makes one, from its number and the subject with all of the mouse's neurons.

        Raises:
            PredictionError: another process makes this experiment on this mouse; or what a part raises.
        """
        busy = PredictionError(
            f"{self.name} of {self.store.name}: another process is at work on it.", "Wait until it has finished."
        )
        place = self._work / files.digest_json(self._identity)
        with files.exclusive_lock(self._work.with_name(f"{self.name}.lock"), busy):
            for other in self._work.glob("*"):
                if other != place:
                    files.discard(other)
            return self._make(count, what, part, place)

    def _make(self, count: int, what: str, part: Callable[[int, Any, Advance], Outcome], place: Path) -> Outcome:
        missing = [number for number in range(count) if not (place / str(number)).is_dir()]
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(f"{self.name}, {what}", total=count)
            progress.advance(task, count - len(missing))
            subject = self.target.subject(self.config, self.store) if missing else None
            for number in missing:
                found = part(number, subject, lambda share: progress.advance(task, share))
                with files.atomic_folder(place / str(number)) as partial:
                    write(partial, found)
        return _joined([_read(place / str(number)) for number in range(count)])

    def _named(self, found: Outcome, neurons: NDArray[np.int64]) -> Outcome:
        """The tables with the neurons' indices in the mouse, and their identifiers."""
        tables = {}
        for name, table in found.tables.items():
            indices = neurons[table["neuron"].to_numpy()]
            named = table.assign(neuron=indices)
            named.insert(0, "unit_id", self.store.unit_ids[indices].astype(np.int64))
            tables[name] = named
        return Outcome(tables, found.arrays)

    def refuse_dead(self, dead: Iterable[int], what: str) -> None:
        """Name the neurons that an experiment cannot measure; only where these are all of them it is given up.

        Args:
            dead: their indices.
            what: they do, such as `respond the same to every grating`.

        Raises:
            PredictionError: nothing was measured.
        """
        listed = list(dead)
        if not listed:
            return
        names = ", ".join(map(str, listed[:_NAMED])) + (f" and {len(listed) - _NAMED} more" if listed[_NAMED:] else "")
        problem = f"{self.target.label}: of mouse {self.store.name}, these neurons {what}: {names}."
        if len(listed) == len(self.neurons):
            files.discard(self._work)
            raise PredictionError(problem, "Choose other neurons, or a model that has learned these.")
        Console(stderr=True).print(problem, highlight=False, soft_wrap=True)

    def publish(
        self,
        found: Outcome,
        lead: str,
        pictures: Sequence[Picture],
        metrics: Mapping[str, float],
        summary: str = "summary",
        more: Callable[[Path], None] = lambda _: None,
    ) -> None:
        """Write the results at once, record them in MLflow, and forget the batches.

        Args:
            found: tables and arrays.
            lead: the first sentence of the page.
            pictures: the figures of the page.
            metrics: what the run records; what is not finite is left out.
            summary: name of the table of which the page shows the beginning.
            more: writes further files into the folder of the results.
        """
        facts = {"Model": self.target.label, "Digest of the model": self.target.digest, "Mouse": self.store.name}
        facts |= {"Neurons": str(len(self.neurons))} | {key: str(value) for key, value in self.settings.items()}
        title = f"{self.name.replace('-', ' ').capitalize()} of mouse {short_name(self.store.name)}"
        with files.atomic_folder(self.folder) as partial:
            write(partial, found)
            more(partial)
            images = []
            for number, picture in enumerate(pictures):
                file = partial / f"{number + 1}_{picture.title.lower().replace(' ', '_')}.png"
                picture.figure.savefig(file)
                images.append((picture.title, picture.caption, file.read_bytes()))
            page = experiment_page(title, lead, images, found.tables[summary], facts)
            (partial / "index.html").write_text(page, encoding="utf-8")
        self._record(metrics)
        files.discard(self._work)
        Console().print(f"Wrote {self.folder}: {lead}", highlight=False, soft_wrap=True)

    def _record(self, metrics: Mapping[str, float]) -> None:
        """Record the experiment; the results stay where the tracking store cannot be reached."""
        record = ExperimentRecord(
            name=f"{self.name} {short_name(self.store.name)}",
            experiments=sorted(self.target.folds),
            runs=listed_runs(self.target),
            tags={MODEL: self.target.label, MODEL_DIGEST: self.target.digest},
            params={"mouse": self.store.name, **{key: str(value) for key, value in self.settings.items()}},
            metrics={key: float(value) for key, value in metrics.items() if np.isfinite(value)},
        )
        try:
            log_experiment(self.config.preset, self.paths, record, self.folder)
        except TrackingError as fault:
            Console(stderr=True).print(f"Not recorded in MLflow. {fault}", highlight=False, soft_wrap=True)


def write(folder: Path, found: Outcome) -> None:
    """Write tables as Parquet files and arrays as .npy files."""
    for name, table in found.tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    for name, array in found.arrays.items():
        np.save(folder / f"{name}.npy", array)


def _read(folder: Path) -> Outcome:
    tables = {path.stem: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
    return Outcome(tables, {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))})


def _joined(parts: Sequence[Outcome]) -> Outcome:
    tables = {name: pd.concat([part.tables[name] for part in parts], ignore_index=True) for name in parts[0].tables}
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    return Outcome(tables, arrays)
