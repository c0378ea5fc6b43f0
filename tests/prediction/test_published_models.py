"""`sensorium publish`: a folder that holds all that a user needs, and the places that it can lie in."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import boto3
import numpy as np
import pytest
import requests
import yaml
from hub_server import TOKEN, hub_server
from moto.server import ThreadedMotoServer
from prediction_runs import STUDENT, TEACHER, contents, trial_of

import sensorium
from sensorium.commands import publish
from sensorium.errors import CheckpointError, ConfigError, DataError, TransferError
from sensorium.files import digest_json
from sensorium.hub import hugging_face, publishing
from sensorium.inference.encoding_model import EncodingModel
from sensorium.model import checkpoint
from sensorium.registry.registered import Registered


@pytest.fixture
def licensed(loadable):
    """A project that may be published."""
    (loadable.root / "LICENSE").write_text("MIT License\n\nCopyright\n")
    (loadable.root / "CITATION.cff").write_text("cff-version: 1.2.0\n")
    return loadable


@pytest.fixture
def release(licensed, tmp_path):
    """A published experiment."""
    publish.run(licensed, str(licensed.experiment(TEACHER)), str(tmp_path / "release"))
    return tmp_path / "release"


def rewrite(folder, **changes):
    """Change config.json of a published model, and its digest with it."""
    file = folder / "config.json"
    tree = json.loads(file.read_text()) | changes
    tree["digest"] = digest_json({key: value for key, value in tree.items() if key != "digest"})
    file.write_text(json.dumps(tree))


def test_a_published_model_predicts_as_its_folds_do_without_the_project(licensed, release, stores, tmp_path):
    moved = shutil.move(release, tmp_path / "moved")
    model, original = sensorium.load(moved), sensorium.load(licensed.experiment(TEACHER))
    for store in stores:
        trial = trial_of(store, 0)
        responses = model.predict(**trial)
        assert np.array_equal(responses, original.predict(**trial))
        assert responses.unit_ids.tolist() == store.unit_ids.tolist()
        still = trial | {"behavior": None, "pupil_center": None}
        assert np.array_equal(model.predict(**still), original.predict(**still))
    assert model.settings == original.settings
    assert model.card == (tmp_path / "moved" / "README.md").read_text()


def test_equal_weights_give_equal_bytes(licensed, release, tmp_path):
    publish.run(licensed, str(licensed.experiment(TEACHER)), str(tmp_path / "again"))
    publish.run(licensed, str(release), str(tmp_path / "copy"))  # a published model is passed on as it is
    assert contents(release) == contents(tmp_path / "again") == contents(tmp_path / "copy")


def test_the_card_has_what_the_hub_reads(release, stores):
    front, _, text = (release / "README.md").read_text().removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front)["license"] == "mit"
    assert yaml.safe_load(front)["library_name"] == "sensorium"
    assert "These weights were not evaluated out of fold." in text
    assert all(f"| {store.name} | {store.neurons} |" in text for store in stores)
    config = json.loads((release / "config.json").read_text())
    assert set(config["recordings"]) == {store.name for store in stores}
    assert set(config["files"]) == set(contents(release)) - {"config.json"}


@pytest.mark.parametrize(
    "name", ["mice.json", "README.md", f"{TEACHER}/fold_1/model.safetensors", f"{TEACHER}/fold_0/config.json"]
)
def test_changed_and_missing_files_are_noticed(release, name):
    content = bytearray((release / name).read_bytes())
    content[-2] ^= 1
    (release / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is damaged or was changed"):
        sensorium.load(release)
    (release / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        sensorium.load(release)


def test_a_changed_config_is_noticed(release):
    file = release / "config.json"
    file.write_text(file.read_text().replace('"batch_size": ', '"batch_size": 1'))
    with pytest.raises(CheckpointError, match="the digest does not fit the content"):
        sensorium.load(release)


def test_another_format(release):
    rewrite(release, format=2)
    with pytest.raises(
        CheckpointError, match=r"of format 2, this release reads format 1\.\nType `pip install --upgrade"
    ):
        sensorium.load(release)


@pytest.mark.parametrize("name", ["mice.json", f"{TEACHER}/fold_1/model.safetensors"])
def test_a_file_that_nothing_would_verify(release, name):
    files = json.loads((release / "config.json").read_text())["files"]
    del files[name]
    rewrite(release, files=files)
    with pytest.raises(CheckpointError, match="the list of files lacks some that are needed"):
        sensorium.load(release)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "config.json", "a\\b", ""])
def test_names_that_leave_the_folder(release, name):
    rewrite(release, files={name: "0" * 64})
    with pytest.raises(CheckpointError, match="is no file of the folder"):
        sensorium.load(release)


def test_what_cannot_be_published(licensed, stores, tmp_path):
    target = str(licensed.experiment(TEACHER))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds something else"):
        publish.run(licensed, target, str(tmp_path / "full"))
    with pytest.raises(ConfigError, match="no name of a release"):
        publish.run(licensed, target, str(tmp_path / "out"), revision="../v1")
    with pytest.raises(ConfigError, match="no place of published models"):
        publish.run(licensed, target, "ftp://server/out")
    with pytest.raises(ConfigError, match="names no repository"):
        publish.run(licensed, target, "hf://alone")
    with pytest.raises(ConfigError, match="names no bucket"):
        publish.run(licensed, target, "s3://")
    (licensed.root / "LICENSE").unlink()
    with pytest.raises(ConfigError, match="LICENSE: the file does not exist"):
        publish.run(licensed, target, str(tmp_path / "out"))
    licensed.stores.unlink()
    with pytest.raises(DataError, match="the store does not exist"):
        publish.run(licensed, target, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_revision_stays(licensed, release, tmp_path):
    out = tmp_path / "out"
    publish.run(licensed, str(release), str(out), revision="v1")
    publish.run(licensed, str(release), str(out), revision="v1")
    single = str(licensed.fold(TEACHER, 0))
    with pytest.raises(ConfigError, match="revision 'v1' has another content"):
        publish.run(licensed, single, str(out), revision="v1")
    publish.run(licensed, single, str(out), revision="v2")
    assert len(sensorium.load(out, revision="v1").folds[TEACHER]) == 2
    assert len(sensorium.load(out, revision="v2").folds[TEACHER]) == 1
    publish.run(licensed, single, str(release))  # without a name it is replaced
    assert contents(release) == contents(out / "v2")


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="weights")
    yield boto3.client("s3")
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=5).raise_for_status()
    server.stop()


def test_a_bucket(bucket, licensed, release, stores, tmp_path):
    publish.run(licensed, str(release), "s3://weights/models/pair", revision="v1")
    publish.run(licensed, str(release), "s3://weights/models/pair", revision="v1")
    model = sensorium.load("s3://weights/models/pair", revision="v1")
    trial = trial_of(stores[0], 0)
    assert np.array_equal(model.predict(**trial), sensorium.load(release).predict(**trial))
    with pytest.raises(ConfigError, match="revision 'v1' has another content"):
        publish.run(licensed, str(licensed.fold(TEACHER, 0)), "s3://weights/models/pair", revision="v1")
    with pytest.raises(TransferError, match=r"s3://weights/models/pair/v2/config\.json: there is none"):
        sensorium.load("s3://weights/models/pair", revision="v2")
    with pytest.raises(TransferError, match=r"s3://nowhere/config\.json: there is none"):
        sensorium.load("s3://nowhere")
    with pytest.raises(TransferError, match="Create the bucket"):
        publish.run(licensed, str(release), "s3://nowhere/models")


def test_changed_objects_of_a_bucket_are_never_kept(bucket, licensed, release, tmp_path):
    publish.run(licensed, str(release), "s3://weights/pair")
    key = f"pair/{TEACHER}/fold_0/model.safetensors"
    whole = bucket.get_object(Bucket="weights", Key=key)["Body"].read()
    bucket.put_object(Bucket="weights", Key=key, Body=whole[:-1])
    with pytest.raises(CheckpointError, match=r"s3://weights/pair: .* is damaged or was changed"):
        sensorium.load("s3://weights/pair")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    bucket.put_object(Bucket="weights", Key=key, Body=whole)
    sensorium.load("s3://weights/pair")
    bucket.delete_object(Bucket="weights", Key=key)
    sensorium.load("s3://weights/pair")  # from the cache, named by its digest


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hugging_face, "_PAUSES", (0.0, 0.0))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_server() as (address, content):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield content


def test_the_hub(hub, licensed, release, stores):
    publish.run(licensed, str(release), "hf://lab/pair", revision="v1")
    assert hub.commits["lab/pair"][-1] == contents(release)
    commits = len(hub.commits["lab/pair"])
    publish.run(licensed, str(release), "hf://lab/pair", revision="v1")
    assert len(hub.commits["lab/pair"]) == commits
    publish.run(licensed, str(licensed.fold(TEACHER, 0)), "hf://lab/pair", revision="v2")
    assert not any("fold_1" in name for name in hub.commits["lab/pair"][-1])
    trial = trial_of(stores[0], 0)
    tagged = sensorium.load("hf://lab/pair", revision="v1")
    assert np.array_equal(tagged.predict(**trial), sensorium.load(release).predict(**trial))
    assert len(sensorium.load("hf://lab/pair").folds[TEACHER]) == 1
    with pytest.raises(ConfigError, match="revision 'v1' has another content"):
        publish.run(licensed, str(licensed.fold(TEACHER, 0)), "hf://lab/pair", revision="v1")
    with pytest.raises(TransferError, match="has no such revision"):
        sensorium.load("hf://lab/pair", revision="v3")
    with pytest.raises(TransferError, match="has no such repository"):
        sensorium.load("hf://lab/other")


@pytest.mark.parametrize(
    ("status", "requests_made", "problem"),
    [
        (401, 1, r"refuses access \(401\)"),
        (403, 1, r"refuses access \(403\)"),
        (404, 1, r"has no such repository \(404\)"),
        (429, 3, r"had too many requests \(429\)"),
        (500, 3, "answers 500"),
    ],
)
def test_answers_of_the_hub(hub, licensed, release, status, requests_made, problem, tmp_path):
    publish.run(licensed, str(release), "hf://lab/pair")
    hub.requests.clear()
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
    hub.faults = [status] * 9
    with pytest.raises(TransferError, match=f"hf://lab/pair: http://127.0.0.1.* {problem}"):
        sensorium.load("hf://lab/pair")
    assert len(hub.requests) == requests_made


def test_a_fault_that_passes_is_not_noticed(hub, licensed, release, tmp_path):
    publish.run(licensed, str(release), "hf://lab/pair")
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
    hub.faults = [500, 429]
    assert sensorium.load("hf://lab/pair").readouts


def test_half_a_download_and_changed_bytes_of_the_hub(hub, licensed, release, stores, tmp_path):
    publish.run(licensed, str(release), "hf://lab/pair")
    name = f"{TEACHER}/fold_1/model.safetensors"
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
    hub.half = name
    with pytest.raises(TransferError, match="hf://lab/pair: "):
        sensorium.load("hf://lab/pair")
    hub.half = None
    whole = hub.commits["lab/pair"][-1][name]
    hub.swapped = {name: whole[:-1] + bytes([whole[-1] ^ 1])}
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
    with pytest.raises(CheckpointError, match=f"hf://lab/pair: {name} is damaged or was changed"):
        sensorium.load("hf://lab/pair")
    hub.swapped = {}
    model = sensorium.load("hf://lab/pair")  # the damaged copy is fetched anew
    trial = trial_of(stores[0], 0)
    assert np.array_equal(model.predict(**trial), sensorium.load(release).predict(**trial))


def test_without_a_network_a_model_that_was_fetched_is_loaded(hub, licensed, release, monkeypatch, tmp_path):
    publish.run(licensed, str(release), "hf://lab/pair")
    sensorium.load("hf://lab/pair")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert sensorium.load("hf://lab/pair").readouts
        shutil.rmtree(tmp_path / "hub", ignore_errors=True)
        with pytest.raises(TransferError, match="cannot be reached"):
            sensorium.load("hf://lab/pair")


def test_a_wrong_token(hub, licensed, release, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(TransferError, match=r"refuses access \(401\)"):
        publish.run(licensed, str(release), "hf://lab/pair")
    assert not hub.commits


def test_weights_of_other_neurons_are_not_published(licensed, tmp_path):
    config = licensed.fold(TEACHER, 1) / checkpoint.CONFIG
    tree = json.loads(config.read_text())
    tree["info"]["units"] = dict.fromkeys(tree["info"]["units"], "0" * 64)
    config.write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="has other neurons there than in the data"):
        publish.run(licensed, str(licensed.experiment(TEACHER)), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def evaluate(project, stores, digests):
    """Leave scores of the teacher, and out-of-fold predictions that name the weights they are of."""
    project.evaluation.mkdir(parents=True)
    rows = ["source,mouse,fold,tier,single_trial_correlation"]
    rows += [
        f"{TEACHER},{mouse},{fold},all,{0.1 * number + 0.01 * fold}"
        for number, mouse in enumerate([*(store.name for store in stores), "all"], 2)
        for fold in (0, 1)
    ]
    (project.evaluation / "scores.csv").write_text("\n".join(rows) + "\n")
    parts = [{"weights": {TEACHER: [digest]}} for digest in digests]
    folder = project.predictions(TEACHER, "folds")
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text(json.dumps({"assignments": parts}))


def test_scores_are_those_of_the_published_weights(licensed, stores, tmp_path):
    folds = [licensed.fold(TEACHER, fold) for fold in (0, 1)]
    evaluate(licensed, stores, map(checkpoint.digest, folds))
    publish.run(licensed, str(licensed.experiment(TEACHER)), str(tmp_path / "out"))
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["scores"]
    assert scores[TEACHER]["mice"] == pytest.approx(
        {store.name: 0.1 * number + 0.005 for number, store in enumerate(stores, 2)}
    )
    assert scores[TEACHER]["low"] < scores[TEACHER]["mean"] < scores[TEACHER]["high"]
    assert scores[TEACHER]["mean"] == 0.305
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| {TEACHER} | 0.3050 | " in card
    assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.305
    publish.run(licensed, str(folds[0]), str(tmp_path / "single"))  # of which there are no scores
    assert json.loads((tmp_path / "single" / "scores.json").read_text())["scores"] == {}


def test_a_pair_is_published_with_its_weights_and_score(licensed, tiny_config, stores, monkeypatch, tmp_path):
    folds = {name: [licensed.fold(name, fold) for fold in (0, 1)] for name in (TEACHER, STUDENT)}
    paired = {store.name: {"0": 0.5, "1": 0.6} for store in stores}
    weights = {TEACHER: 0.25, STUDENT: 0.75}
    found = Registered(folds, tiny_config.prediction, weights, paired)
    monkeypatch.setattr(publishing, "find_registered", lambda address, paths: found)
    publish.run(licensed, "models:/sensorium-pair@champion", str(tmp_path / "pair"))
    model = sensorium.load(tmp_path / "pair")
    assert model.weights == weights
    trial = trial_of(stores[0], 0)
    whole = EncodingModel(folds, tiny_config.prediction, weights=weights)
    assert np.array_equal(model.predict(**trial), whole.predict(**trial))
    assert "| ensemble | 0.5500 | 0.5000 to 0.6000 |" in model.card
    assert f"| {STUDENT} | dwiseneuro | 0, 1 | 0.75 |" in model.card


def test_the_notebook_runs(release, tmp_path, monkeypatch, capsys):
    notebook = json.loads((Path(__file__).parents[2] / "docs" / "how-to" / "use-the-model.ipynb").read_text())
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    release.rename("pair")
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["responses"].shape == (names["model"].neurons[names["mouse"]], 90)
    assert names["table"].shape == (90, len(names["responses"].unit_ids))
    assert np.abs(names["change"]).max() > 0
    assert "license: mit" in capsys.readouterr().out


_FRESH = """
import importlib.util, json, sys, time
import numpy as np
import torch
import sensorium
started = time.process_time()
model = sensorium.load(sys.argv[1])
with np.load(sys.argv[2]) as trial:
    responses = model.predict(trial["video"], str(trial["mouse"]), trial["behavior"], trial["pupil_center"])
