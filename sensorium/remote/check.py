"""Read, write and speed of a remote, tried out in the order in which a push or pull would meet them."""

import hashlib
import io
import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sensorium.errors import TransferError
from sensorium.remote.settings import RemoteSettings
from sensorium.remote.stores import Store, WritableStore

PROBE_BYTES = 8 << 20
"""Size of the object that a write test sends, fetches back and removes."""

SAMPLE_BYTES = 64 << 20
"""At most so much is read of an object that was there before."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    """What was tried: reach, read, write, verify."""
    good: bool
    """False for a setting that is worth changing; faults are raised instead."""
    detail: str


class _Meter:
    """Bytes and the seconds they took."""

    def __init__(self) -> None:
        self.bytes, self.seconds = 0, 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start

    def __str__(self) -> str:
        return f"{self.bytes / 1e6:.1f} MB at {self.bytes / 1e6 / max(self.seconds, 1e-9):.0f} MB/s"


def _join(blocks: Iterable[bytes], meter: _Meter) -> bytes:
    with meter.running():
        content = b"".join(blocks)
    meter.bytes += len(content)
    return content


def _check_write(store: WritableStore, settings: RemoteSettings) -> list[Finding]:
    """Send a probe, fetch it back, compare, and remove it whatever happens."""
    probe = random.Random(0).randbytes(PROBE_BYTES)  # noqa: S311  incompressible, no secret
    key = f".sensorium-check-{uuid.uuid4().hex}"
    sent, fetched = _Meter(), _Meter()
    with sent.running():
        store.write(key, io.BytesIO(probe))
    sent.bytes = len(probe)
    try:
        blocks = store.stream(key)
        back = _join(blocks, fetched) if blocks is not None else b""
    finally:
        store.delete(key)
    if back != probe:
        raise TransferError(
            f"remote {settings.name!r}: what was written came back changed ({len(back)} of {len(probe)} bytes).",
            "Do not store anything there before its operator has found the cause.",
        )
    return [
        Finding("write", True, f"put and delete, {sent}"),
        Finding("read", True, f"what was written comes back, {fetched}"),
    ]


def _check_sample(store: Store, settings: RemoteSettings) -> Finding:
    """Fetch an object that is there and, where it is small, compare it with its digest."""
    key = store.sample()
    blocks = store.stream(key) if key is not None else None
    if key is None or blocks is None:
        return Finding("read", True, "none of this project's objects is there yet")
    meter = _Meter()
    limit = -(-SAMPLE_BYTES // (1 << 20))
    content = _join(itertools.islice(blocks, limit), meter)
    digest = key.rsplit("/", 2)[-2] + key.rsplit("/", 2)[-1].removesuffix(".dir")
    whole = len(content) < SAMPLE_BYTES
    if whole and hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
        raise TransferError(
            f"remote {settings.name!r}: object {key} is damaged: its content has another MD5.",
            f"Find all that are, and what they hold: sensorium remote check {settings.name} --objects",
        )
    return Finding("read", True, f"a stored object, {meter}")


def check(
    store: Store, settings: RemoteSettings, read_only: bool, report: Callable[[Finding], None] | None = None
) -> list[Finding]:
    """Try a remote out.

    Args:
        store: the remote.
        settings: what DVC's configuration says about it.
        read_only: leave the remote as it is.
        report: called with each finding as soon as it is there.

    Returns:
        What worked, and settings worth changing.

    Raises:
        TransferError: the first thing that does not work.
    """
    findings: list[Finding] = []

    def add(*new: Finding) -> None:
        for finding in new:
            findings.append(finding)
            if report:
                report(finding)

    add(Finding("reach", True, store.connect()))
    add(_check_sample(store, settings))
    if read_only:
        add(Finding("write", True, "not tried (--read-only)"))
    elif not isinstance(store, WritableStore):
        add(Finding("write", True, "not tried (HTTP remotes are for pulling)"))
    else:
        add(*_check_write(store, settings))
    if settings.verify:
        add(Finding("verify", True, "on: a damaged object is refused when it is pulled"))
    else:
        advice = settings.set_option("verify", "true")
        add(Finding("verify", False, f"off: a damaged object would be pulled unseen. Turn it on: {advice}"))
    return findings
