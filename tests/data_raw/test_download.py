"""Downloading mice: what is there stays, what is missing appears whole, hostile zips are refused."""

import hashlib
import io
import json
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import yaml
from http_faults import Server

from sensorium.commands import download
from sensorium.errors import ConfigError, DataError, SensoriumError, TransferError
from sensorium.files import exclusive_lock
from sensorium.paths import Paths
from sensorium.recordings.download import archive as archive_module
from sensorium.recordings.download import mouse as mouse_module
from sensorium.recordings.download.mouse import MIRROR_VARIABLE, require_space, zip_url
from sensorium.recordings.download.transfer import RetryPolicy
from sensorium.recordings.raw import RawMouse

PATIENT = RetryPolicy(attempts=3, connect_timeout=2, stall_timeout=0.3, first_pause=0, longest_pause=0.01)


@pytest.fixture(scope="session")
def zips(raw_dataset, tiny_config) -> dict[str, bytes]:
    """A zip of every mouse as macOS makes them."""
    made = {}
    for mouse in tiny_config.dataset.mice:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted((raw_dataset / mouse).rglob("*")):
                file.write(path, path.relative_to(raw_dataset))
            file.writestr(f"__MACOSX/{mouse}/._data", "litter")
            file.writestr(f"{mouse}/data/.DS_Store", "litter")
            file.writestr(f"{mouse}/data/videos/._0.npy", "litter")
        made[mouse] = content.getvalue()
    return made


@pytest.fixture
def site(zips, monkeypatch):
    with Server() as served:
        served.files = {f"/{mouse}.zip": content for mouse, content in zips.items()}
        monkeypatch.setenv(MIRROR_VARIABLE, served.address)
        yield served


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "data" / "sensorium_all_2023"


@pytest.fixture
def fetch(tiny_config, tmp_path, raw):
    """Run the verb on some mice, all by default."""
    config = tiny_config.model_copy(update={"dataset": tiny_config.dataset.model_copy(update={"raw": str(raw)})})

    def run(*mice: str, **more) -> None:
        download.ensure_mice(config, Paths(tmp_path), list(mice or config.dataset.mice), policy=PATIENT, **more)

    return run


@pytest.fixture
def mouse(tiny_config):
    return next(iter(tiny_config.dataset.mice))


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def downloads(tmp_path: Path) -> set[str]:
    """What waits in the state folder, locks left out."""
    return {name for name in names(tmp_path / ".sensorium" / "downloads") if not name.endswith(".lock")}


def test_all_missing_mice_appear_without_litter(site, fetch, raw, raw_dataset, tiny_config, tmp_path, capsys):
    site.faults = ["drop 100000", "status 500", ""]
    fetch()
    for mouse in tiny_config.dataset.mice:
        assert names(raw / mouse) == names(raw_dataset / mouse) | {"meta/manifest.json"}
        assert RawMouse(raw / mouse).trials == RawMouse(raw_dataset / mouse).trials
    assert {path.name for path in raw.iterdir()} == set(tiny_config.dataset.mice)
    assert downloads(tmp_path) == set()
    assert capsys.readouterr().err.count("downloaded") == len(tiny_config.dataset.mice)


def test_the_manifest_holds_sizes_and_digests(site, fetch, raw, mouse, zips):
    fetch(mouse)
    manifest = json.loads((raw / mouse / "meta/manifest.json").read_text())
    assert manifest["url"] == f"{site.address}/{mouse}.zip"
    assert manifest["zip"] == {"size": len(zips[mouse]), "sha256": hashlib.sha256(zips[mouse]).hexdigest()}
    assert set(manifest["files"]) == names(raw / mouse) - {"meta/manifest.json"}
    for name, entry in manifest["files"].items():
        content = (raw / mouse / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_a_later_run_checks_and_fetches_nothing(site, fetch, raw, mouse, capsys):
    fetch(mouse)
    asked = len(site.requests)
    fetch(mouse)
    assert len(site.requests) == asked
    assert "unchanged since its download" in capsys.readouterr().err


def test_damage_after_the_download_is_found_and_left_alone(site, fetch, raw, mouse):
    fetch(mouse)
    video = raw / mouse / "data/videos/3.npy"
    content = bytearray(video.read_bytes())
    content[-1] ^= 1
    video.write_bytes(content)
    fetch(mouse, quick=True)
    with pytest.raises(DataError, match=r"1 of \d+ files differ.* data/videos/3.npy has another SHA-256"):
        fetch(mouse)
    video.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"data/videos/3.npy has \d+ bytes instead of"):
        fetch(mouse, quick=True)
    video.unlink()
    (raw / mouse / "data/videos/4.npy").unlink()
    with pytest.raises(DataError, match=r"2 of \d+ files differ.* data/videos/3.npy is missing") as fault:
        fetch(mouse)
    assert "Remove the folder" in fault.value.remedy
    assert not video.exists()


