"""The training stage from the user's side: what comes out, and what is said when it cannot go on."""

import csv
import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from training_runs import EXPERIMENT, STUDENT, change_params, checkpoints, digests, finish, leftovers, start, train_here

from sensorium.callbacks import checkpoints as resume
from sensorium.errors import CheckpointError, ConfigError, DataError, TrainingError
from sensorium.model import checkpoint
from sensorium.training import task

OUTPUT = Path("data") / "experiments"


def rows(root: Path, experiment: str = EXPERIMENT) -> list[dict[str, str]]:
    with (root / OUTPUT / experiment / "fold_0" / "history.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def assert_nothing_published(root: Path) -> None:
    assert not (root / OUTPUT / EXPERIMENT / "fold_0").exists()
    assert not leftovers(root)


def test_a_fold_is_published_whole(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(project)
    trained = checkpoint.load(project / OUTPUT / EXPERIMENT / "fold_0")
    history = rows(project)
    assert [row["epoch"] for row in history] == ["0", "1"]
    assert trained.info.scores == {"val_correlation": float(history[1]["val_correlation"]), "epoch": 1}
    mice = [float(history[1][f"val_correlation/{mouse}"]) for mouse in trained.info.mice]
    assert float(history[1]["val_correlation"]) == pytest.approx(sum(mice) / len(mice))
    assert trained.info.provenance["experiment"] == EXPERIMENT
    assert not checkpoints(project)
    assert not leftovers(project)
    spoken = capsys.readouterr().err
    assert "epoch 2/2" in spoken
    assert "validation correlation" in spoken


def test_the_same_command_gives_the_same_bytes(project: Path) -> None:
    assert finish(project) == finish(project)


def test_loader_processes_change_no_bit(project: Path) -> None:
    alone = finish(project)
    change_params(project, {"runtime.workers": 2})
    assert finish(project) == alone


def test_another_seed_gives_other_weights(project: Path) -> None:
    first = finish(project)
    change_params(project, {"seed": 1})
    assert finish(project)["model.safetensors"] != first["model.safetensors"]


def test_chunks_train_as_well(project: Path) -> None:
    change_params(project, {f"experiments.{EXPERIMENT}.training.iter_size": 4})
    train_here(project)
    assert len(rows(project)) == 2


def test_bfloat16_trains_as_well(project: Path) -> None:
    change_params(project, {f"experiments.{EXPERIMENT}.training.precision": "bf16-mixed"})
    train_here(project)
    assert len(rows(project)) == 2


def test_early_stopping_ends_a_training_that_gets_no_better(project: Path) -> None:
    keys = {"warmup_epochs": 0, "cosine_epochs": 9, "learning_rate": 1e-12, "early_stopping": 2}
    change_params(project, {f"experiments.{EXPERIMENT}.training.{key}": value for key, value in keys.items()})
    train_here(project)
    best = max(range(len(rows(project))), key=lambda epoch: float(rows(project)[epoch]["val_correlation"]))
    assert len(rows(project)) == best + 3


# -- distillation --------------------------------------------------------------------------------


def test_a_student_learns_from_its_teacher(project: Path) -> None:
    train_here(project)
    train_here(project, STUDENT)
    student = checkpoint.load(project / OUTPUT / STUDENT / "fold_0").info
    assert student.provenance["teacher"] == checkpoint.digest(project / OUTPUT / EXPERIMENT / "fold_0")


def test_a_missing_teacher_is_named_with_the_remedy(project: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist") as fault:
        train_here(project, STUDENT)
    assert "dvc repro train@true_batch_001-0" in str(fault.value)
    assert_nothing_published(project)


def test_a_teacher_of_other_mice_is_refused(project: Path) -> None:
    train_here(project)
    config = project / OUTPUT / EXPERIMENT / "fold_0" / "config.json"
    import json

    tree = json.loads(config.read_text(encoding="utf-8"))
    tree["readouts"].reverse()
    config.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(CheckpointError, match="trained on the mice") as fault:
        train_here(project, STUDENT)
    assert "train@true_batch_001-0" in str(fault.value)


def test_a_teacher_of_another_window_is_refused(project: Path) -> None:
    train_here(project)
    change_params(project, {"window.step": 1})
    with pytest.raises(CheckpointError, match="the teacher's window"):
        train_here(project, STUDENT)
    assert not (project / OUTPUT / STUDENT).exists()


# -- faults --------------------------------------------------------------------------------------


def test_a_missing_store_is_named(project: Path) -> None:
    store = next((project / "data" / "store").iterdir())
    shutil.rmtree(store)
    with pytest.raises(DataError, match=store.name):
        train_here(project)
    assert_nothing_published(project)


def test_a_gpu_that_is_not_there_is_named(project: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    change_params(project, {"runtime.accelerator": "cuda"})
    with pytest.raises(ConfigError, match=r"runtime\.accelerator"):
        train_here(project)


def test_two_trainers_of_one_fold_are_refused(project: Path) -> None:
    change_params(project, {f"experiments.{EXPERIMENT}.training.samples_per_epoch": 60000})
    first = start(project)
    try:
        while not checkpoints(project):
            first.join(0.05)
            assert first.is_alive()
        with pytest.raises(TrainingError, match="another process is training it"):
            train_here(project)
        assert first.is_alive()
    finally:
        first.kill()
        first.join()


def test_a_diverged_loss_ends_the_training(project: Path) -> None:
    change_params(project, {f"experiments.{EXPERIMENT}.training.learning_rate": 1e30, "runtime.checkpoint_steps": 1})
    with pytest.raises(TrainingError, match=r"training diverged: the loss is (nan|inf|-inf) in epoch 1") as fault:
        train_here(project)
    assert "learning_rate" in str(fault.value)
    assert_nothing_published(project)
    kept = torch.load(checkpoints(project)[-1], weights_only=True)
    assert all(bool(value.isfinite().all()) for value in kept["model"].values())


def test_full_memory_asks_for_chunks(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fault in (torch.OutOfMemoryError("no memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):

        def fail(*_: object, fault: Exception = fault) -> None:
            raise fault

        monkeypatch.setattr(task.Supervised, "loss", fail)
        with pytest.raises(TrainingError, match=r"memory of cpu is full") as raised:
            train_here(project)
        assert "training.iter_size in params.yaml from 1 to 2" in str(raised.value)
        assert_nothing_published(project)


def test_a_full_disk_leaves_the_last_checkpoint(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_params(project, {"runtime.checkpoint_steps": 1})
    expected = finish(project)
    shutil.rmtree(project / OUTPUT)
    save, calls = torch.save, []

    def fill_up(value: object, stream: object) -> None:
        calls.append(1)
        if len(calls) == 4:
            stream.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(value, stream)

    monkeypatch.setattr(resume.torch, "save", fill_up)
    with pytest.raises(TrainingError, match="No space left on device") as fault:
        train_here(project)
    assert "Free disk space" in str(fault.value)
    assert_nothing_published(project)
    assert len(checkpoints(project)) == resume.KEPT
    monkeypatch.undo()
    assert finish(project) == expected
    assert "continues in epoch 1 after 3 steps" in (project / "stderr.txt").read_text(encoding="utf-8")


def test_a_full_disk_at_the_end_keeps_the_old_output(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_here(project)
    before = digests(project)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", fail)
    change_params(project, {"seed": 1})
    with pytest.raises(CheckpointError, match="No space left"):
        train_here(project)
    assert digests(project) == before
    assert not leftovers(project)
