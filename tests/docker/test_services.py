"""The compose file's services, started natively with its own commands and variables.

PostgreSQL and MLflow's server are the real ones; the S3 store is moto's server.
Run with `pytest -m slow tests/docker/test_services.py`; `tests/docker/install-services` installs PostgreSQL.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import compose_file
import pytest
import requests
from compose_file import DOCKER
from moto.server import ThreadedMotoServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(ready, process, log, seconds=180):
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()}"
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.3)


@contextlib.contextmanager
def running(command, environment, log, ready, stop=signal.SIGTERM):
    """A server process; all it started ends with it."""
    with log.open("a") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, cwd=log.parent, start_new_session=True
        )
        try:
            wait_until(lambda: ready(process), process, log)
            yield process
        finally:
            process.send_signal(stop)
            try:
                process.wait(60)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@dataclass
class Deployment:
    """Values of docker/.env and the addresses that stand for the services' names."""

    folder: Path
    secrets: dict
    postgres_port: int
    s3_endpoint: str
    mlflow_port: int

    @property
    def url(self):
        return f"http://127.0.0.1:{self.mlflow_port}"

    def service(self, name):
        """A service's command and environment, its neighbours' names replaced by where they are here."""
        service = compose_file.with_values(self.secrets)["services"][name]
        environment = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(self.folder)}
        environment |= service["environment"]
        if "PGHOST" in environment:
            environment |= {"PGHOST": "127.0.0.1", "PGPORT": str(self.postgres_port)}
            environment["MLFLOW_AUTH_CONFIG_PATH"] = str(DOCKER / "auth.ini")
        environment["AWS_ENDPOINT_URL_S3"] = self.s3_endpoint
        here = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={self.mlflow_port}"}
        command = [
            here.get(word, word).replace("make_buckets.py", str(DOCKER / "make_buckets.py"))
            for word in service["command"]
        ]
        return command, environment

    def healthy(self, _):
        """The compose file's own health check of MLflow."""
        check = compose_file.tree()["services"]["mlflow"]["healthcheck"]["test"]
        command = [word.replace(":5000", f":{self.mlflow_port}") for word in check[1:]]
        return subprocess.run(command, env=self.service("mlflow")[1], capture_output=True).returncode == 0

    @contextlib.contextmanager
    def mlflow(self, **changes):
        command, environment = self.service("mlflow")
        log = self.folder / "mlflow.log"
        with running(command, environment | changes, log, self.healthy):
            yield

    @property
    def login(self):
        return "admin", self.secrets["MLFLOW_ADMIN_PASSWORD"]


def postgres_programs():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: tests/docker/install-services")
    return found[-1].parent


def unprivileged():
    """PostgreSQL refuses to run as root: how to run it as its own user there."""
    if os.geteuid() != 0:
        return [], None
    user = pwd.getpwnam("postgres")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user


