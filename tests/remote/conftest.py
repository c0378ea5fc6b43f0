"""A real S3 API over HTTP on the loopback, small DVC projects, and a socket that never answers."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import requests
from dvc.config import Config
from moto.server import ThreadedMotoServer

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class S3:
    """A running S3 server."""

    endpoint: str
    key = "AKIAIOSFODNN7EXAMPLE"
    secret = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"

    def client(self, service="s3"):
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )

    def check_credentials(self, on):
        """Let the server check signatures and policies from now on, or accept everybody."""
        answer = requests.post(f"{self.endpoint}/moto-api/reset-auth", data="0" if on else "inf", timeout=5)
        answer.raise_for_status()

    def objects(self, bucket="weights"):
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}


@pytest.fixture(scope="session")
def _s3_server():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(_s3_server):
    """An S3 server with one empty bucket, `weights`."""
    requests.post(f"{_s3_server}/moto-api/reset", timeout=5).raise_for_status()
    server = S3(_s3_server)
    server.client().create_bucket(Bucket="weights")
    return server


@pytest.fixture(scope="session")
def clean_environment(tmp_path_factory):
    """A context without credentials, profiles, git or DVC settings of the person who runs the tests."""
    home = tmp_path_factory.mktemp("home")
    wanted = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "dvc"),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{role}_NAME": "Tester" for role in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{role}_EMAIL": "tester@example.org" for role in ("AUTHOR", "COMMITTER")},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }

    @contextlib.contextmanager
    def clean():
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("AWS_", "DVC_", "GIT_"))]:
                patch.delenv(name)
            for name, value in wanted.items():
                patch.setenv(name, value)
            yield

    return clean


@pytest.fixture(autouse=True)
def _clean_environment(clean_environment):
    with clean_environment():
        yield


@dataclass(frozen=True)
class Project:
    """A clone in which commands are typed as a user types them."""

    root: Path

    def run(self, line, check=True, **environment):
        """Run a command line; its exit code and everything it said."""
        done = subprocess.run(
            line.split() if isinstance(line, str) else line,
            cwd=self.root,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        if check:
            assert done.returncode == 0, f"{line}\n{done.stdout}"
        return done

    def remote(self, name, url=None, **options):
        """Add or change a DVC remote; `local_` in front of an option puts it into .dvc/config.local."""
        if url is not None:
            options["url"] = url
        for level in ("repo", "local"):
            own = {key: value for key, value in options.items() if key.startswith("local_") == (level == "local")}
            if own:
                with Config(str(self.root / ".dvc"), validate=False).edit(level, validate=False) as config:
                    entry = config["remote"].setdefault(name, {})
                    entry.update({key.removeprefix("local_"): value for key, value in own.items()})

    def write(self, path, content):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            target.write_text(content)
        return target

    def commit(self, message="change"):
        self.run("git add -A")
        self.run(["git", "commit", "-q", "-m", message])

    def copy(self, to):
        shutil.copytree(self.root, to)
        return Project(to)

    def clone(self, to):
        self.run(["git", "clone", "-q", str(self.root), str(to)])
        return Project(to)


@pytest.fixture(scope="session")
def empty_project(tmp_path_factory, clean_environment):
    """A git repository with DVC and no commit, to be copied."""
    made = Project(tmp_path_factory.mktemp("empty") / "project")
    made.root.mkdir()
    with clean_environment():
        made.run("git init -q -b main")
        made.run("dvc init -q")
    made.write("params.yaml", "seed: 1\n")
    made.write(".gitignore", "/data/\n")
    return made


@pytest.fixture
def project(empty_project, tmp_path):
    """A git repository with DVC, a params.yaml and nothing else."""
    made = empty_project.copy(tmp_path / "project")
    made.commit("start")
    return made


@pytest.fixture
def hanging_endpoint():
    """Address of a socket that accepts connections and never says a word."""
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def dead_endpoint():
    """Address at which nobody listens."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}"
