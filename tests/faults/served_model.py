"""A campaign of requests: what a served model answers to good and bad ones, and how much memory its server takes.

    python tests/faults/served_model.py PROJECT --count 10000 --clients 8 [--seed 0] [--server mlflow]

PROJECT is one in which a pair is registered. Its model is served on a port of the loopback address, by
`sensorium serve` or by `mlflow models serve`. Clients send requests drawn from a seed, each waiting for its answer; in
between, a thousand are sent at once. Every answer must be 2xx or 4xx with its reason, a good request must be answered
with 200 (or 429 where it is one too many), the server must answer at the end, and its memory must not grow.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from rich.console import Console

from sensorium.paths import Paths
from sensorium.tracking.store import TrackingStore

BURST = 1000
HUGE_MEGABYTES = 64
"""Size of the huge request, twice what the server takes."""
JSON = "application/json"
_SHORTEST_REASON = 20
_START_SECONDS = 600
_Body = bytes | Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True)
class Kind:
    """A kind of request."""

    body: _Body
    expected: tuple[int, ...] = (400,)
    content_type: str = JSON


def kinds(example: dict[str, Any]) -> dict[str, Kind]:
    """Good and bad requests, by name.

    Args:
        example: a good request, as the version keeps one.
    """
    inputs, params = example["inputs"], example["params"]
    many = len(inputs["behavior"][0])

    def changed(**values: Any) -> bytes:
        return json.dumps({"inputs": inputs | values, "params": params}).encode()

    def with_params(**values: Any) -> bytes:
        return json.dumps({"inputs": inputs, "params": params | values}).encode()

    async def huge() -> AsyncIterator[bytes]:
        yield b'{"inputs": {"video": ['
        for _ in range(HUGE_MEGABYTES):
            yield b"0.125," * (2**20 // 6)
        yield b"0]}}"

    good = json.dumps(example).encode()
    return {
        "good": Kind(good, (200,)),
        "good, one model": Kind(with_params(model="student"), (200,)),
        "tuning": Kind(with_params(experiment="tuning", neuron=1), (200,)),
        "NaN": Kind(changed(behavior=[[float("nan")] * many] * 2)),
        "infinity": Kind(changed(pupil_center=[[float("inf")] * many] * 2)),
        "too large a number": Kind(changed(behavior=[[10**400] * many] * 2)),
        "number of 5,000 digits": Kind(good.replace(b'"params"', b'"x": ' + b"1" * 5000 + b', "params"')),
        "negative sizes": Kind(changed(behavior={"shape": [-1, 2], "data": []})),
        "negative neuron": Kind(with_params(experiment="tuning", neuron=-1)),
        "ragged": Kind(changed(behavior=[[1, 2], [1]])),
        "no frames": Kind(changed(video=[[[]]], behavior=[[], []], pupil_center=[[], []])),
        "one frame": Kind(changed(video=[[[1.0]]], behavior=[[0.0]] * 2, pupil_center=[[0.0]] * 2)),
        "other shapes": Kind(changed(behavior=[[0.0] * (many - 1)] * 2)),
        "larger than the canvas": Kind(changed(video=[[[0.0] * many] * 100])),
        "words": Kind(changed(behavior=[["a"] * many] * 2)),
        "objects": Kind(changed(video=[{}])),
        "null": Kind(changed(video=None)),
        "wrong mouse": Kind(with_params(mouse="mickey")),
        "mouse is a number": Kind(with_params(mouse=3)),
        "params is a list": Kind(json.dumps({"inputs": inputs, "params": [1]}).encode()),
        "inputs is a word": Kind(b'{"inputs": "abc"}'),
        "no inputs": Kind(b"{}"),
        "a table": Kind(b'{"dataframe_split": {"columns": ["a"], "data": [[1]]}}'),
        "prompts": Kind(b'{"messages": [{"role": "user", "content": "hello"}]}'),
        "truncated": Kind(good[: len(good) // 2]),
        "empty": Kind(b""),
        "not JSON": Kind(bytes(range(256)) * 16),
        "nested 100,000 deep": Kind(b"[" * 100_000),
        "nested 500 deep": Kind(b'{"inputs": ' + b"[" * 500 + b"]" * 500 + b"}"),
        "CSV": Kind(b"a,b\n1,2\n", (400, 415), "text/csv"),
        "Parquet": Kind(b"PAR1", (400, 415), "application/vnd.apache.parquet"),
        "unknown type": Kind(good, (415,), "text/plain"),
        "other characters": Kind(good, (400, 415), f"{JSON}; charset=latin-1"),
        "huge": Kind(huge, (413,)),
    }


_WEIGHTS = {"good": 10.0, "good, one model": 4.0, "huge": 0.05, "tuning": 0.2}
"""How often a kind is drawn, relative to 1."""


@dataclass
class Outcome:
    """What a campaign saw."""

    answers: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Statuses by kind of request."""
    faults: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    """Resident bytes of the server's processes, every half second."""
    seconds: float = 0.0

    def judge(self, name: str, kind: Kind, status: int, body: bytes, more: tuple[int, ...] = ()) -> None:
        """Note an answer, and what is wrong with it."""
        self.answers[name][status] += 1
        if status not in (*kind.expected, *more):
            self.faults.append(f"{name}: {status} {body[:300]!r}")
        elif status != 200:
            reason = body.decode(errors="replace")
            with contextlib.suppress(ValueError):  # MLflow answers some with plain text
                reason = json.loads(body)["message"]
            if len(reason) < _SHORTEST_REASON or "unexpected error" in reason:
                self.faults.append(f"{name}: {status} without a reason: {body[:300]!r}")


