"""Credentials are known from environment, URLs and DVC's configuration, and masked wherever they stand."""

import re
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from dvc.config_schema import REMOTE_SCHEMAS, SCHEMA

from sensorium.secrets import find, is_secret, redact

PLANTED = "s3cr3t/planted+value"
TOKENS = [
    f"{prefix}{'Ab1Cd2Ef3Gh4' * 3}" for prefix in ("hf_", "ghp_", "github_pat_", "glpat-", "sk-", "sk-proj-", "xoxb-")
]
"""Tokens whose form says so; put together here, so that a patch of this file can be recorded."""


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", PLANTED),
        ("MLFLOW_TRACKING_PASSWORD", PLANTED),
        ("HF_TOKEN", PLANTED),
        ("PGPASSWORD", PLANTED),
        ("MYSQL_PWD", PLANTED),
        ("AZURE_STORAGE_KEY", PLANTED),
        ("AZURE_STORAGE_CONNECTION_STRING", PLANTED),
        ("AZURE_STORAGE_CONNECTION_STRING", f"AccountName=me;AccountKey={PLANTED};EndpointSuffix=core.example"),
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


def test_a_credential_is_masked_where_it_is_percent_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", PLANTED)
    assert redact(f"GET /x?key={quote(PLANTED, safe='')}") == "GET /x?key=***"


def test_a_token_in_the_place_of_a_user_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "0123456789abcdef" * 2
    assert redact(f"clone https://{token}@host/x failed") == "clone https://***@host/x failed"
    assert redact("clone ssh://git@host/x failed") == "clone ssh://git@host/x failed"
    monkeypatch.setenv("PIP_INDEX_URL", f"https://{token}@host/simple")
    assert redact(f"refused: {token}") == "refused: ***"


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_that_is_nowhere_known_is_masked_and_found(token: str) -> None:
    assert redact(f"server says: {token} is wrong") == "server says: *** is wrong"
    assert find(f"+requests.get(url, {token!r})\n") == 1


def options_of_dvc() -> set[str]:
    """Options of remotes, databases and Studio in DVC's own schema."""
    remotes = (option for schema in REMOTE_SCHEMAS.values() for option in schema if option is not str)
    return {str(option) for option in (*remotes, *SCHEMA["studio"], *SCHEMA["db"][str])}


def test_every_option_of_dvc_that_gives_access_is_a_credential() -> None:
    words = r"key|secret|token|pass|credential|connection_string|sas|auth"
    looks_secret = {option for option in options_of_dvc() if re.search(words, option)}
    assert {option for option in looks_secret if not is_secret(option)} == {
        "ask_passphrase",
        "ask_password",
        "auth",
        "bearer_token_command",
        "credentialpath",
        "custom_auth_header",  # the header's name; its value is `password`
        "exclude_environment_credential",
        "exclude_managed_identity_credential",
        "exclude_shared_token_cache_credential",
        "exclude_visual_studio_code_credential",
        "gdrive_user_credentials_file",
        "gss_auth",
        "key_path",
        "keyfile",
        "sse_kms_key_id",
    }
    assert {option for option in options_of_dvc() if is_secret(option)} == {
        "access_key_id",
        "account_key",
        "client_secret",
        "connection_string",
        "gdrive_client_secret",
        "oss_key_id",
        "oss_key_secret",
        "passphrase",
        "password",
        "sas_token",
        "secret_access_key",
        "session_token",
        "sse_customer_key",
        "token",
    }


@pytest.mark.parametrize("option", sorted(filter(is_secret, options_of_dvc())))
def test_options_of_dvc_are_masked(option: str, tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").write_text(f"['remote \"store\"']\n    {option} = {PLANTED}\n")
    assert redact(f"refused: {PLANTED}", tmp_path) == "refused: ***"


@pytest.mark.parametrize(
    "line",
    [
        f"    secret_access_key = {PLANTED}",
        "aws_session_token=abc",
        'KEY = "AKIAABCDEFGHIJKLMNOP"',
        f"HF_TOKEN={TOKENS[0]}",
        f"export AWS_SECRET_ACCESS_KEY={PLANTED}",
        "password: hunter22",
        "password: hunter-two!  # of the database",
        f"  secret_access_key: {PLANTED}",
        '    "password": "swordfish",',
        'password: str = "swordfish"',
        "os.environ['HF_TOKEN'] = 'swordfish'",
        'client.login(password="swordfish")',
        '{"user": "me", "clientSecret": "swordfish"}',
        "      - POSTGRES_PASSWORD=swordfish",
        "ENV MYSQL_PWD=swordfish",
        "PGPASSWORD=sw0rdfish psql --host db",
        "docker run -e HF_TOKEN=sw0rdfish image",
        "curl -H 'x-api-key: 12ab34cd56ef'",
        f"url = https://{TOKENS[1]}@github.com/me/x",
        f"url = https://{'0123456789abcdef' * 2}@github.com/me/x",
        "url = https://me:swordfish@github.com/me/x",
        *(f"-----BEGIN {kind}PRIVATE KEY-----" for kind in ("", "RSA ", "OPENSSH ", "ENCRYPTED ")),
    ],
)
def test_a_credential_is_found_in_a_patch(line: str) -> None:
    assert find(f"diff --git a/x b/x\n@@ -1 +1 @@\n+{line}\n") == 3


@pytest.mark.parametrize(
    "line",
    [
        "tokens: int = 5",
        "max_token=4096",
        "    token: int = 100000",
        "def password(self) -> str:",
        "def password_of(url):",
        "key = value",
        "    token = read_token(url)",
        "    password = urlsplit(url).password",
        'token = os.environ["X"]',
        "token = tokens[0]",
        "    token=token,",
        "    aws_secret_access_key=self.secret,",
        "client.login(password=password, token=args.token)",
        'if token == "abcdefgh":',
        "for token in tokens: print(token)",
        "    password: str",
        "    password: str | None = None",
        "    token: SecretStr = Field(default=None)",
        'TOKEN = "session_token"',
        'token = f"{name}-1"',
        "password: null",
        'password: ""',
        "password: ${PASSWORD}",
        "PASSWORD=$PASSWORD",
        "HF_TOKEN=<token>",
        "export MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD=...",
        "dvc remote modify --local weights secret_access_key SECRET",
        "https://first.last@host/x",
        "token: the token of the hub, 16 characters",
        "-----BEGIN PUBLIC KEY-----",
    ],
)
def test_code_about_credentials_is_no_credential(line: str) -> None:
    assert find(f"+{line}\n") is None


def test_a_placeholder_in_a_url_is_no_credential() -> None:
    addresses = ("user:password@host/x", "USER:PASSWORD@HOST/x", "me:***@host/x", "{user}:{password}@host/x")
    assert find("".join(f"+postgresql+psycopg2://{address}\n" for address in addresses)) is None


@pytest.mark.parametrize(
    "part", ["a.", "token: ", '"token":"', "token:a ", "sk-", "eyJ-", "http://", "http://a:", "AB1+/"]
)
def test_a_long_line_takes_no_time_out_of_proportion(part: str) -> None:
    """Time that grows exponentially would run into the limit of all tests."""
    assert find(part * 50_000) in (None, 1)


@pytest.mark.parametrize("command", ["config --preset", "folds", "weights", "--no-such-option"])
def test_a_message_of_the_command_line_holds_no_password(command: str) -> None:
    shown = subprocess.run(
        ["sensorium", *command.split(), "https://me:hidden@host/x"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 2
    assert "hidden" not in shown.stdout + shown.stderr
