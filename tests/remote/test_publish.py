"""Publishing with DVC itself: a maintainer pushes, a user clones and pulls, and damage on the way is found."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

TOOLS = Path(__file__).parents[2] / "tools"
FOLDS = ("fold_0", "fold_1")

PIPELINE = {
    "stages": {
        "folds": {"cmd": "./ingest data/store", "deps": ["ingest"], "outs": ["data/store"]},
        **{
            f"train_{role}": {
                "foreach": list(FOLDS),
                "do": {
                    "cmd": f"./train data/experiments/{name}/${{item}} data/runs/{name}/${{item}}.json",
                    "deps": ["train", "data/store"],
                    "outs": [f"data/experiments/{name}/${{item}}", f"data/runs/{name}/${{item}}.json"],
                },
            }
            for role, name in (("teacher", "true_batch_001"), ("student", "distillation_001"))
        },
    }
}
INGEST = """#!/bin/sh
mkdir -p "$1"
yes movie | head -c 3000000 > "$1/movie.bin"
"""
TRAIN = """#!/bin/sh
mkdir -p "$1" "$(dirname "$2")"
echo "weights of $1" > "$1/model.safetensors"
echo "{}" > "$1/config.json"
echo "{\\"run\\": \\"$1\\"}" > "$2"
echo trained >> .trainings
"""


@pytest.fixture(scope="session")
def _finished_pipeline(empty_project, tmp_path_factory, clean_environment):
    made = empty_project.copy(tmp_path_factory.mktemp("pipeline") / "project")
    made.write("dvc.yaml", yaml.safe_dump(PIPELINE, sort_keys=False))
    made.write("ingest", INGEST).chmod(0o755)
    made.write("train", TRAIN).chmod(0o755)
    made.write(".gitignore", "/data/\n.trainings\n*.partial\n")
    with clean_environment():
        made.run("dvc repro -q")
    return made


@pytest.fixture
def pipeline(_finished_pipeline, tmp_path):
    """A project whose stages have run: a large store, and four small trained folds."""
    made = _finished_pipeline.copy(tmp_path / "project")
    made.commit("run the pipeline")
    return made


@pytest.fixture
def published(pipeline, s3, monkeypatch):
    """The pipeline, pushed to a bucket whose address is in the tracked configuration and whose key is not."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret)
    pipeline.remote("weights", "s3://weights/sensorium", endpointurl=s3.endpoint, verify="true")
    pipeline.run("dvc remote default weights")
    pipeline.commit("name the remote")
    pipeline.run("dvc push -q")
    return pipeline


def model(project, name="true_batch_001", fold="fold_0"):
    return project.root / "data" / "experiments" / name / fold / "model.safetensors"


def object_of(s3, content):
    """Key of the object in the bucket that has this content."""
    client = s3.client()
    for key in s3.objects():
        if client.get_object(Bucket="weights", Key=key)["Body"].read() == content:
            return key
    raise AssertionError("no such object")


def test_what_is_pushed_is_what_is_pulled(published, tmp_path):
    user = published.clone(tmp_path / "user")
    user.run("dvc pull -q")
    for name in ("true_batch_001", "distillation_001"):
        for fold in FOLDS:
            assert model(user, name, fold).read_bytes() == model(published, name, fold).read_bytes()
    assert "up to date" in user.run("dvc status").stdout
    assert not (user.root / ".trainings").exists()


@pytest.mark.slow
def test_weights_placed_by_hand_are_published_by_commit_and_push(published, tmp_path):
    model(published).write_text("weights from elsewhere")
    published.run("dvc commit -q -f train_teacher")
    published.run("dvc push -q train_teacher")
    published.commit("publish weights")
    user = published.clone(tmp_path / "user")
    user.run("dvc pull -q train_teacher")
    assert model(user).read_text() == "weights from elsewhere"
    assert not model(user, "distillation_001").exists()