def test_a_mouse_placed_by_hand_is_taken_as_it_is(site, fetch, raw, mouse, capsys):
    (raw / mouse).mkdir(parents=True)
    (raw / mouse / "mine").write_text("precious")
    fetch(mouse)
    assert "taken as it is" in capsys.readouterr().err
    assert names(raw) == {f"{mouse}/mine"}
    assert site.requests == []


def test_a_link_to_nowhere_is_refused_before_anything_is_fetched(site, fetch, raw, mouse):
    raw.mkdir(parents=True)
    (raw / mouse).symlink_to("/not/mounted")
    with pytest.raises(DataError, match=rf"{mouse}: a link to /not/mounted, which does not exist.\nMount the disk"):
        fetch(mouse)
    assert site.gets() == []
    assert (raw / mouse).is_symlink()


def test_a_zip_made_from_a_download_brings_no_manifest(site, fetch, raw, mouse, zips, capsys):
    content = io.BytesIO(zips[mouse])
    with zipfile.ZipFile(content, "a") as file:
        file.writestr(f"{mouse}/meta/manifest.json", "{}")
    site.files[f"/{mouse}.zip"] = content.getvalue()
    fetch(mouse)
    manifest = json.loads((raw / mouse / "meta/manifest.json").read_text())
    assert set(manifest["files"]) == names(raw / mouse) - {"meta/manifest.json"}
    fetch(mouse)
    assert "unchanged since its download" in capsys.readouterr().err


def test_a_simulated_mouse_gives_way_to_the_recorded_one(site, fetch, mouse, copy_raw, raw, capsys):
    copy_raw(mouse, to=raw)
    fetch(mouse)
    assert "downloaded in place of the simulated mouse" in capsys.readouterr().err
    assert (raw / mouse / "meta/manifest.json").exists()
    assert not (raw / ".truth" / mouse).exists()
    fetch(mouse)
    assert "unchanged since its download" in capsys.readouterr().err


def test_a_failed_download_leaves_the_simulated_mouse(site, fetch, mouse, copy_raw, raw):
    copy_raw(mouse, to=raw)
    before = names(raw)
    site.files[f"/{mouse}.zip"] = b"<html>Please log in</html>"
    with pytest.raises(TransferError, match="not a mouse's archive"):
        fetch(mouse)
    assert names(raw) == before


def test_a_simulated_mouse_that_was_changed_is_refused(site, fetch, mouse, copy_raw, raw):
    copy_raw(mouse, to=raw)
    (raw / mouse / "data/videos/900.npy").write_text("precious")
    before = names(raw)
    with pytest.raises(DataError, match=r"data/videos/900.npy was not simulated") as fault:
        fetch(mouse)
    assert "If the recordings are yours, remove" in fault.value.remedy
    assert site.gets() == []
    assert names(raw) == before


def test_a_simulated_mouse_that_is_changed_meanwhile_stays(site, fetch, mouse, copy_raw, raw, monkeypatch):
    copy_raw(mouse, to=raw)
    real = mouse_module.unpack

    def unpack(*args):
        (raw / mouse / "mine").write_text("precious")
        return real(*args)

    monkeypatch.setattr(mouse_module, "unpack", unpack)
    with pytest.raises(DataError, match="mine was not simulated"):
        fetch(mouse)
    assert (raw / mouse / "mine").read_text() == "precious"
    assert (raw / ".truth" / mouse).is_dir()


def test_one_mouse_s_fault_does_not_hold_up_the_others(site, fetch, raw, mouse, tiny_config):
    del site.files[f"/{mouse}.zip"]
    with pytest.raises(TransferError, match=rf"{mouse}.zip: the server answered 404"):
        fetch()
    assert {path.name for path in raw.iterdir()} == set(tiny_config.dataset.mice) - {mouse}


def test_several_faults_are_all_told(site, fetch, raw, tiny_config):
    first, second, _ = tiny_config.dataset.mice
    del site.files[f"/{first}.zip"], site.files[f"/{second}.zip"]
    with pytest.raises(TransferError, match="2 of 3 mice could not be provided") as fault:
        fetch()
    assert first in fault.value.problem
    assert second in fault.value.problem


def test_an_interrupted_download_goes_on(site, fetch, raw, mouse, tmp_path):
    site.faults = ["drop 100000"] + ["status 500"] * 3
    with pytest.raises(TransferError, match="no progress"):
        fetch(mouse)
    assert not raw.exists() or names(raw) == set()
    assert downloads(tmp_path) == {f"{mouse}.zip.part", f"{mouse}.zip.part.json"}
    fetch(mouse)
    assert "bytes=" in site.gets()[-1]
    assert RawMouse(raw / mouse).trials


