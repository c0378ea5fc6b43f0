"""Credentials that are planted everywhere reach no byte that commands write or print."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from kills import undisturbed_project
from tiny import ROOT

VARIABLES = {
    "AWS_SECRET_ACCESS_KEY": "planted/variable+of/aws",
    "AWS_SESSION_TOKEN": "planted-session-token",
    "MLFLOW_TRACKING_PASSWORD": "planted-password-of-mlflow",
    "MLFLOW_TRACKING_TOKEN": "planted-token-of-mlflow",
    "HF_TOKEN": "planted-token-of-the-hub",
    "PGPASSWORD": "planted/password-of-postgres",
    "MYSQL_PWD": "planted-password-of-mysql",
    "AZURE_STORAGE_KEY": "planted+key/of-azure",
    "AZURE_STORAGE_CONNECTION_STRING": "AccountName=me;AccountKey=planted-key-in-a-connection-string",
}
TRACKING, REMOTE, KEY, LOCAL, ACCOUNT, CLIENT, SERVICE, GIT, TRACKED = (
    f"planted-{place}"
    for place in (
        "in-tracking",
        "in/remote",
        "access-key-id",
        "secret+of-local",
        "key+of/account",
        "secret-of-client",
        "token-of-web-service",
        "in-git",
        "in-patch",
    )
)
USER = "planted0" * 4
"""A token in the place of a URL's user."""
PLANTED = (*VARIABLES.values(), TRACKING, REMOTE, KEY, LOCAL, ACCOUNT, CLIENT, SERVICE, GIT, TRACKED, USER)
OWN = ("variables.env", ".dvc/config.local", ".git/config")
"""Where they were planted."""
_CLOSED = "127.0.0.1:9"  # nobody listens there
_CONFIG_LOCAL = f"""
['remote "web"']
    url = https://me:{quote(REMOTE, safe="")}@{_CLOSED}/store
['remote "bucket"']
    url = s3://bucket/store
    endpointurl = http://{_CLOSED}
    access_key_id = {KEY}
    secret_access_key = {LOCAL}
['remote "azure"']
    url = azure://container/store
    account_name = me
    account_key = {ACCOUNT}
    client_secret = {CLIENT}
['remote "dav"']
    url = webdavs://{USER}@{_CLOSED}/store
    token = {SERVICE}
"""
TRAIN = "sensorium train -e true_batch_001 -f 0"
PAIR = "distillation_001,true_batch_001"
WITH_SERVER = (TRAIN, "sensorium sync", "sensorium register", "sensorium doctor --json", "sensorium results")
"""Commands whose tracking server does not answer."""
WITHOUT = (
    TRAIN,
    "sensorium predict -e true_batch_001 -s live_test_main",
    "sensorium evaluate",
    "sensorium register",
    "sensorium promote",
    f"sensorium ensemble -e {PAIR} -s live_test_main --pin data/registry/pair.json",
    "sensorium report",
    "sensorium receipt true_batch_001/fold_0",
    "sensorium sync",
    "sensorium doctor --json",
    "sensorium gc",
    "sensorium remote check web",
    "sensorium remote check bucket",
    "sensorium remote check azure",
    "sensorium remote check dav",
    "sensorium run settings --push --remote web",
    "sensorium run settings --push --remote bucket",
    f"sensorium folds https://me:{TRACKING}@host",
    f"sensorium remote check https://{USER}@host",
    f"sensorium evaluate --{VARIABLES['PGPASSWORD']}",
    f"sensorium {quote(VARIABLES['AZURE_STORAGE_KEY'], safe='')}",
    f"sensorium predict -e https://me:{TRACKING}@host -s folds",
    f"sensorium config --preset https://me:{REMOTE}@host",
    "sensorium project install",
    "mlflow run . -e sync --env-manager local",
)
"""Commands with the embedded store; some of them fail."""


class Place:
    """A project, and folders of its own for everything else that a command may write."""

    def __init__(self, root, elsewhere):
        self.root, self.elsewhere, self.printed = root, elsewhere, []
        (elsewhere / "tmp").mkdir(parents=True)

    def type(self, command, **variables):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {
            "PATH": path,
            "PYTHONPATH": str(self.root),
            "HOME": str(self.elsewhere),
            "MLFLOW_ENV_ROOT": str(self.elsewhere / "environments"),
            "TMPDIR": str(self.elsewhere / "tmp"),
            "DVC_SITE_CACHE_DIR": str(self.elsewhere / "site-cache"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "OMP_NUM_THREADS": "1",
            "SENSORIUM_UPLOADER_IDLE_TIMEOUT": "0",
            "SENSORIUM_TRACKING_TIMEOUT": "2",
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        done = subprocess.run(
            command.split(),
            cwd=self.root,
            env=environment | own | VARIABLES | variables,
            capture_output=True,
            timeout=300,
            check=False,
        )
        self.printed.append((command, done.stdout + done.stderr))
        return done.returncode

    def leaks(self):
        """Where a credential stands that was not planted there."""
        forms = {form.encode() for secret in PLANTED for form in (secret, quote(secret, safe=""))}
        written = [
            (str(path.relative_to(folder)), path.read_bytes())
            for folder in (self.root, self.elsewhere)
            for path in folder.rglob("*")
            if path.is_file() and not path.is_symlink() and str(path.relative_to(folder)) not in OWN
        ]
        return sorted(
            f"{name}: {form.decode()}" for name, content in written + self.printed for form in forms if form in content
        )


def git(root, *arguments):
    subprocess.run(["git", "-C", root, "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True)


def plant(root):
    """Put credentials where users have them, and one where they should not."""
    for name in ("MLproject", "python_env.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, root)
    (root / ".gitignore").write_text("/data/\n/.sensorium/\n/mlflow.db\n/mlartifacts/\n/reports/\n__pycache__/\n")
    (root / "variables.env").touch()
    git(root, "init", "--quiet")
    subprocess.run(["dvc", "config", "core.no_scm", "--unset"], cwd=root, check=True, capture_output=True)
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "all")
    git(root, "remote", "add", "origin", f"https://me:{GIT}@{_CLOSED}/project.git")
    (root / ".dvc" / "config.local").write_text(_CONFIG_LOCAL)
    (root / "variables.env").write_text(f"export DB_PASSWORD={TRACKED}\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_credential_reaches_what_commands_write_or_print(tmp_path):
    root = undisturbed_project(tmp_path / "undisturbed")
    plant(root)
    place = Place(root, tmp_path / "elsewhere")
    failed = set()
    for command in WITH_SERVER:
        place.type(command, MLFLOW_TRACKING_URI=f"http://me:{TRACKING}@{_CLOSED}")
    for command in WITHOUT:
        if place.type(command) != 0:
            failed.add(command)
    assert not place.leaks()
    assert not [command for command, output in place.printed if b"Traceback (most recent call last)" in output]
    assert failed < set(WITHOUT)
