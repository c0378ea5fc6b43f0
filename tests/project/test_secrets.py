"""Credentials are known from environment, URLs and DVC's configuration, and masked wherever they stand."""

import subprocess
from pathlib import Path

import pytest

from sensorium.secrets import find, redact

PLANTED = "s3cr3t/planted+value"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", PLANTED),
        ("MLFLOW_TRACKING_PASSWORD", PLANTED),
        ("HF_TOKEN", PLANTED),
        ("MLFLOW_TRACKING_URI", f"postgresql://me:{PLANTED.replace('/', '%2F')}@db/mlflow"),
    ],
)
def test_a_credential_of_the_environment_is_masked(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    assert redact(f"server says: {PLANTED} is wrong") == "server says: *** is wrong"


def test_a_path_is_no_credential(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path))
    assert redact(f"{tmp_path}: missing") == f"{tmp_path}: missing"


def test_a_token_longer_than_a_file_name_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "t0ken+" * 200
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    assert redact(f"refused: {token}") == "refused: ***"


def test_the_password_of_any_url_is_masked() -> None:
    assert redact("clone https://me:hidden@host/x failed") == "clone https://me:***@host/x failed"
    assert redact("see http://host:5000/a@b") == "see http://host:5000/a@b"


def test_credentials_of_dvc_are_masked(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").write_text(
        f"['remote \"store\"']\n    url = https://me:within-the-url@host/x\n    secret_access_key = {PLANTED}\n"
    )
    assert redact(f"{PLANTED} within-the-url", tmp_path) == "*** ***"
    assert redact(PLANTED) == PLANTED


@pytest.mark.parametrize(
    "line", [f"+    secret_access_key = {PLANTED}", "+aws_session_token=abc", '+KEY = "AKIAABCDEFGHIJKLMNOP"']
)
def test_a_credential_is_found_in_a_patch(line: str) -> None:
    assert find(f"diff --git a/x b/x\n@@ -1 +1 @@\n{line}\n") == 3


def test_code_about_credentials_is_no_credential() -> None:
    assert find("+def password_of(url):\n+    token = read_token(url)\n") is None


def test_a_message_of_the_command_line_holds_no_password() -> None:
    shown = subprocess.run(
        ["sensorium", "config", "--preset", "https://me:hidden@host/x"], capture_output=True, text=True, check=False
    )
    assert shown.returncode != 0
    assert "hidden" not in shown.stdout + shown.stderr
