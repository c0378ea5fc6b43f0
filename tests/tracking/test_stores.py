"""The same promises on SQLite, on PostgreSQL, and on a server with PostgreSQL and an S3 store."""

import os
import shutil
import sys
import time

import boto3
import pytest
from flaky_server import mlflow_server
from moto.server import ThreadedMotoServer
from postgres_server import postgres
from training_process import training

from sensorium.commands import restore, sync
from sensorium.errors import TrackingError
from sensorium.registry.manifest import PAIR, STUDENT, TEACHER
from sensorium.registry.pair import load_pair
from sensorium.registry.promotion import promote
from sensorium.stages import register
from sensorium.tracking import start_training_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

EXPERIMENT = "true_batch_001"
WRITERS, STEPS, METRICS = 16, 200, 50


@pytest.fixture(scope="module")
def database():
    with postgres() as uri:
        yield uri


@pytest.fixture(scope="module")
def s3():
    """An S3 store with an empty bucket, reached by variables alone."""
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    variables = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
    }
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="mlflow")
    yield client, variables
    store.stop()


@pytest.fixture(scope="module")
def server(database, s3, tmp_path_factory):
    """`mlflow server` on PostgreSQL and S3."""
    folder = tmp_path_factory.mktemp("server")
    client, variables = s3
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        with mlflow_server(folder, database.replace("/mlflow", "/served"), "s3://mlflow") as port:
            yield f"http://127.0.0.1:{port}", client
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(params=["sqlite", "postgres", "server"])
def anywhere(request, bare_project, monkeypatch):
    """A project on each of the stores."""
    if request.param == "postgres":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("database"))
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server")[0])
    bare_project.name = request.param
    return bare_project


def fold_runs(project, fingerprint):
    client = project.store.client()
    found = client.get_experiment_by_name("sensorium-demo")
    runs = client.search_runs([found.experiment_id], "tags.`sensorium.role` = 'fold'", max_results=1000)
    return [run for run in runs if run.data.tags["sensorium.fingerprint"].startswith(fingerprint)]


def test_many_writers_at_once_lose_nothing_and_write_nothing_twice(anywhere, monkeypatch, record_property):
    monkeypatch.setenv("SENSORIUM_TRACKING_TIMEOUT", "600")
    began = time.monotonic()
    runs = [
        start_training_run(anywhere.config, anywhere.paths, EXPERIMENT, n, f"{n:02d}-{anywhere.name}" * 8)
        for n in range(WRITERS)
    ]
    for step in range(STEPS):
        for run in runs:
            run.metrics({f"metric_{k:02d}": step + k / 100 for k in range(METRICS)}, step)
    written = time.monotonic() - began
    for run in runs:
        run.close("FINISHED")
    seconds = time.monotonic() - began
    record_property("written", written)
    record_property("delivered", seconds)
    sys.stderr.write(f"{anywhere.name}: written in {written:.1f} s, delivered in {seconds:.1f} s\n")
    client = anywhere.store.client()
    for n in range(WRITERS):
        (run,) = fold_runs(anywhere, f"{n:02d}-{anywhere.name}")
        assert run.info.status == "FINISHED"
        assert len([key for key in run.data.metrics if not key.startswith("system/")]) == METRICS
        for k in (0, 17, METRICS - 1):
            history = client.get_metric_history(run.info.run_id, f"metric_{k:02d}")
            assert {m.step: m.value for m in history} == {step: step + k / 100 for step in range(STEPS)}
            assert len(history) == STEPS


def test_folds_in_parallel_processes_share_one_parent(anywhere):
    processes = [training(anywhere, fold, fingerprint=f"fold-{fold}-{anywhere.name}" * 8) for fold in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    sync.run(anywhere.paths)
    children = [run for fold in range(3) for run in fold_runs(anywhere, f"fold-{fold}-{anywhere.name}")]
    assert len(children) == 3
    assert len({run.data.tags["mlflow.parentRunId"] for run in children}) == 1
    client = anywhere.store.client()
    for run in children:
        assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == [0, 1, 2]


def test_a_server_knows_the_pair_and_its_store_has_no_weights(server, bare_project, monkeypatch):
    uri, s3 = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in ("true_batch_001", "distillation_001"):
        bare_project.train(name, seed=3)
    bare_project.score()
    for _ in range(2):
        register.run(bare_project.config, bare_project.paths)
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert not [key for key in keys if "/models/" in key]
    shutil.rmtree(bare_project.paths.experiments)
    shutil.rmtree(bare_project.paths.state)
    assert set(load_pair(bare_project.paths.pair_pin, bare_project.paths)) == {"true_batch_001", "distillation_001"}
    client = bare_project.store.client()
    for name in (TEACHER, STUDENT, PAIR):
        client.delete_registered_model(name)


def test_copies_of_earlier_releases_go_through_the_server_to_s3_and_back(
    server, bare_project, monkeypatch, register_copies
):
    uri, s3 = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in ("true_batch_001", "distillation_001"):
        bare_project.train(name)
    bare_project.score()
    register_copies(bare_project)
    register.run(bare_project.config, bare_project.paths)
    client = bare_project.store.client()
    for name in (TEACHER, STUDENT, PAIR):
        assert len(client.search_model_versions(f"name = '{name}'")) == 1
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert sum(key.endswith("fold_2/model.safetensors") for key in keys) == 2
    shutil.rmtree(bare_project.paths.experiments)
    shutil.rmtree(bare_project.paths.state)
    pair = load_pair(bare_project.paths.pair_pin, bare_project.paths)
    folders = pair["distillation_001"]
    assert [folder.name for folder in folders] == ["fold_0", "fold_1", "fold_2"]
    copy = folders[0].parent
    copy.rename(copy.with_name(f".{copy.name}.0a1b2c3d.retired"))  # as a kill leaves it
    assert load_pair(bare_project.paths.pair_pin, bare_project.paths) == pair
    assert not list(copy.parent.glob(".*"))
    assert promote(bare_project.paths).version == 1

    # damage in the store is found when it is fetched, and mended from the trained folds
    (key,) = [key for key in keys if "fold_2/model.safetensors" in key][:1]
    s3.put_object(Bucket="mlflow", Key=key, Body=b"nonsense")
    shutil.rmtree(bare_project.paths.state)
    with pytest.raises(TrackingError, match=r"fold_2/model\.safetensors is damaged"):
        load_pair(bare_project.paths.pair_pin, bare_project.paths)
    for name in ("true_batch_001", "distillation_001"):
        bare_project.train(name)
    restore.run(bare_project.config, bare_project.paths)
    assert load_pair(bare_project.paths.pair_pin, bare_project.paths)
