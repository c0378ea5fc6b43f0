"""The Dockerfile, built for real by buildah on a base that debootstrap makes, and used.

Needs root on Debian and tests/docker/install-services image. The image stays, so that a second run takes seconds:
`pytest -m slow tests/docker/test_image.py`.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("buildah") or not shutil.which("debootstrap"),
        reason="needs root, buildah and debootstrap: tests/docker/install-services image",
    ),
]

BUILD = Path(__file__).parent / "build-image"
MAX_BYTES = {"trainer": 6_000_000_000, "server": 2_000_000_000}
ENVIRONMENT = os.environ | {
    "BUILDAH_ISOLATION": "chroot",
    "STORAGE_DRIVER": os.environ.get("STORAGE_DRIVER", "overlay"),
}


def buildah(*arguments):
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Container:
    """A container of an image, in which commands run as the image's own user."""

    def __init__(self, target):
        self.image = f"localhost/sensorium-test-{target}"
        subprocess.run([BUILD, target, self.image], check=True, env=ENVIRONMENT | {"PYTHON": sys.executable})
        self.name = buildah("from", "--name", f"sensorium-{uuid.uuid4().hex[:8]}", self.image).strip()

    def run(self, line):
        """Run a shell line; what it printed."""
        return buildah("run", "--user", "sensorium", self.name, "--", "sh", "-c", line).strip()

    def bytes(self):
        """Size of the image's layers, as they lie on the disk."""
        manifest = json.loads(json.loads(buildah("inspect", "--type", "image", self.image))["Manifest"])
        return sum(layer["size"] for layer in manifest["layers"])


@contextlib.contextmanager
def container(target):
    made = Container(target)
    try:
        yield made
    finally:
        buildah("rm", made.name)


@pytest.fixture(scope="module")
def server():
    with container("server") as made:
        yield made


@pytest.fixture(scope="module")
def trainer():
    with container("trainer") as made:
        yield made


@pytest.mark.parametrize("name", ["server", "trainer"])
def test_size_and_user(name, request):
    made = request.getfixturevalue(name)
    assert made.bytes() < MAX_BYTES[name]
    assert made.run("id -un") == "sensorium"
    assert made.run("touch /etc/x /opt/venv/x 2>/dev/null || echo refused") == "refused"


def test_server_has_what_the_compose_file_starts_and_no_more(server):
    assert "--app-name" in server.run("mlflow server --help")
    server.run("python -c 'import psycopg2, boto3, flask_wtf' && ls auth.ini make_buckets.py")
    assert server.run("python -c 'import torch' 2>/dev/null || echo none") == "none"


def test_trainer_holds_neither_data_nor_history_nor_keys(trainer):
    assert trainer.run("ls -d docker/.env .dvc/config.local data .venv mlflow.db 2>/dev/null || true") == ""
    assert trainer.run("git log --oneline --all") == ""


def test_trainer_runs_the_smallest_part_of_the_demo(trainer):
    assert "synthesize" in trainer.run("sensorium --help")
    trainer.run("dvc repro --quiet folds")
    assert "up to date" in trainer.run("dvc status folds")
    assert trainer.run("stat --format=%U data/folds") == "sensorium"


def test_trainer_sees_a_mounted_clone_of_any_owner(trainer):
    line = "cd /tmp && git init --quiet clone && cd clone && git status --short && echo fine"
    assert buildah("run", "--user", "4242:4242", trainer.name, "--", "sh", "-c", line).strip().endswith("fine")
