"""Publishing and checking against a second, independent S3 server: OpenStack Swift, or any that the variables name.

Start one (`tests/remote/start-swift FOLDER PORT`, or the compose file's SeaweedFS) and give its address and key:

    S3_TEST_ENDPOINT=http://127.0.0.1:8333 S3_TEST_KEY=... S3_TEST_SECRET=... \
        pytest -m slow tests/remote/test_real_server.py
"""

import os
import uuid

import boto3
import pytest

ENDPOINT = os.environ.get("S3_TEST_ENDPOINT")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ENDPOINT is None, reason="S3_TEST_ENDPOINT names no server"),
]


@pytest.fixture
def bucket(monkeypatch):
    """An empty bucket of the server; removed afterwards."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", os.environ["S3_TEST_KEY"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", os.environ["S3_TEST_SECRET"])
    store = boto3.resource("s3", endpoint_url=ENDPOINT)
    made = store.create_bucket(Bucket=f"sensorium-{uuid.uuid4().hex[:8]}")
    yield made
    for item in made.objects.all():  # one by one: not every server takes the newer form of deleting many at once
        item.delete()
    made.delete()


def test_publish_damage_and_repair(project, bucket, tmp_path):
    weights = project.write("weights/fold_0/model.safetensors", os.urandom(12_000_000))
    project.write("weights/fold_1/model.safetensors", os.urandom(1_000))
    project.run("dvc add -q weights")
    project.remote("weights", f"s3://{bucket.name}/sensorium", endpointurl=ENDPOINT, verify="true")
    project.run("dvc push -q -r weights")
    project.commit("publish")

    user = project.clone(tmp_path / "user")
    user.run("dvc pull -q -r weights")
    pulled = user.root / "weights" / "fold_0" / "model.safetensors"
    assert pulled.read_bytes() == weights.read_bytes()
    assert "3 intact, none damaged" in user.run("sensorium remote check weights --objects").stdout

    (large,) = [item for item in bucket.objects.all() if item.size == 12_000_000]
    bucket.put_object(Key=large.key, Body=b"damaged")
    other = project.clone(tmp_path / "other")
    assert other.run("dvc pull -q -r weights", check=False).returncode != 0
    found = other.run("sensorium remote check weights --read-only --objects", check=False)
    assert "1 damaged object(s)" in found.stdout
    assert "weights/fold_0/model.safetensors" in found.stdout
    user.run("sensorium remote check weights --repair")
    other.run("dvc pull -q -r weights")
    assert (other.root / "weights" / "fold_0" / "model.safetensors").read_bytes() == weights.read_bytes()


def test_faults_have_the_same_names_here(project, bucket):
    project.remote("weights", f"s3://{bucket.name}-missing", endpointurl=ENDPOINT)
    assert "does not exist at" in project.run("sensorium remote check weights", check=False).stdout
    project.remote("weights", f"s3://{bucket.name}")
    wrong = project.run("sensorium remote check weights", check=False, AWS_SECRET_ACCESS_KEY="wrong").stdout
    assert "secret_access_key does not belong to access_key_id" in wrong
    unknown = project.run("sensorium remote check weights", check=False, AWS_ACCESS_KEY_ID="nobody").stdout
    assert "access_key_id" in unknown
    assert "AWS_ACCESS_KEY_ID" in unknown
