"""The parts of the trainer, each alone."""

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric.fabric import Fabric
from rich.console import Console
from training_runs import EXPERIMENT

from sensorium.callbacks.checkpoints import CheckpointFolder, remove
from sensorium.callbacks.progress import TrainingProgress
from sensorium.callbacks.recorder import Recorder, closing
from sensorium.callbacks.stopping import ParentWatch, StoppedError, StopRequest, watch_parents
from sensorium.config import Config, load
from sensorium.data.dataset import ValidationData
from sensorium.data.folds import Folds
from sensorium.data.inputs import assemble
from sensorium.data.store import MouseStore
from sensorium.errors import TrackingError, TrainingError
from sensorium.lineage import fingerprint, provenance, store_digest
from sensorium.metrics import correlation
from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.paths import Paths
from sensorium.training.history import Best, best_epoch, stops_early, to_csv
from sensorium.training.losses import poisson
from sensorium.training.validation import FoldValidation


def test_validation_is_the_correlation_over_all_windows(project: Path) -> None:
    config, paths = load(project / "params.yaml"), Paths(project)
    settings = config.experiment(EXPERIMENT)
    stores = [MouseStore(paths.store(mouse)) for mouse in config.dataset.mice]
    data = ValidationData(stores, Folds.load(paths.folds), 0, config.window)
    model = DwiseNeuro(settings.model, [store.neurons for store in stores]).eval()
    fabric = Fabric(accelerator="cpu", devices=1)
    pauses = []
    scores = FoldValidation(fabric, data, list(config.dataset.mice), settings.model.canvas, 2, poisson)(
        model, lambda: pauses.append(1)
    )
    expected, losses = [], []
    for mouse in range(len(stores)):
        batches = [batch for batch in data.loader(1000, 0) if mouse in batch.targets]
        target = torch.cat([batch.targets[mouse].responses for batch in batches])
        with torch.no_grad():
            prediction = torch.cat([model(assemble(batch, settings.model.canvas), mouse) for batch in batches])
        series = [tensor.transpose(0, 1).flatten(1).double().numpy() for tensor in (target, prediction)]
        expected.append(correlation(*series).mean())
        pairs = prediction - target * (prediction + 1e-8).log()
        losses.append(float(pairs.sum((1, 2)).mean()))
    assert scores["val_correlation"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert [scores[f"val_correlation/{mouse}"] for mouse in config.dataset.mice] == pytest.approx(expected, rel=1e-4)
    assert scores["val_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert len(pauses) > len(stores)


def rows(*correlations: float) -> list[dict[str, int | float]]:
    return [{"epoch": epoch, "val_correlation": value} for epoch, value in enumerate(correlations)]


def test_the_best_epoch_is_of_the_cosine_phase_and_the_first_of_equals() -> None:
    assert best_epoch(rows(0.9), 1) is None
    assert best_epoch(rows(0.9, 0.1, 0.3, 0.3), 1) == Best(2, 0.3)


def test_early_stopping_counts_from_the_best_epoch() -> None:
    assert not stops_early(rows(0.3, 0.1), 0, None)
    assert not stops_early(rows(0.3, 0.1), 0, 2)
    assert stops_early(rows(0.3, 0.1, 0.2), 0, 2)
    assert not stops_early([], 0, 1)


def test_history_reads_back_exactly() -> None:
    value = 0.1 + 0.2
    header, line = to_csv(rows(value)).splitlines()
    assert header == "epoch,val_correlation"
    assert float(line.split(",")[1]) == value


def test_the_last_two_checkpoints_and_best_weights_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "print")
    for epoch in range(4):
        folder.save_best(epoch, {"w": torch.full((2,), float(epoch))})
        folder.save(epoch + 1, 0, {"x": epoch})
    assert sorted(path.name.split("-")[0] for path in folder.path.glob("*.pt")) == ["000003", "000004"]
    latest = folder.latest(pytest.fail)
    assert latest is not None
    assert folder.load(latest) == {"epoch": 4, "step": 0, "x": 3}
    assert folder.load_best(2)["w"].tolist() == [2.0, 2.0]
    assert not (folder.path / "best-000001.safetensors").exists()
    remove(folder.path)
    assert not list(tmp_path.iterdir())


def test_unreadable_best_weights_are_named_with_a_remedy(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "print")
    folder.save_best(0, {"w": torch.zeros(2)})
    (folder.path / "best-000000.safetensors").write_bytes(b"short")
    with pytest.raises(TrainingError, match="best weights cannot be read") as fault:
        folder.load_best(0)
    assert f"Remove {folder.path}" in str(fault.value)


def test_a_disk_too_small_for_the_best_weights_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path, "print")
    folder.save_best(0, {"w": torch.zeros(2)})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sensorium.callbacks.checkpoints.save_file", fail)
    with pytest.raises(TrainingError, match="No space left"):
        folder.save_best(1, {"w": torch.ones(2)})
    assert folder.load_best(0)["w"].tolist() == [0.0, 0.0]
    assert [path.name for path in folder.path.iterdir()] == ["best-000000.safetensors"]