def test_damaged_object_is_refused_named_and_repaired(published, s3, tmp_path):
    key = object_of(s3, model(published).read_bytes())
    s3.client().put_object(Bucket="weights", Key=key, Body=b"something else")
    user = published.clone(tmp_path / "user")

    pulled = user.run("dvc pull", check=False)
    assert pulled.returncode != 0
    assert "data/experiments/true_batch_001/fold_0" in pulled.stdout
    assert not model(user).exists()
    assert model(user, fold="fold_1").exists()

    found = user.run("sensorium remote check weights --read-only --objects", check=False)
    assert found.returncode == 1
    assert "data/experiments/true_batch_001/fold_0/model.safetensors" in found.stdout
    assert key.removeprefix("sensorium/") in found.stdout
    assert "--repair" in found.stdout

    hopeless = user.run("sensorium remote check weights --repair", check=False)
    assert hopeless.returncode == 1
    assert "1 damaged object(s)" in hopeless.stdout

    assert "ok   repair" in published.run("sensorium remote check weights --repair").stdout
    user.run("dvc pull -q")
    assert model(user).read_bytes() == model(published).read_bytes()


@pytest.mark.parametrize("fault", ["lost", "a folder", "forbidden"])
def test_objects_that_cannot_be_read_in_a_folder_are_named_and_repaired(pipeline, tmp_path, fault):
    """`dvc push` does not send a file of a folder again whose listing is there."""
    pipeline.remote("share", str(tmp_path / "share"))
    pipeline.run("dvc push -q -r share train_teacher")
    digest = hashlib.md5(model(pipeline).read_bytes()).hexdigest()
    path = tmp_path / "share" / "files" / "md5" / digest[:2] / digest[2:]
    path.unlink()
    if fault == "a folder":
        path.mkdir()
    elif fault == "forbidden":
        path.symlink_to("/proc/self/clear_refs")  # which nobody can read
    found = pipeline.run("sensorium remote check share --read-only --objects", check=False)
    assert found.returncode == 1
    assert f"true_batch_001/fold_0/model.safetensors (files/md5/{digest[:2]}/{digest[2:]})" in found.stdout
    if fault != "forbidden":
        pipeline.run("sensorium remote check share --objects --repair")
        assert path.read_bytes() == model(pipeline).read_bytes()


@pytest.mark.slow
def test_damaged_listing_of_a_folder_is_found_and_named(published, s3, tmp_path):
    folders = [key for key in s3.objects() if key.endswith(".dir")]
    for key in folders:
        s3.client().put_object(Bucket="weights", Key=key, Body=b"[]")
    user = published.clone(tmp_path / "user")
    user.run("dvc pull -q", check=False)  # DVC may end well here, with empty folders: only their digests tell
    assert not model(user).exists()
    assert "not in cache" in user.run("dvc status").stdout
    found = user.run("sensorium remote check weights --read-only --objects", check=False)
    assert f"{len(folders)} damaged object(s)" in found.stdout
    assert "data/experiments/distillation_001/fold_1 (files/md5" in found.stdout


@pytest.mark.slow
def test_objects_that_were_never_pushed_are_counted(pipeline, s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret)
    pipeline.remote("weights", "s3://weights", endpointurl=s3.endpoint)
    pipeline.run("dvc push -q -r weights train_teacher")
    said = pipeline.run("sensorium remote check weights --objects").stdout
    assert "none damaged" in said
    assert "5 not there (never pushed): data/experiments/distillation_001/fold_0" in said


@pytest.mark.slow
def test_wrong_credentials_cost_nothing(published, s3, tmp_path):
    user = published.clone(tmp_path / "user")
    s3.client(service="iam").create_user(UserName="someone")
    s3.check_credentials(True)
    try:
        assert user.run("dvc pull", check=False).returncode != 0
        found = user.run("sensorium remote check weights --read-only", check=False)
    finally:
        s3.check_credentials(False)
    assert "does not know access_key_id" in found.stdout
    user.run("dvc pull -q")
    assert model(user).exists()