seconds = time.process_time() - started
np.save(sys.argv[3], responses)
platform = ("dvc", "mlflow", "typer", "pandas", "lightning_fabric")
missing = [name for name in platform if not importlib.util.find_spec(name)]
print(json.dumps({"seconds": seconds, "missing": missing}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_fresh_environment_has_what_predictions_need(release, stores, tmp_path):
    root = Path(__file__).parents[2]
    source = shutil.copytree(root, tmp_path / "source", ignore=_nothing_but_code)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("sensorium-*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True)
    python = tmp_path / "fresh" / "bin" / "python"
    locked = ["--constraint", str(root / "requirements.lock")]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *locked, str(wheel)], check=True)
    trial = trial_of(stores[0], 0)
    np.savez(tmp_path / "trial.npz", **trial)
    files = [release, tmp_path / "trial.npz", tmp_path / "out.npy"]
    done = subprocess.run(
        [python, "-c", _FRESH, *map(str, files)],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]},
    )
    found = json.loads(done.stdout)
    assert found["missing"] == ["dvc", "mlflow", "typer", "pandas", "lightning_fabric"]
    assert found["seconds"] < 3
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), sensorium.load(release).predict(**trial), rtol=1e-5)


def _nothing_but_code(folder, names):
    top = Path(folder) == Path(__file__).parents[2]
    wanted = {"sensorium", "pyproject.toml", "README.md", "LICENSE"}
    return {name for name in names if (top and name not in wanted) or name == "__pycache__"}
