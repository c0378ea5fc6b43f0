"""A real `mlflow server` behind a proxy that fails on demand."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def mlflow_server(folder, backend, artifacts=None):
    """Run `mlflow server` on a free port; yields the port."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    destination = artifacts or str(folder / "artifacts")
    command += ["--backend-store-uri", backend, "--artifacts-destination", destination]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 240)
            yield port
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)


def answers(url):
    """Whether a server says that it is well."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def wait_until(condition, seconds=60):
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


class Proxy:
    """Forwards connections to a port; `mode` says how well.

    up: as it should; down: connections are refused; deaf: requests arrive, their answers are lost;
    slow: every answer takes `delay` seconds.
    """

    def __init__(self, target):
        self.target, self.mode, self.delay, self.lost = target, "up", 0.5, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError), client:
            if self.mode == "down":
                return
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                requests = threading.Thread(target=self._requests, args=(client, server), daemon=True)
                requests.start()
                with contextlib.suppress(OSError):
                    self._reply(client, server)
                for end in (client, server):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                requests.join()  # it uses both sockets

    def _reply(self, client, server):
        while data := server.recv(1 << 16):
            if self.mode == "deaf":
                self.lost += 1
                return
            if self.mode == "slow":
                time.sleep(self.delay)
            client.sendall(data)

    def _requests(self, client, server):
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                if self.mode == "down":
                    break
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