class Server:
    """A served model and its processes."""

    def __init__(self, project: Path, program: str, model: str, log: Path) -> None:
        """Start it; it is ready when `/ping` answers."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        scripts = Path(sys.executable).parent
        words = {
            "sensorium": ["sensorium", "serve", "-m", model, "-p", str(port)],
            "mlflow": ["mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-p", str(port)],
        }[program]
        self.url, self._log = f"http://127.0.0.1:{port}", log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(scripts / words[0]), *words[1:]],
                cwd=project,
                env=os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether its first process is there."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text(errors="replace")

    def resident(self) -> int:
        """Bytes of memory of all of its processes."""
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self._process.pid)
            return sum(process.memory_info().rss for process in (root, *root.children(recursive=True)))
        return 0

    def close(self) -> None:
        """End it and what it started."""
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


async def _send(session: aiohttp.ClientSession, url: str, kind: Kind) -> tuple[int, bytes]:
    body = kind.body() if callable(kind.body) else io.BytesIO(kind.body)
    async with session.post(url, data=body, headers={"Content-Type": kind.content_type}) as reply:
        return reply.status, await reply.read()


async def campaign(
    server: Server, drawn: list[str], known: dict[str, Kind], clients: int, burst: int, seconds: float
) -> Outcome:
    """Send requests, with a burst after half of them, or of the time."""
    outcome, url, begin = Outcome(), f"{server.url}/invocations", time.monotonic()
    queue = list(reversed(drawn))

    async def sample() -> None:
        while True:
            outcome.resident.append(server.resident())
            await asyncio.sleep(0.5)

    async def client(session: aiohttp.ClientSession, until: int, deadline: float) -> None:
        while len(queue) > until and time.monotonic() < deadline:
            name = queue.pop()
            try:
                outcome.judge(name, known[name], *await _send(session, url, known[name]), more=(429,))
            except aiohttp.ClientError as fault:
                outcome.faults.append(f"{name}: {fault!r}")

    timeout, connector = aiohttp.ClientTimeout(total=600), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await _ready(session, server)
        sampler = asyncio.create_task(sample())
        for until in (len(queue) // 2, 0):
            deadline = begin + seconds / (2 if until else 1)
            await asyncio.gather(*(client(session, until, deadline) for _ in range(clients)))
            if until:
                replies = await asyncio.gather(
                    *(_send(session, url, known["good"]) for _ in range(burst)), return_exceptions=True
                )
                for reply in replies:
                    if isinstance(reply, BaseException):
                        outcome.faults.append(f"burst: {reply!r}")
                    else:
                        outcome.judge("at once", known["good"], *reply, more=(429,))
        outcome.judge("at the end", known["good"], *await _send(session, url, known["good"]))
        sampler.cancel()
    outcome.seconds = time.monotonic() - begin
    return outcome


async def _ready(session: aiohttp.ClientSession, server: Server) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while server.running and time.monotonic() < deadline:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{server.url}/ping") as reply:
                if reply.status == 200:
                    return
        await asyncio.sleep(0.2)
    raise SystemExit(f"the server did not start:\n{server.log[-2000:]}")


def example_of(project: Path, model: str) -> dict[str, Any]:
    """The request that a registered model keeps as its example."""
    from mlflow.artifacts import load_dict

    with TrackingStore.of(Paths(project)).in_force():
        return dict(load_dict(f"{model}/serving_input_example.json"))


def run(
    project: Path,
    program: str,
    model: str,
    count: int,
    clients: int,
    seed: int,
    burst: int = BURST,
    seconds: float = 7200,
) -> tuple[Outcome, str]:
    """Serve, send for so many seconds at most, end; returns what was seen, and what the server wrote."""
    known = kinds(example_of(project, model))
    weights = np.array([_WEIGHTS.get(name, 1.0) for name in known])
    drawn = np.random.default_rng(seed).choice(list(known), count, p=weights / weights.sum()).tolist()
    drawn[: len(known)] = list(known)[:count]  # each kind at least once
    with tempfile.TemporaryDirectory() as folder:
        server = Server(project, program, model, Path(folder) / "log")
        try:
            outcome = asyncio.run(campaign(server, drawn, known, clients, burst, seconds))
            if not server.running:
                outcome.faults.append("the server ended")
        finally:
            server.close()
        log = server.log
    if "Traceback (most recent call last)" in log:
        outcome.faults.append(f"a traceback in the log: {log[log.index('Traceback') :][:2000]}")
    return outcome, log


def report(outcome: Outcome) -> Iterator[str]:
    """A table in Markdown: statuses by kind of request."""
    statuses = sorted({status for counts in outcome.answers.values() for status in counts})
    yield f"| request | {' | '.join(map(str, statuses))} |"
    yield "|---|" + "---:|" * len(statuses)
    for name, counts in outcome.answers.items():
        yield f"| {name} | {' | '.join(str(counts[status] or '') for status in statuses)} |"


def main() -> None:
    """Run a campaign; exit code 1 where an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", choices=("sensorium", "mlflow"), default="sensorium")
    parser.add_argument("--model", default="models:/sensorium-pair/1")
    parser.add_argument("--minutes", type=float, default=120, help="send nothing new after that time")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    project = options.project.resolve()
    outcome, _ = run(
        project,
        options.server,
        options.model,
        options.count,
        options.clients,
        options.seed,
        seconds=60 * options.minutes,
    )
    lines = list(report(outcome))
    resident = np.array(outcome.resident) / 2**20
    tenth = max(len(resident) // 10, 1)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print("\n".join(lines))
    console.print(f"{sum(map(Counter.total, outcome.answers.values()))} requests in {outcome.seconds:.0f} s")
    console.print(
        "memory, MiB, mean of each tenth: " + " ".join(f"{part.mean():.0f}" for part in np.array_split(resident, 10))
    )
    console.print(f"largest {resident.max():.0f} MiB, last {resident[-tenth:].mean():.0f} MiB")
    for fault in outcome.faults[:20]:
        console.print(fault)
    console.print(f"{len(outcome.faults)} faults")
    if options.table:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(bool(outcome.faults))


if __name__ == "__main__":
    main()
