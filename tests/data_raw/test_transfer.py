"""Transfers arrive whole over a line that does everything wrong."""

import errno
import threading
from pathlib import Path

import pytest
from http_faults import Server

from sensorium.errors import TransferError
from sensorium.recordings.download import transfer as module
from sensorium.recordings.download.transfer import RetryPolicy, Transfer, probe_size
from sensorium.seeding import generator

BODY = generator(0, "download").bytes(1_000_000)
PATIENT = RetryPolicy(attempts=3, connect_timeout=2, stall_timeout=0.3, first_pause=0, longest_pause=0.01)


@pytest.fixture
def site():
    with Server() as served:
        served.files["/mouse.zip"] = BODY
        yield served


@pytest.fixture
def target(tmp_path):
    return tmp_path / "mouse.zip"


def transfer(site, target, name="mouse.zip", stop=None, seen=None) -> Transfer:
    return Transfer(
        f"{site.address}/{name}",
        target,
        PATIENT,
        lambda done, total: seen.append((done, total)) if seen is not None else None,
        stop or threading.Event(),
    )


def whole(target: Path) -> bool:
    """Whether the file is complete and nothing else lies beside it."""
    return target.read_bytes() == BODY and list(target.parent.iterdir()) == [target]


def test_a_good_line_takes_one_request(site, target):
    seen = []
    transfer(site, target, seen=seen).run()
    assert whole(target)
    assert site.gets() == ["GET /mouse.zip"]
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    "faults",
    [
        ["drop 300000", "drop 200000", "drop 100000", "drop 80000", ""],
        ["stall 300000", ""],
        ["status 500", "status 503", ""],
        ["status 429", ""],
        ["drop 300000", "status 502", ""],
        ["length 5000", ""],
        ["drop 300000", "shift", ""],
    ],
)
def test_passing_faults_are_survived(site, target, faults):
    site.faults = list(faults)
    transfer(site, target).run()
    assert whole(target)


def test_a_dropped_connection_goes_on_where_it_was(site, target):
    site.faults = ["drop 300000", ""]
    transfer(site, target).run()
    second = site.gets()[1]
    offset = int(second.split("bytes=")[1].rstrip("-"))
    assert 200_000 < offset <= 300_000


def test_a_server_without_ranges_starts_over_and_arrives_whole(site, target):
    site.ranges = False
    site.faults = ["drop 600000", ""]
    transfer(site, target).run()
    assert whole(target)


def test_a_server_without_sizes_arrives_whole(site, target):
    site.sizes = False
    assert probe_size(f"{site.address}/mouse.zip", PATIENT) is None
    transfer(site, target).run()
    assert whole(target)


def test_progress_renews_the_patience(site, target):
    site.faults = ["drop 70000"] * 10
    transfer(site, target).run()
    assert whole(target)
    assert len(site.gets()) == 11


def test_a_dead_line_ends_with_what_has_arrived_kept(site, target):
    site.faults = ["drop 300000"] + ["status 500"] * 20
    with pytest.raises(TransferError, match="in 3 attempts, the last one: the server answered 500") as fault:
        transfer(site, target).run()
    arrived = target.with_name("mouse.zip.part").stat().st_size
    assert f"goes on at byte {arrived}" in fault.value.remedy
    assert arrived > 200_000
    assert not target.exists()
    assert len(site.gets()) == 4

    site.faults = []
    transfer(site, target).run()
    assert whole(target)
    assert site.gets()[-1] == f"GET /mouse.zip bytes={arrived}-"


def test_a_server_without_ranges_that_always_drops_is_given_up(site, target):
    site.ranges = False
    site.faults = ["drop 300000"] * 20
    with pytest.raises(TransferError, match="no progress in 3 attempts"):
        transfer(site, target).run()
    assert len(site.gets()) == 4


def test_nobody_listening_is_given_up(target):
    with Server() as site:
        address = site.address
    with pytest.raises(TransferError, match=r"no progress in 3 attempts.*Connection"):
        Transfer(f"{address}/x.zip", target, PATIENT, lambda *_: None, threading.Event()).run()


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_final(site, target, code):
    site.faults = [f"status {code}"]
    with pytest.raises(TransferError, match=f"the server answered {code}") as fault:
        transfer(site, target).run()
    assert len(site.gets()) == 1
    assert "SENSORIUM_DOWNLOAD_URL" in fault.value.remedy
    assert list(target.parent.iterdir()) == []


def test_another_file_under_the_same_name_is_not_mixed_with_the_old(site, target):
    site.faults = ["drop 300000"] + ["status 500"] * 3
    with pytest.raises(TransferError):
        transfer(site, target).run()
    site.files["/mouse.zip"] = BODY[::-1]
    site.etag = '"two"'
    transfer(site, target).run()
    assert target.read_bytes() == BODY[::-1]


def test_a_file_that_shrank_starts_over(site, target):
    site.faults = ["drop 300000"] + ["status 500"] * 3
    with pytest.raises(TransferError):
        transfer(site, target).run()
    site.files["/mouse.zip"] = BODY[:1000]
    transfer(site, target).run()
    assert target.read_bytes() == BODY[:1000]


def test_bytes_of_another_address_are_not_continued(site, target):
    site.files["/other.zip"] = BODY[::-1]
    site.faults = ["drop 300000"] + ["status 500"] * 3
    with pytest.raises(TransferError):
        transfer(site, target, "other.zip").run()
    transfer(site, target).run()
    assert whole(target)


def test_bytes_of_unknown_origin_are_not_continued(site, target):
    target.with_name("mouse.zip.part").write_bytes(b"x" * 500)
    transfer(site, target).run()
    assert whole(target)


def test_a_transfer_killed_before_its_last_rename_needs_no_request(site, target):
    site.faults = ["drop 300000"] + ["status 500"] * 3
    with pytest.raises(TransferError):
        transfer(site, target).run()
    target.with_name("mouse.zip.part").write_bytes(BODY)
    asked = len(site.requests)
    transfer(site, target).run()
    assert whole(target)
    assert len(site.requests) == asked


def test_stopping_keeps_what_has_arrived(site, target):
    stop = threading.Event()
    stop.set()
    with pytest.raises(TransferError, match=r"stopped at byte [1-9]"):
        transfer(site, target, stop=stop).run()
    assert target.with_name("mouse.zip.part").stat().st_size > 0


def test_a_full_disk_is_named(site, target, monkeypatch):
    real = Path.open

    class Full:
        def __init__(self, stream):
            self._stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._stream.close()

        def write(self, chunk):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(
        module.Path, "open", lambda path, mode="r", **more: Full(real(path, mode)) if mode == "ab" else real(path, mode)
    )
    with pytest.raises(TransferError, match=r"mouse.zip.part: cannot be written \(No space left on device\)") as fault:
        transfer(site, target).run()
    assert "Free space" in fault.value.remedy


def test_an_address_that_is_none(target):
    with pytest.raises(TransferError, match="not a valid address"):
        Transfer("http://", target, PATIENT, lambda *_: None, threading.Event()).run()
