"""The compose file, the Dockerfile and what belongs to them say the same, and no secret is in any."""

import fnmatch
import re
import stat
import subprocess

import compose_file
import pytest
from compose_file import DOCKER, ROOT, VARIABLE

SECRET_NAMES = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|TOKEN")
SERVERS = ("postgres", "s3", "mlflow")
GIVEN, OPTIONAL = compose_file.read_env(DOCKER / "env.example")


def test_every_server_is_watched_and_comes_back():
    services = compose_file.tree()["services"]
    for name in SERVERS:
        check = services[name]["healthcheck"]
        assert check["test"][0] == "CMD", name
        assert {"interval", "timeout", "retries"} <= set(check), name
        assert services[name]["restart"] == "unless-stopped", name


def test_nothing_starts_before_what_it_needs():
    services = compose_file.tree()["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            finished = how["condition"] == "service_completed_successfully"
            assert finished or "healthcheck" in services[needed], f"{name} waits for {needed}"
    assert set(services["mlflow"]["depends_on"]) == {"postgres", "buckets"}


def test_every_secret_is_a_required_variable():
    found = 0
    for service in compose_file.tree()["services"].values():
        for key, value in service.get("environment", {}).items():
            if SECRET_NAMES.search(key):
                match = VARIABLE.fullmatch(value)
                assert match, key
                assert match["kind"] == "?", key
                found += 1
    assert found >= 8
    for match in VARIABLE.finditer(compose_file.text()):
        if SECRET_NAMES.search(match["name"]):
            assert match["kind"] == "?", match[0]


def test_variables_are_those_of_the_example():
    required = {m["name"] for m in VARIABLE.finditer(compose_file.text()) if m["kind"] == "?"}
    overlay = (DOCKER / "compose.gpu.yaml").read_text()
    other = {m["name"]: m["text"] for m in VARIABLE.finditer(compose_file.text() + overlay) if m["kind"] == "-"}
    assert required == set(GIVEN)
    assert all(value == "" for value in GIVEN.values())
    assert other == OPTIONAL


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_without_a_secret_nothing_starts(name):
    values = dict.fromkeys(GIVEN, "x") | {name: ""}
    with pytest.raises(compose_file.MissingError, match=f"{name}: run make secrets"):
        compose_file.with_values(values)


def test_images_are_named_by_version():
    for name, service in compose_file.tree()["services"].items():
        if "build" not in service:
            image, _, tag = service["image"].rpartition(":")
            assert image, name
            assert re.search(r"\d", tag), service["image"]


def test_nothing_is_reachable_from_other_machines():
    services = compose_file.with_values(dict.fromkeys(GIVEN, "x"))["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert services["postgres"]["networks"] == ["storage"]
    assert compose_file.tree()["networks"]["storage"] == {"internal": True}


def test_data_outlives_the_containers():
    compose = compose_file.tree()
    named = {v.split(":")[0] for s in compose["services"].values() for v in s.get("volumes", []) if v[0] not in "./"}
    assert named == set(compose["volumes"]) == {"postgres", "s3"}


def test_mlflow_asks_for_a_password_and_checks_the_host():
    command = compose_file.with_values(dict.fromkeys(GIVEN, "x"))["services"]["mlflow"]["command"]
    assert "--app-name=basic-auth" in command
    (hosts,) = [word for word in command if word.startswith("--allowed-hosts=")]
    assert "mlflow:5000" in hosts.split("=")[1].split(",")
    assert "*" not in hosts.split("=")[1].split(",")
    assert not any("password" in word.lower() for word in command)


def test_targets_and_build_arguments_exist_in_the_dockerfile():
    dockerfile = (DOCKER / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE))
    arguments = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    for service in compose_file.tree()["services"].values():
        if build := service.get("build"):
            assert build["target"] in stages
            assert set(build["args"]) <= arguments
            assert (DOCKER / build["context"] / build["dockerfile"]).is_file()


def test_images_run_without_rights():
    dockerfile = (DOCKER / "Dockerfile").read_text()
    for stage in ("server", "trainer"):
        body = dockerfile.split(f" AS {stage}\n")[1].split("\nFROM ")[0]
        assert re.findall(r"^USER (\w+)", body, re.MULTILINE)[-1] == "sensorium", stage


def allowed_in_context(path):
    """Whether .dockerignore lets a path of the repository into the build; the last matching line decides."""
    allowed = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").rstrip("/")
        parents = ["/".join(path.split("/")[: n + 1]) for n in range(path.count("/") + 1)]
        names = [part.split("/")[-1] for part in parents] if pattern.startswith("**/") else parents
        if any(fnmatch.fnmatch(name, pattern.removeprefix("**/")) for name in names):
            allowed = line.startswith("!")
    return allowed


def test_no_secret_data_or_history_reaches_an_image():
    for path in ("docker/.env", ".dvc/config.local", ".git/config", "data/experiments/x", ".venv/bin/pip", "mlflow.db"):
        assert not allowed_in_context(path), path
    assert not allowed_in_context("sensorium/data/__pycache__/raw.pyc")


def test_everything_that_is_copied_or_needed_reaches_it():
    dockerfile = (DOCKER / "Dockerfile").read_text()
    sources = [word for line in re.findall(r"^COPY ([^-].*) \S+$", dockerfile, re.MULTILINE) for word in line.split()]
    assert "requirements.lock" in sources
    needed = ["pyproject.toml", "sensorium/cli/app.py", "params.yaml", "dvc.yaml", "conf/preset/demo.yaml"]
    for path in [*(s for s in sources if not s.startswith("-") and s != "."), *needed]:
        assert (ROOT / path).exists(), path
        assert allowed_in_context(path), path


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path):
    files = tmp_path / "one.env", tmp_path / "two.env"
    for file in files:
        subprocess.run([DOCKER / "make-secrets", file], check=True, stdout=subprocess.DEVNULL)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    one, two = (compose_file.read_env(file)[0] for file in files)
    assert set(GIVEN) <= set(one)
    assert all(len(one[name]) >= 12 and one[name] != two[name] for name in GIVEN)
    compose_file.with_values(one)
    said = subprocess.run([DOCKER / "make-secrets", files[0]], check=True, capture_output=True, text=True).stdout
    assert "left as it is" in said
    assert compose_file.read_env(files[0])[0] == one


def test_git_ignores_the_secrets():
    done = subprocess.run(["git", "check-ignore", "--quiet", "docker/.env"], cwd=ROOT)
    assert done.returncode == 0