def test_what_a_killed_process_left_is_tidied(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "print")
    folder.save(0, 1, {})
    (folder.path / ".000.pt.1234.partial").write_bytes(b"half")
    (tmp_path / ".print.partial").mkdir()
    folder.tidy()
    assert len(list(folder.path.iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["print"]


def known(config: Config, root: Path, **changes: object) -> str:
    arguments = {"experiment": EXPERIMENT, "fold": 0, "teacher": None} | changes
    return fingerprint(provenance(config, Paths(root), **arguments))


def test_whatever_changes_the_result_changes_the_fingerprint(project: Path) -> None:
    config = load(project / "params.yaml")
    reference = known(config, project)
    assert known(config, project) == reference
    assert known(config.model_copy(update={"seed": 1}), project) != reference
    assert known(config, project, fold=1) != reference
    assert known(config, project, experiment="distillation_001") != reference
    assert known(config, project, teacher="0" * 64) != reference
    mice = dict(reversed(config.dataset.mice.items()))
    other = config.model_copy(update={"dataset": config.dataset.model_copy(update={"mice": mice})})
    assert known(other, project) != reference
    (project / "data" / "folds" / "folds.csv").write_text("changed", encoding="utf-8")
    assert known(config, project) != reference


def test_how_the_work_is_carried_out_does_not(project: Path) -> None:
    config = load(project / "params.yaml")
    runtime = config.runtime.model_copy(update={"workers": 3, "devices": 2, "checkpoint_steps": 7})
    assert known(config.model_copy(update={"runtime": runtime}), project) == known(config, project)


def test_a_changed_chunk_changes_the_digest_of_a_store(project: Path) -> None:
    store = next((project / "data" / "store").iterdir())
    before = store_digest(store)
    chunk = next(path for path in (store / "responses").rglob("*") if path.is_file() and path.suffix != ".json")
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    assert store_digest(store) != before


def test_a_signal_becomes_a_flag_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(None) as stop:
        assert stop.received() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received() == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_interrupt_ends_at_once() -> None:
    with StopRequest(None) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_nohup_keeps_ignoring_the_closed_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(None) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_death_of_an_ancestor_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = ParentWatch(2)
    assert not watch.died()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert watch.died()


def test_only_a_stage_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert watch_parents() is None
    monkeypatch.setenv("DVC_STAGE", "train@true_batch_001-0")
    watch = watch_parents()
    assert watch is not None
    assert len(watch.chain) == 2


ROW = {"epoch": 0, "train_loss": 1.5, "val_loss": 2.5, "val_correlation": 0.25}


def test_without_a_terminal_there_is_one_line_per_epoch() -> None:
    text = io.StringIO()
    view = TrainingProgress("teacher fold 0", 10, 2, Console(file=text, soft_wrap=True))
    with view.bar:
        view.advance(5, 1.0, 1e-3, 80.0)
        view.epoch(ROW)
    assert text.getvalue() == (
        "teacher fold 0: epoch 1/2  train loss 1.5000  val loss 2.5000  val correlation 0.2500  80 samples/s\n"
    )


def test_a_terminal_shows_loss_rate_speed_and_time_left() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160, color_system=None)
    view = TrainingProgress("teacher fold 0", 10, 2, console)
    with view.bar:
        view.advance(5, 1.25, 1e-3, 80.0)
    shown = text.getvalue()
    for part in ("teacher fold 0", "5/20", "loss 1.25", "lr 1.00e-03", "80 samples/s"):
        assert part in shown


def test_the_other_processes_show_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    view = TrainingProgress("teacher fold 0", 10, 2, Console(stderr=True, quiet=True, force_terminal=True))
    with view.bar:
        view.advance(1, 1.0, 1.0, 1.0)
        view.epoch(ROW)
        view.note("nothing")
    assert capfd.readouterr() == ("", "")


class Statuses(Recorder):
    def __init__(self) -> None:
        self.closed: list[str] = []

    def close(self, status: str) -> None:
        self.closed.append(status)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (None, "FINISHED"),
        (StoppedError(signal.SIGTERM, 0, 1), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (TrainingError("bad"), "FAILED"),
    ],
)
def test_a_run_ends_with_the_status_that_fits(fault: BaseException | None, status: str) -> None:
    recorder = Statuses()
    if fault is None:
        with closing(recorder):
            pass
    else:
        with pytest.raises(type(fault)), closing(recorder):
            raise fault
    assert recorder.closed == [status]


class FullDisk(Recorder):
    """A recorder that cannot write."""

    def close(self, status: str) -> None:
        raise TrackingError(f"{status} cannot be written.")


def test_a_recorder_that_cannot_write_hides_no_other_fault(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TrainingError, match="diverged"), closing(FullDisk()):
        raise TrainingError("diverged.")
    assert "FAILED cannot be written" in caplog.text
    with pytest.raises(TrackingError, match="FINISHED cannot be written"), closing(FullDisk()):
        pass
