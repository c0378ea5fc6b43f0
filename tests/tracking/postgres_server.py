"""A real PostgreSQL in a folder of its own; Debian's `postgresql` package provides the programs."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from flaky_server import free_port, wait_until


def programs():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent


@contextlib.contextmanager
def postgres():
    """Run PostgreSQL on a free port; yields the URI of an empty database; there is another, `served`, for a server."""
    place, prefix = programs(), []
    folder = Path(tempfile.mkdtemp(prefix="sensorium-postgres-", dir="/tmp"))
    if os.geteuid() == 0:  # it refuses to run as root
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    port = free_port()
    initdb = [*prefix, place / "initdb", "--auth=trust", "--username=sensorium", "-D", folder / "data"]
    subprocess.run(initdb, check=True, capture_output=True, cwd="/")
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200"]
    command = [*prefix, place / "postgres", "-D", folder / "data", "-p", str(port), "-k", str(folder), *options]
    login = ["-h", "127.0.0.1", "-p", str(port), "-U", "sensorium"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    try:
        ready = [place / "pg_isready", *login]
        wait_until(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0)
        for name in ("mlflow", "served"):
            subprocess.run([place / "createdb", *login, name], check=True)
        yield f"postgresql+psycopg2://sensorium@127.0.0.1:{port}/mlflow"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        shutil.rmtree(folder)