@pytest.fixture(scope="module")
def postgres(secrets, tmp_path_factory):
    """A PostgreSQL cluster with the compose file's user, database and password; yields its port."""
    programs, (prefix, user) = postgres_programs(), unprivileged()
    folder = Path("/tmp") / f"sensorium-postgres-{os.getpid()}"  # pytest's own folders are closed to other users
    folder.mkdir(mode=0o700)
    settings = compose_file.with_values(secrets)["services"]["postgres"]["environment"]
    password, log, port = folder / "password", folder / "log", free_port()
    password.write_text(settings["POSTGRES_PASSWORD"])
    if user is not None:
        for path in (folder, password):
            os.chown(path, user.pw_uid, user.pw_gid)
    initdb = [programs / "initdb", "--auth=scram-sha-256", f"--username={settings['POSTGRES_USER']}"]
    subprocess.run([*prefix, *initdb, f"--pwfile={password}", "-D", folder / "data"], check=True, capture_output=True)
    login = os.environ | {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": settings["POSTGRES_USER"]}
    login["PGPASSWORD"] = settings["POSTGRES_PASSWORD"]
    server = [*prefix, programs / "postgres", "-D", folder / "data", "-p", str(port), "-k", str(folder)]

    def ready(_):
        check = compose_file.tree()["services"]["postgres"]["healthcheck"]["test"][1:]
        return subprocess.run([programs / check[0], *check[1:]], env=login, capture_output=True).returncode == 0

    try:
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with running([*server, *options], os.environ, log, ready, stop=signal.SIGINT):
            subprocess.run([programs / "createdb", settings["POSTGRES_DB"]], env=login, check=True)
            yield port
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """What `make secrets` writes."""
    file = tmp_path_factory.mktemp("secrets") / "env"
    subprocess.run([DOCKER / "make-secrets", file], check=True, stdout=subprocess.DEVNULL)
    return compose_file.read_env(file)[0]


@pytest.fixture(scope="module")
def deployment(secrets, postgres, tmp_path_factory):
    """Everything but MLflow runs, and the buckets are made as the compose file makes them."""
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    made = Deployment(tmp_path_factory.mktemp("services"), secrets, postgres, f"http://{host}:{port}", free_port())
    command, environment = made.service("buckets")
    for wanted in ("made", "there"):
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        assert f"bucket weights: {wanted}" in done.stdout
    yield made
    store.stop()


@pytest.fixture(scope="module")
def server(deployment):
    """MLflow's server, up and healthy."""
    with deployment.mlflow():
        yield deployment


def experiments(server, login=None, **headers):
    url = f"{server.url}/api/2.0/mlflow/experiments/search?max_results=5"
    return requests.get(url, auth=login, headers=headers, timeout=30).status_code


def test_nobody_comes_in_without_the_password(server):
    assert experiments(server) == 401
    assert experiments(server, ("admin", "password1234")) == 401
    assert experiments(server, server.login) == 200


def test_only_the_allowed_hosts_are_answered(server):
    assert experiments(server, server.login, Host="mlflow:5000") == 200
    assert experiments(server, server.login, Host="evil.example.org") == 403
    assert experiments(server, server.login, Host="mlflow:5001") == 403


CLIENT = """
import sys, mlflow
from pathlib import Path
mlflow.set_experiment("true_batch_001")
with mlflow.start_run() as run:
    mlflow.log_metric("val/correlation", 0.29, step=1)
    Path("weights.bin").write_bytes(b"w" * 100_000)
    mlflow.log_artifact("weights.bin")
back = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="weights.bin", dst_path="back")
assert Path(back).read_bytes() == b"w" * 100_000
print(run.info.run_id)
"""


def log_a_run(server, folder, **changes):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "MLFLOW_TRACKING_URI": server.url,
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": server.secrets["MLFLOW_ADMIN_PASSWORD"],
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    return subprocess.run(
        [sys.executable, "-c", CLIENT], cwd=folder, env=environment | changes, capture_output=True, text=True
    )


def bucket_keys(server):
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.secrets["S3_ACCESS_KEY_ID"],
        aws_secret_access_key=server.secrets["S3_SECRET_ACCESS_KEY"],
    )
    return [entry["Key"] for entry in client.list_objects_v2(Bucket="mlflow").get("Contents", [])]


def test_runs_go_to_postgres_and_artifacts_through_the_server_to_s3(server, tmp_path):
    done = log_a_run(server, tmp_path)
    assert done.returncode == 0, done.stderr
    run = done.stdout.split()[-1]
    assert any(run in key and key.endswith("weights.bin") for key in bucket_keys(server))
    assert not list(server.folder.glob("*.db"))


def test_client_with_a_wrong_password_is_told(server, tmp_path):
    done = log_a_run(server, tmp_path, MLFLOW_TRACKING_PASSWORD="wrong-password")
    assert done.returncode != 0
    assert "401" in done.stderr


def test_server_without_its_database_password_does_not_start(server):
    command, environment = server.service("mlflow")
    command = [word.replace(str(server.mlflow_port), str(free_port())) for word in command]
    wrong = environment | {"PGPASSWORD": "wrong", "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "1"}
    done = subprocess.run(["timeout", "60", *command], env=wrong, capture_output=True, text=True, cwd=server.folder)
    assert done.returncode != 0
    assert "password authentication failed" in done.stderr + done.stdout


def test_everything_is_there_after_a_restart(deployment, tmp_path):
    other = Deployment(tmp_path, deployment.secrets, deployment.postgres_port, deployment.s3_endpoint, free_port())
    with other.mlflow():
        done = log_a_run(other, tmp_path)
        assert done.returncode == 0, done.stderr
        run = done.stdout.split()[-1]
    with other.mlflow():
        url = f"{other.url}/api/2.0/mlflow/runs/get?run_id={run}"
        answer = requests.get(url, auth=other.login, timeout=30)
        assert answer.json()["run"]["data"]["metrics"][0]["value"] == 0.29