@pytest.mark.parametrize("body", [b"<html>Please log in</html>", b"PK\x03\x04 not really", b""])
def test_what_is_no_zip_is_fetched_twice_and_refused(site, fetch, raw, mouse, body, tmp_path):
    site.files[f"/{mouse}.zip"] = body
    with pytest.raises(TransferError, match="not a mouse's archive: no sound zip"):
        fetch(mouse)
    assert len(site.gets()) == 2
    assert not (raw / mouse).exists()
    assert downloads(tmp_path) == set()


def test_a_length_that_is_too_small_is_found_by_the_archive(site, fetch, raw, mouse, zips):
    site.faults = ["length -5000", ""]
    fetch(mouse)
    assert RawMouse(raw / mouse).trials


def test_a_flipped_bit_is_found_by_the_checksum(site, fetch, raw, mouse, zips, tmp_path):
    content = bytearray(zips[mouse])
    content[len(content) // 3] ^= 0x10
    site.files[f"/{mouse}.zip"] = bytes(content)
    with pytest.raises(TransferError, match=r"not a mouse's archive: .*damaged"):
        fetch(mouse)
    assert names(raw) == set()
    assert downloads(tmp_path) == set()
    site.files[f"/{mouse}.zip"] = zips[mouse]
    fetch(mouse)


def hostile(change) -> bytes:
    """A zip with a landmark and whatever `change` adds."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("meta/trials/tiers.npy", b"x")
        change(file)
    return content.getvalue()


def link(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


def encrypted(file: zipfile.ZipFile) -> None:
    file.writestr("secret", b"x")
    file.infolist()[-1].flag_bits |= 1


HOSTILE = {
    "reaches outside": [
        lambda f: f.writestr("../../evil", b"x"),
        lambda f: f.writestr("/tmp/evil", b"x"),
        lambda f: f.writestr("data/../../../evil", b"x"),
        lambda f: f.writestr("data\\..\\evil", b"x"),
        lambda f: f.writestr("C:/evil", b"x"),
    ],
    "is a link or a special file": [
        lambda f: f.writestr(link("data", stat.S_IFLNK), "/etc"),
        lambda f: f.writestr(link("fifo", stat.S_IFIFO), ""),
        lambda f: f.writestr(link("__MACOSX/data", stat.S_IFLNK), "/etc"),
    ],
    "is encrypted": [encrypted],
    "is taken twice": [
        lambda f: (f.writestr("data/a", b"1"), f.writestr("data/./a", b"2")),
        lambda f: (f.writestr("data", b"1"), f.writestr("data/a", b"2")),
        lambda f: (f.writestr("data/a/b", b"1"), f.writestr("data/a", b"2")),
    ],
    "too long or not printable": [
        lambda f: f.writestr("a" * 300, b"x"),
        lambda f: f.writestr("a/" * 2500 + "b", b"x"),
        lambda f: f.writestr("data/\x1b[31m", b"x"),
    ],
    "holds 2 raw mice": [lambda f: f.writestr("other/meta/trials/tiers.npy", b"x")],
}


@pytest.mark.parametrize(("message", "change"), [(m, c) for m, changes in HOSTILE.items() for c in changes])
def test_hostile_members_are_refused(site, fetch, raw, mouse, message, change, tmp_path):
    site.files[f"/{mouse}.zip"] = hostile(change)
    before = set(tmp_path.parent.iterdir())
    with pytest.raises(TransferError, match=message):
        fetch(mouse)
    assert names(raw) == set()
    assert downloads(tmp_path) == set()
    assert set(tmp_path.parent.iterdir()) == before
    assert not Path("/tmp/evil").exists()


def test_another_mouse_or_none_is_refused(site, fetch, raw, mouse):
    for name, message in (
        ("M/meta/trials/tiers.npy", f"holds the mouse M, expected {mouse}"),
        ("a", "holds 0 raw mice"),
    ):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            file.writestr(name, b"x")
        site.files[f"/{mouse}.zip"] = content.getvalue()
        with pytest.raises(TransferError, match=message):
            fetch(mouse)


def test_bombs_are_refused_before_unpacking(site, fetch, raw, mouse, monkeypatch):
    monkeypatch.setattr(archive_module, "LARGEST_MOUSE", 1 << 20)
    site.files[f"/{mouse}.zip"] = hostile(lambda f: f.writestr("zeros", bytes(8 << 20)))
    with pytest.raises(TransferError, match=r"more than any mouse holds"):
        fetch(mouse)
    monkeypatch.setattr(archive_module, "MOST_FILES", 10)
    site.files[f"/{mouse}.zip"] = hostile(lambda f: [f.writestr(str(i), b"") for i in range(20)])
    with pytest.raises(TransferError, match="21 files"):
        fetch(mouse)
    assert names(raw) == set()


def test_a_member_never_writes_more_than_it_announced(site, fetch, raw, mouse):
    """A bomb that lies about its size: the announced bytes are cut off and the checksum fails."""
    size = 8_765_432
    content = hostile(lambda f: f.writestr("zeros", bytes(size)))
    assert content.count(size.to_bytes(4, "little")) == 2
    site.files[f"/{mouse}.zip"] = content.replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    with pytest.raises(TransferError, match="zeros is damaged"):
        fetch(mouse)
    assert names(raw) == set()


def test_disk_space_is_checked_first(site, fetch, raw, mouse, monkeypatch, zips):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(mouse_module.shutil, "disk_usage", lambda _: usage._replace(free=len(zips[mouse])))
    with pytest.raises(TransferError, match=r"downloading 1 mice needs .* GiB here") as fault:
        fetch(mouse)
    assert "dataset.raw" in fault.value.remedy
    assert site.gets() == []

    monkeypatch.setattr(mouse_module.shutil, "disk_usage", lambda _: usage._replace(free=3 * len(zips[mouse])))
    with pytest.raises(TransferError, match=f"unpacking {mouse} needs"):
        fetch(mouse)
    assert not (raw / mouse).exists()
    monkeypatch.undo()
    monkeypatch.setenv(MIRROR_VARIABLE, site.address)
    asked = len(site.gets())
    fetch(mouse)
    assert len(site.gets()) == asked, "the zip that is here is not fetched again"


def test_needs_on_one_disk_add_up(tmp_path, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(mouse_module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    require_space({tmp_path / "a": 400, tmp_path / "b": 400}, "testing")
    with pytest.raises(TransferError, match="testing needs"):
        require_space({tmp_path / "a": 600, tmp_path / "b": 600}, "testing")


def test_a_second_process_is_told(site, fetch, mouse, tmp_path):
    with (
        exclusive_lock(tmp_path / ".sensorium/downloads" / f"{mouse}.lock", SensoriumError("held")),
        pytest.raises(TransferError, match="another process is downloading it"),
    ):
        fetch(mouse)


def test_the_command_can_be_interrupted_and_goes_on(site, raw, mouse, tiny_config, tmp_path):
    tree = tiny_config.model_dump(mode="json")
    tree["dataset"]["raw"] = str(raw)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    command = [sys.executable, "-c", "from sensorium.cli import main; main()", "download", "-m", mouse]
    site.faults = ["stall 300000"]
    site.stall_seconds = 60
    part = tmp_path / ".sensorium" / "downloads" / f"{mouse}.zip.part"
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 200_000) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        site.stalled.set()
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert b"Traceback" not in error
    arrived = part.stat().st_size
    assert not (raw / mouse).exists()

    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    assert site.gets()[-1].endswith(f"bytes={arrived}-")
    assert RawMouse(raw / mouse).trials


def test_leftovers_of_a_killed_run_are_removed(site, fetch, raw, mouse):
    (raw / f".{mouse}.0.partial" / "data").mkdir(parents=True)
    fetch(mouse)
    assert [path.name for path in raw.iterdir()] == [mouse]


def test_a_mouse_that_appears_meanwhile_is_not_overwritten(site, fetch, raw, mouse, monkeypatch):
    real = mouse_module.unpack

    def unpack(*args):
        (raw / mouse).mkdir(parents=True)
        (raw / mouse / "mine").write_text("precious")
        return real(*args)

    monkeypatch.setattr(mouse_module, "unpack", unpack)
    with pytest.raises(TransferError, match="appeared while the mouse was downloaded"):
        fetch(mouse)
    assert names(raw) == {f"{mouse}/mine"}


def test_stopping_while_unpacking_leaves_nothing(site, tiny_config, raw, mouse, tmp_path):
    stop = threading.Event()
    request = mouse_module.DownloadRequest(
        mouse, f"{site.address}/{mouse}.zip", raw / mouse, tmp_path / "state", PATIENT
    )

    def on_progress(phase, done, total):
        if phase == "unpacking":
            stop.set()

    with pytest.raises(TransferError, match="stopped while unpacking"):
        mouse_module.ensure_mouse(request, on_progress, stop)
    assert names(raw) == set()
    assert (tmp_path / "state" / f"{mouse}.zip").exists()


def test_the_published_addresses(monkeypatch, mouse):
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    assert zip_url("m", "new") == "https://gin.g-node.org/pollytur/sensorium_2023_dataset/raw/master/m.zip"
    assert zip_url("m", "old") == "https://gin.g-node.org/pollytur/Sensorium2023Data/raw/master/m.zip"
    monkeypatch.setenv(MIRROR_VARIABLE, "https://mirror.example/mice/")
    assert zip_url("m", "old") == "https://mirror.example/mice/m.zip"
    monkeypatch.setenv(MIRROR_VARIABLE, "/local/folder")
    with pytest.raises(ConfigError, match="no HTTP address"):
        zip_url("m", "old")
