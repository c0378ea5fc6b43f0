"""The served model refuses what is too large, too slow or one too many with 4xx, and answers everything else."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from sensorium.registry.server import INVOCATIONS, Limiter, Limits
from sensorium.stages import register

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

import served_model

MEBIBYTE = b" " * 2**20


class Client:
    """One request, sent in parts; `answer` is its status and its body."""

    def __init__(self, *parts, kind=b"application/json", length=None, silent=False):
        self.parts, self.silent, self.sent = list(parts), silent, []
        headers = [(b"content-type", kind)] + ([] if length is None else [(b"content-length", str(length).encode())])
        self.scope = {"type": "http", "path": INVOCATIONS, "method": "POST", "headers": headers}

    async def receive(self):
        if self.silent and not self.parts:
            await asyncio.sleep(60)
        body = self.parts.pop(0) if self.parts else b""
        return {"type": "http.request", "body": body, "more_body": self.silent or bool(self.parts)}

    async def send(self, message):
        self.sent.append(message)

    @property
    def answer(self):
        return self.sent[0]["status"], self.sent[1]["body"]


async def echo(scope, receive, send):
    """An application that answers with the size of the body that it was given."""
    message = await receive()
    await asyncio.sleep(0.05)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(message["body"])).encode()})


def answers(limits, *clients):
    async def all_of_them():
        limiter = Limiter(echo, limits)
        await asyncio.gather(*(limiter(client.scope, client.receive, client.send) for client in clients))

    asyncio.run(all_of_them())
    return [client.answer for client in clients]


def test_a_request_is_passed_on_whole():
    assert answers(Limits(), Client(b"ab", b"cd", b"e")) == [(200, b"5")]


@pytest.mark.parametrize(
    ("client", "status", "reason"),
    [
        (Client(MEBIBYTE, MEBIBYTE, MEBIBYTE), 413, "larger than 2 MiB"),
        (Client(MEBIBYTE, length=3 * 2**20), 413, "--max-megabytes"),
        (Client(b"a,b", kind=b"text/csv"), 415, "Content-Type: 'text/csv' is not understood"),
        (Client(b"{}", kind=b""), 415, "Send JSON"),
        (Client(b"{", silent=True), 408, "did not arrive within 0.1 s"),
    ],
)
def test_what_is_refused_gets_the_reason(client, status, reason):
    ((found, body),) = answers(Limits(megabytes=2, seconds=0.1), client)
    assert found == status
    assert reason in json.loads(body)["message"]
    assert not client.parts, "the client could send everything, so it reads the answer"


def test_more_than_may_wait_are_sent_away():
    found = answers(Limits(at_once=1, waiting=2), *(Client(b"{}") for _ in range(9)))
    assert [status for status, _ in found].count(200) == 3
    assert [status for status, _ in found].count(429) == 6
    assert json.loads(found[-1][1])["message"].startswith("3 other requests are waiting.")


@pytest.mark.slow
def test_every_kind_of_request_is_answered_and_the_server_stays(trained):
    register.run(trained.config, trained.paths)
    model, root = "models:/sensorium-pair/1", trained.paths.root
    count = len(served_model.kinds(served_model.example_of(root, model)))
    outcome, _ = served_model.run(root, "sensorium", model, count=count, clients=4, seed=0, burst=150)
    assert not outcome.faults, "\n".join(outcome.faults)
    assert outcome.answers["at once"].keys() == {200, 429}