def test_full_disk_in_the_middle_of_a_pull(published, tmp_path):
    """The disk is a small memory file system in a namespace of its own, so no privilege is needed."""
    small = tmp_path / "small"
    small.mkdir()
    isolated = ["unshare", "--user", "--map-root-user", "--mount"]
    script = f"""set -e
      mount -t tmpfs -o size=2m tmpfs {small}
      git clone -q {published.root} {small}/user
      cd {small}/user
      git config --global --add safe.directory '*'
      if dvc pull > {tmp_path}/first 2>&1; then exit 90; fi
      mount -o remount,size=20m {small}
      dvc pull > {tmp_path}/second 2>&1
      dvc status > {tmp_path}/status
      cmp data/store/movie.bin {published.root}/data/store/movie.bin"""
    if subprocess.run([*isolated, "mount", "-t", "tmpfs", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("this machine allows no private file system")
    done = subprocess.run([*isolated, "sh", "-c", script], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr + "".join(p.read_text() for p in tmp_path.glob("second"))
    assert "No space left on device" in (tmp_path / "first").read_text()
    assert "up to date" in (tmp_path / "status").read_text()


@pytest.fixture
def embedding(pipeline):
    """The pipeline with an embedded remote in its configuration."""
    pipeline.run("dvc remote add -q -d embedded demo-remote")
    pipeline.remote("embedded", verify="true")
    pipeline.commit("name the embedded remote")
    shutil.copy(TOOLS / "embed-demo", pipeline.root.parent)
    return pipeline


def embed(project, check=True, **environment):
    return project.run(str(project.root.parent / "embed-demo"), check=check, **environment)


def shipped(project):
    return {path.relative_to(project.root) for path in (project.root / "demo-remote").rglob("*") if path.is_file()}


def test_a_clone_carries_all_outputs(embedding, tmp_path):
    assert "../demo-remote" in (embedding.root / ".dvc" / "config").read_text()
    embed(embedding)
    embedding.commit("ship the outputs")
    user = embedding.clone(tmp_path / "user")
    user.run("dvc pull -q")
    assert (
        model(user, "distillation_001", "fold_1").read_bytes()
        == b"weights of data/experiments/distillation_001/fold_1\n"
    )
    user.run("dvc repro -q")
    assert not (user.root / ".trainings").exists()
    assert "up to date" in user.run("dvc status").stdout


@pytest.mark.slow
def test_embedding_again_drops_what_is_no_longer_used(embedding):
    embed(embedding)
    before = shipped(embedding)
    embedding.write("train", TRAIN.replace("weights of", "better weights of"))
    embedding.commit("train better")
    embed(embedding)
    after = shipped(embedding)
    assert len(after) == len(before)
    assert after != before


@pytest.mark.slow
def test_too_much_is_not_shipped(embedding):
    embed(embedding)
    embedding.commit("ship the outputs")
    before = shipped(embedding)
    embedding.write("train", TRAIN.replace("echo trained", "head -c 3000000 /dev/urandom > $1/large; echo trained"))
    embedding.commit("train larger models")
    done = embed(embedding, check=False, MAX_MB="2")
    assert done.returncode == 1
    assert "MB, more than the 2 MB" in done.stdout
    assert shipped(embedding) == before
    assert not list(embedding.root.glob("*.partial"))


@pytest.mark.slow
def test_outputs_that_depend_on_the_machine_are_not_shipped(embedding):
    embedding.write("ingest", INGEST.replace("yes movie", 'yes "movie $OPENBLAS_CORETYPE"')).chmod(0o755)
    embedding.commit("depend on the processor")
    done = embed(embedding, check=False)
    assert done.returncode == 1
    assert "The recordings depend on the processor" in done.stdout
    assert shipped(embedding) == set()


def test_changes_that_are_not_committed_are_not_shipped(embedding):
    embedding.write("train", TRAIN.replace("weights of", "better weights of"))
    done = embed(embedding, check=False)
    assert done.returncode == 1
    assert "not committed" in done.stdout
    assert shipped(embedding) == set()
