"""What a training tells MLflow arrives whole and once, whatever happens to the server or the training."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter

import pytest
from flaky_server import Proxy, mlflow_server, wait_until
from training_process import training

from sensorium.commands import sync
from sensorium.errors import TrackingError
from sensorium.files import write_json
from sensorium.tracking import recorder, start_training_run, uploader
from sensorium.tracking.event_log import EventLog, event_logs

EXPERIMENT = "true_batch_001"
MOUSE = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"
SHORT = "29515-10-12"
LEADERBOARD = "sensorium-demo"


def start(project, fold=0, fingerprint="f" * 64, experiment=EXPERIMENT):
    return start_training_run(project.config, project.paths, experiment, fold, fingerprint)


def epochs(run, first, last, offset=0.0):
    for step in range(first, last):
        run.metrics({"train/loss": 1 / (step + 1), "val/correlation": 0.1 * step + offset}, step)


def train(project, fold=0, **options):
    run = start(project, fold, **options)
    epochs(run, 0, 3, fold / 100)
    run.close("FINISHED")


def runs(project, role, experiment):
    """Runs of the leaderboard."""
    client = project.store.client()
    found = client.get_experiment_by_name(LEADERBOARD)
    clauses = {"role": role, "experiment": experiment}
    query = " and ".join(f"tags.`sensorium.{key}` = '{value}'" for key, value in clauses.items())
    return client.search_runs([found.experiment_id], query) if found else []


def fold_runs(project, experiment=EXPERIMENT):
    return runs(project, "fold", experiment)


def parents(project, experiment=EXPERIMENT):
    return runs(project, "experiment", experiment)


def steps(project, run, key="train/loss"):
    return sorted(metric.step for metric in project.store.client().get_metric_history(run.info.run_id, key))


def assert_whole(project, run, count):
    """Every step of both metrics stands once."""
    assert steps(project, run) == list(range(count))
    assert steps(project, run, "val/correlation") == list(range(count))


# -- the embedded store --------------------------------------------------------------------------


def test_a_fold_becomes_a_child_run_with_all_that_is_known_of_it(project, inline):
    (project.paths.root / "dvc.lock").write_text(
        "stages:\n  folds:\n    outs:\n    - {path: data/folds, md5: 0123456789abcdef0123456789abcdef.dir}\n"
    )
    run = start(project, fold=1)
    run.params({"extra": {"workers": 2}})
    epochs(run, 0, 3)
    config = project.paths.root / "config.json"
    config.write_text("{}")
    run.artifact(config)
    config.unlink()  # the run has its own copy by now
    run.close("FINISHED")

    (child,), (parent,) = fold_runs(project), parents(project)
    assert child.info.run_name == "fold_1"
    assert child.info.status == "FINISHED"
    assert parent.info.run_name == EXPERIMENT
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["sensorium.fingerprint"] == "f" * 64
    assert child.data.tags["sensorium.seed"] == "0"
    assert child.data.tags["dvc.data/folds"] == "0123456789abcdef0123456789abcdef.dir"
    settings = project.config.experiment(EXPERIMENT)
    assert child.data.params["training.learning_rate"] == str(settings.training.learning_rate)
    assert child.data.params["model.features"] == str(list(settings.model.features))
    assert child.data.params["extra.workers"] == "2"
    assert [item.dataset.digest for item in child.inputs.dataset_inputs] == ["0123456789abcdef0123456789abcdef.dir"]
    assert_whole(project, child, 3)
    assert child.data.metrics["system/process_memory_usage_megabytes"] > 1  # once in ten seconds
    assert not any(key.startswith("system/") for key in parent.data.metrics)
    artifacts = project.store.client().list_artifacts(child.info.run_id)
    assert [artifact.path for artifact in artifacts] == ["config.json", "params.yaml"]
    assert child.info.artifact_uri.startswith((project.paths.root / "mlartifacts").as_uri())


def test_the_link_names_the_run_and_nothing_waits(project):
    train(project)
    link = json.loads(project.paths.run_link(EXPERIMENT, 0).read_text())
    (child,) = fold_runs(project)
    assert link["run_id"] == child.info.run_id
    assert link["tracking_uri"] == "sqlite:///mlflow.db"
    assert str(project.paths.root) not in json.dumps(link)  # it is shipped to people with other folders
    assert link["journal"] is None
    assert event_logs(project.store.state) == []


def test_the_parent_sums_up_its_folds(project, inline):
    for fold in range(3):
        run = start(project, fold, fingerprint=str(fold) * 64)
        run.metrics({"val/correlation": 0.9, f"val/correlation/{MOUSE}": 0.1}, 0)  # warm-up, never the best
        run.metrics({"val/correlation": 0.3 + fold / 10, f"val/correlation/{MOUSE}": 0.2}, 1)
        run.metrics({"val/correlation": 0.2, f"val/correlation/{MOUSE}": 0.5}, 2)
        run.close("FINISHED")
    (parent,) = parents(project)
    assert len(fold_runs(project)) == 3
    metrics = parent.data.metrics
    assert metrics["folds"] == 3
    assert metrics["val/correlation/mean"] == pytest.approx(0.4)
    assert metrics["val/correlation/std"] == pytest.approx(0.1)
    half = 4.302653 * 0.1 / 3**0.5  # Student's t, 2 degrees of freedom
    assert metrics["val/correlation/ci_low"] == pytest.approx(0.4 - half, abs=1e-4)
    assert metrics["val/correlation/ci_high"] == pytest.approx(0.4 + half, abs=1e-4)
    assert metrics[f"val/correlation/{SHORT}/mean"] == pytest.approx(0.2)
    curve = {m.step: m.value for m in project.store.client().get_metric_history(parent.info.run_id, "val/correlation")}
    assert curve == pytest.approx({0: 0.9, 1: 0.4, 2: 0.2})
    assert parent.info.status == "FINISHED"


def test_a_fold_trained_anew_begins_a_new_parent(project, inline):
    train(project, fingerprint="a" * 64)
    train(project, fingerprint="b" * 64)
    children = fold_runs(project)
    assert len({child.data.tags["mlflow.parentRunId"] for child in children}) == 2


def test_a_run_that_failed_is_gone_on_with(project, inline):
    run = start(project)
    epochs(run, 0, 2)
    run.close("FAILED")
    assert not project.paths.run_link(EXPERIMENT, 0).exists()
    assert [child.info.status for child in fold_runs(project)] == ["FAILED"]
    run = start(project)
    epochs(run, 1, 4)
    run.close("FINISHED")
    (child,) = fold_runs(project)
    assert child.info.status == "FINISHED"
    assert_whole(project, child, 4)


def test_a_run_is_found_again_by_its_fingerprint_when_the_event_log_is_lost(project, inline):
    run = start(project)
    epochs(run, 0, 2)
    run.close("KILLED")
    shutil.rmtree(project.store.state / "journals")
    run = start(project)
    epochs(run, 0, 4)  # trained from the start: the steps that the server has are left as they are
    run.close("FINISHED")
    (child,) = fold_runs(project)
    assert_whole(project, child, 4)


def test_two_trainings_of_one_fold_are_refused(project, inline, monkeypatch):
    monkeypatch.setattr(recorder, "_LOCK_SECONDS", 0.1)
    run = start(project)
    with pytest.raises(TrackingError, match="another training of this fold"):
        start(project)
    run.close("KILLED")


def released(project, name=f"{EXPERIMENT}-fold_0-" + "f" * 16):
    with EventLog(project.store.state / "journals" / name).locked("uploader") as free:
        return free


@pytest.mark.parametrize("pause", [0.0, 6.0])
def test_a_killed_training_is_marked_and_goes_on_in_the_same_run(project, pause):
    process = training(project, end=pause, fingerprint="f" * 64)
    assert process.wait() == -signal.SIGKILL
    wait_until(lambda: [child.info.status for child in fold_runs(project)] == ["KILLED"])
    (child,) = fold_runs(project)
    wait_until(lambda: released(project))
    assert_whole(project, child, 3)
    run = start(project)
    epochs(run, 2, 5)
    run.close("FINISHED")
    (child,) = fold_runs(project)
    assert child.info.status == "FINISHED"
    assert_whole(project, child, 5)


@pytest.mark.slow
def test_folds_in_parallel_on_a_fresh_store(bare_project):
    processes = [training(bare_project, fold) for fold in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    sync.run(bare_project.paths)
    children = fold_runs(bare_project)
    assert len(parents(bare_project)) == 1
    assert Counter(child.info.run_name for child in children) == {"fold_0": 1, "fold_1": 1, "fold_2": 1}
    for child in children:
        assert_whole(bare_project, child, 3)
    assert parents(bare_project)[0].data.metrics["folds"] == 3


# -- a server ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory, fresh_database):
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(fresh_database, folder / "mlflow.db")
    with mlflow_server(folder, f"sqlite:///{folder}/mlflow.db") as port:
        yield port


@pytest.fixture
def proxy(server, bare_project, monkeypatch):
    proxy = Proxy(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    monkeypatch.setenv("SENSORIUM_TRACKING_TIMEOUT", "1")
    yield proxy
    proxy.close()


def only(project, fingerprint):
    (child,) = [run for run in fold_runs(project) if run.data.tags["sensorium.fingerprint"] == fingerprint]
    return child


@pytest.mark.slow
def test_the_server_is_down_all_the_time(bare_project, proxy):
    proxy.mode = "down"
    began = time.monotonic()
    train(bare_project, fingerprint="down" * 16)
    assert time.monotonic() - began < 30
    link = json.loads(bare_project.paths.run_link(EXPERIMENT, 0).read_text())
    assert link["run_id"] is None
    assert link["journal"].startswith(EXPERIMENT)
    with pytest.raises(TrackingError, match="could not be uploaded"):
        sync.run(bare_project.paths)
    proxy.mode = "up"
    sync.run(bare_project.paths)
    child = only(bare_project, "down" * 16)
    assert child.info.status == "FINISHED"
    assert_whole(bare_project, child, 3)
    assert event_logs(bare_project.store.state) == []
    sync.run(bare_project.paths)
    assert_whole(bare_project, only(bare_project, "down" * 16), 3)


def test_a_short_training_leaves_its_last_events_to_the_uploader(bare_project, proxy, monkeypatch):
    monkeypatch.delenv("SENSORIUM_TRACKING_TIMEOUT")
    proxy.mode = "down"
    train(bare_project, fingerprint="left" * 16)
    link = json.loads(bare_project.paths.run_link(EXPERIMENT, 0).read_text())
    assert link["run_id"] is None
    assert (bare_project.store.state / "journals" / link["journal"]).is_dir()
    proxy.mode = "up"
    wait_until(lambda: event_logs(bare_project.store.state) == [])
    assert_whole(bare_project, only(bare_project, "left" * 16), 3)


def test_an_event_log_goes_to_the_store_of_its_training(project, server, monkeypatch):
    here = start(project, 0)
    epochs(here, 0, 3)
    wait_until(lambda: [run.info.status for run in fold_runs(project)] == ["RUNNING"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server}")
    train(project, fold=1, fingerprint="ther" * 16)
    assert only(project, "ther" * 16).info.status == "FINISHED"
    assert not [run for run in fold_runs(project) if run.data.tags["sensorium.fingerprint"] == "f" * 64]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    here.close("FINISHED")
    assert [run.info.run_name for run in fold_runs(project)] == ["fold_0"]


def test_what_a_store_missed_goes_to_no_other_by_itself(bare_project, proxy, monkeypatch, fresh_database):
    proxy.mode = "down"
    train(bare_project, fingerprint="miss" * 16)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("SENSORIUM_TRACKING_TIMEOUT", "60")
    shutil.copyfile(fresh_database, bare_project.paths.root / "mlflow.db")
    train(bare_project, fold=1, fingerprint="here" * 16)
    assert [run.info.run_name for run in fold_runs(bare_project)] == ["fold_1"]
    assert len(event_logs(bare_project.store.state)) == 1


@pytest.mark.slow
def test_the_server_is_down_at_the_start(bare_project, proxy):
    proxy.mode = "down"
    run = start(bare_project, fingerprint="late" * 16)
    epochs(run, 0, 2)
    time.sleep(4)
    proxy.mode = "up"
    epochs(run, 2, 4)
    run.close("FINISHED")
    sync.run(bare_project.paths)
    assert_whole(bare_project, only(bare_project, "late" * 16), 4)


def arrived(project, fingerprint, step):
    return any(
        step in steps(project, run)
        for run in fold_runs(project)
        if run.data.tags["sensorium.fingerprint"] == fingerprint
    )


@pytest.mark.slow
def test_the_server_goes_away_in_the_middle(bare_project, proxy):
    run = start(bare_project, fingerprint="midd" * 16)
    epochs(run, 0, 2)
    wait_until(lambda: arrived(bare_project, "midd" * 16, 1))
    proxy.mode = "down"
    epochs(run, 2, 4)
    time.sleep(2)
    proxy.mode = "up"
    epochs(run, 4, 6)
    run.close("FINISHED")
    sync.run(bare_project.paths)
    assert_whole(bare_project, only(bare_project, "midd" * 16), 6)


def test_an_answer_that_is_lost_makes_no_step_twice(bare_project, proxy):
    """The server has stored what it is asked again to store, at another time."""
    run = start(bare_project, fingerprint="deaf" * 16)
    epochs(run, 0, 2)
    wait_until(lambda: arrived(bare_project, "deaf" * 16, 1))
    proxy.mode = "deaf"
    epochs(run, 2, 4)
    wait_until(lambda: proxy.lost > 0)
    proxy.mode = "up"
    epochs(run, 4, 5)
    run.close("FINISHED")
    sync.run(bare_project.paths)
    assert_whole(bare_project, only(bare_project, "deaf" * 16), 5)


@pytest.mark.slow
def test_the_server_goes_away_at_the_end_and_the_next_training_delivers(bare_project, proxy):
    run = start(bare_project, fold=1, fingerprint="last" * 16)
    epochs(run, 0, 3)
    wait_until(lambda: arrived(bare_project, "last" * 16, 2))
    proxy.mode = "down"
    run.close("FINISHED")
    link = json.loads(bare_project.paths.run_link(EXPERIMENT, 1).read_text())
    assert link["run_id"] == only_while(proxy, bare_project, "last" * 16).info.run_id
    proxy.mode = "up"
    run = start(bare_project, fold=2, fingerprint="next" * 16)
    wait_until(lambda: only(bare_project, "last" * 16).info.status == "FINISHED")
    run.close("KILLED")
    assert_whole(bare_project, only(bare_project, "last" * 16), 3)


def only_while(proxy, project, fingerprint):
    mode, proxy.mode = proxy.mode, "up"
    try:
        return only(project, fingerprint)
    finally:
        proxy.mode = mode


@pytest.mark.slow
def test_a_slow_server_does_not_hold_the_training(bare_project, proxy):
    proxy.mode, proxy.delay = "slow", 1.0
    run = start(bare_project, fingerprint="slow" * 16)
    began = time.monotonic()
    epochs(run, 0, 200)
    assert time.monotonic() - began < 10
    run.close("FINISHED")
    proxy.mode = "up"
    sync.run(bare_project.paths)
    assert_whole(bare_project, only(bare_project, "slow" * 16), 200)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["file:///tmp/runs", "/tmp/runs", "mlruns"])
def test_a_folder_as_store_is_refused(project, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match="MLflow 3 does not write") as told:
        start(project)
    assert "Unset MLFLOW_TRACKING_URI" in told.value.remedy
    assert not project.paths.state.exists()


@pytest.mark.parametrize("variable", ["SENSORIUM_TRACKING_TIMEOUT", "SENSORIUM_UPLOADER_IDLE_TIMEOUT"])
@pytest.mark.parametrize("seconds", ["-1", "soon", "nan"])
def test_seconds_that_are_no_number_are_refused(project, monkeypatch, variable, seconds):
    monkeypatch.setenv(variable, seconds)
    with pytest.raises(TrackingError, match=variable):
        start(project)
    assert not project.paths.state.exists()


def test_sync_names_what_an_uploader_holds(project, inline, monkeypatch):
    run = start(project)
    run.close("FAILED")
    monkeypatch.setattr(uploader, "ALLOWANCE_SECONDS", 0.1)
    monkeypatch.setenv("SENSORIUM_TRACKING_TIMEOUT", "0")
    (log,) = event_logs(project.store.state)
    with log.locked("uploader"), pytest.raises(TrackingError, match="an uploader is still at work on it"):
        sync.run(project.paths)


def test_a_torn_last_line_is_cut_off(tmp_path):
    log = EventLog(tmp_path / "journal")
    log.append("metrics", values={"a": 1.0}, step=0)
    with log.events_file.open("ab") as stream:
        stream.write(b'{"kind": "metr')
    assert [event["step"] for event, _ in log.read()] == [0]
    log.repair()
    log.append("metrics", values={"a": 2.0}, step=1)
    assert [event["step"] for event, _ in log.read()] == [0, 1]


def test_passwords_are_not_written_anywhere(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("SENSORIUM_TRACKING_TIMEOUT", "0")
    train(project)
    wait_until(lambda: any(log.stat().st_size for log in project.store.state.glob("uploader-*.log")))
    link = project.paths.run_link(EXPERIMENT, 0).read_text()
    assert "secret" not in link
    assert "user:***@" in link
    for path in project.paths.state.rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes(), path
    assert os.environ["MLFLOW_TRACKING_URI"].startswith("http://user:secret@")


def test_a_record_of_a_training_tells_where_the_training_ran_and_not_where_it_was_recorded(project, inline):
    train(project)
    (original,) = fold_runs(project)
    client = project.store.client()
    known = {"sensorium.threads": "7", "sensorium.hardware": "abacus", "mlflow.source.git.commit": "c" * 40}
    for key, value in known.items():
        client.set_tag(original.info.run_id, key, value)
    made = client.create_run("0", tags={"mlflow.source.git.commit": "d" * 40, "mlflow.source.name": "here"})
    project.train(EXPERIMENT)
    recorder.record_past(project.config, project.paths, EXPERIMENT, 0, made.info.run_id)
    tags = client.get_run(made.info.run_id).data.tags
    assert known.items() <= tags.items()
    assert tags["sensorium.stage"] == original.data.tags["sensorium.stage"]
    assert (tags["sensorium.role"], tags["mlflow.source.name"]) == ("record", "here")


def test_a_record_of_a_training_that_is_in_another_store_claims_nothing(project, inline):
    client = project.store.client()
    made = client.create_run("0")
    project.train(EXPERIMENT)
    write_json(project.paths.run_link(EXPERIMENT, 0), {"run_id": "e" * 32})
    recorder.record_past(project.config, project.paths, EXPERIMENT, 0, made.info.run_id)
    assert not {"sensorium.threads", "sensorium.hardware"} & client.get_run(made.info.run_id).data.tags.keys()


def every_byte(folder):
    """Content of every file below a folder, outside of git and of what the test itself planted."""
    planted = {folder / ".dvc" / "config.local", folder / "notes.py"}
    files = [file for file in folder.rglob("*") if file.is_file() and ".git" not in file.parts]
    return b"\n".join(file.read_bytes() for file in files if file not in planted)


def test_credentials_reach_nothing_that_a_training_writes(project, inline, monkeypatch, caplog):
    root = project.paths.root
    planted = {name: f"planted-{name}-credential" for name in ("variable", "local", "typed", "address")}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", planted["variable"])
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config.local").write_text(f"['remote \"store\"']\n    password = {planted['local']}\n")
    for command in (["init", "--quiet"], ["add", "params.yaml"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    (root / "notes.py").write_text("")
    subprocess.run(["git", "-C", str(root), "add", "notes.py"], check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(root), *author, "commit", "--quiet", "-m", "first"], check=True)
    (root / "notes.py").write_text(
        f"A = '{planted['variable']}'\nB = '{planted['local']}'\npassword = {planted['typed']}\n"
        f"URL = 'https://me:{planted['address']}@host/x'\n"
    )
    train(project)
    written = every_byte(root) + caplog.text.encode()
    assert b"holds what looks like a credential" in written
    assert [name for name, value in planted.items() if value.encode() in written] == []
    (root / "notes.py").write_text("A = 1\n")
    train(project, fold=1)
    assert list(root.rglob("uncommitted.patch")), "changes without a credential are recorded"
