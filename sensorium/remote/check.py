"""Read, write and speed of a remote, tried out in the order in which a push or pull would meet them."""

import contextlib
import hashlib
import io
import os
import random
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sensorium.errors import TransferError
from sensorium.remote.faults import explained, server
from sensorium.remote.objects import TrackedObject, is_damaged, open_object

if TYPE_CHECKING:
    from dvc.data_cloud import Remote

PROBE_BYTES = 8 << 20
"""Size of the object that a write test sends, fetches back and removes."""
SAMPLE_BYTES = 64 << 20
"""At most so much is read of an object that was there before."""


Report = Callable[..., None]
"""Called with what was tried and how it went; `good=False` for a setting that is worth changing."""


def check(
    remote: "Remote", tracked: Sequence[TrackedObject], report: Report, *, read_only: bool, compare: bool = True
) -> None:
    """Try a remote out.

    Args:
        remote: the remote.
        tracked: this project's objects; the first that is there is read.
        report: called with each result.
        read_only: leave the remote as it is.
        compare: refuse a damaged object; False where all of them are compared afterwards.

    Raises:
        TransferError: the first thing that does not work.
    """
    report("reach", _reach(remote))
    report("read", _read_sample(remote, tracked, compare))
    if read_only:
        report("write", "not tried (--read-only)")
    elif remote.fs.protocol in ("http", "https"):
        report("write", "not tried (HTTP remotes are for pulling)")
    else:
        _write(remote, report)
    if remote.odb.verify:
        report("verify", "on: a damaged object is refused when it is pulled")
    else:
        advice = f"Turn it on: dvc remote modify {remote.name} verify true"
        report("verify", f"off: a damaged object would be pulled unseen. {advice}", good=False)


def _reach(remote: "Remote") -> str:
    """Sign in and list a little, as DVC does before every transfer; returns where the remote is."""
    fs, path = remote.fs, str(remote.path)
    if fs.protocol == "s3":
        bucket, _, prefix = path.partition("/")
        with explained(remote, "list"):
            fs.fs.retries = 1
            fs.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return f"s3://{path} at {server(remote)}"
    if fs.protocol == "local":
        if not fs.isdir(path):
            raise TransferError(
                f"remote {remote.name!r}: {path} is no folder.",
                f"Mount or create it, or correct the path: dvc remote modify {remote.name} url FOLDER",
            )
        with explained(remote, "read"), os.scandir(path) as entries:
            next(entries, None)
        return path
    with contextlib.suppress(FileNotFoundError), explained(remote, "read from"):  # a root need not show anything
        fs.cat_file(f"{path.rstrip('/')}/", end=1)
    return path


def _speed(count: int, start: float) -> str:
    seconds = max(time.perf_counter() - start, 1e-9)
    return f"{count / 1e6:.1f} MB at {count / 1e6 / seconds:.0f} MB/s"


def _read_sample(remote: "Remote", tracked: Sequence[TrackedObject], compare: bool) -> str:
    """Fetch an object that is there and, where it is small, compare it with its digest."""
    for item in tracked:
        start = time.perf_counter()
        try:
            with explained(remote, "read from"), open_object(remote, item) as stream:
                content = stream.read(SAMPLE_BYTES)
        except FileNotFoundError:
            continue
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if compare and len(content) < SAMPLE_BYTES and is_damaged(item, digest):
            raise TransferError(
                f"remote {remote.name!r}: object {item.key} is damaged: its content has another MD5.",
                f"Find all that are, and what they hold: sensorium remote check {remote.name} --objects",
            )
        return f"a stored object, {_speed(len(content), start)}"
    return "none of this project's objects is there yet"


def _write(remote: "Remote", report: Report) -> None:
    """Send a probe, fetch it back, compare, and remove it whatever happens."""
    probe = random.Random(0).randbytes(PROBE_BYTES)  # noqa: S311  incompressible, no secret
    path = remote.fs.join(remote.path, f".sensorium-check-{uuid.uuid4().hex}")
    start = time.perf_counter()
    with explained(remote, "write to"):
        remote.fs.put_file(io.BytesIO(probe), path, size=len(probe))
    sent, start = _speed(len(probe), start), time.perf_counter()
    try:
        with explained(remote, "read from"):
            back = remote.fs.cat_file(path)
        fetched = _speed(len(back), start)
    finally:
        with explained(remote, "write to (delete)"):
            remote.fs.rm_file(path)
    if back != probe:
        raise TransferError(
            f"remote {remote.name!r}: what was written came back changed ({len(back)} of {len(probe)} bytes).",
            "Do not store anything there before its operator has found the cause.",
        )
    report("write", f"put and delete, {sent}")
    report("read", f"what was written comes back, {fetched}")
