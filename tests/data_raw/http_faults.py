"""A local HTTP server that serves files with ranges, and misbehaves on demand."""

import http.server
import re
import threading
from dataclasses import dataclass, field


@dataclass
class Site:
    """What the server serves, how it misbehaves next, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    """Consumed one a GET: `status CODE`, `drop BYTES`, `stall BYTES`, `length DELTA`, `shift`, `` for none."""
    ranges: bool = True
    sizes: bool = True
    etag: str = '"one"'
    stall_seconds: float = 1.0
    stalled: threading.Event = field(default_factory=threading.Event)
    """Ends all stalls when set."""
    requests: list[str] = field(default_factory=list)
    """Method, path and Range header of every request."""
    address: str = ""

    def gets(self) -> list[str]:
        return [request for request in self.requests if request.startswith("GET")]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_):
        """Keep the tests' output clean."""

    def do_HEAD(self):
        self.site.requests.append(f"HEAD {self.path}")
        body = self.site.files.get(self.path)
        self.send_response(404 if body is None or not self.site.sizes else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()

    def do_GET(self):
        wanted = self.headers.get("Range", "")
        self.site.requests.append(f"GET {self.path} {wanted}".strip())
        fault, _, number = (self.site.faults.pop(0) if self.site.faults else "").partition(" ")
        body = self.site.files.get(self.path)
        if body is None or fault == "status":
            return self._status(404 if fault != "status" else int(number))
        first = self._first(wanted)
        if first is None or first >= len(body) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self._body(body, first, fault, int(number or 0))

    def _first(self, wanted: str) -> int:
        current = self.headers.get("If-Range", self.site.etag) == self.site.etag
        match = re.fullmatch(r"bytes=(\d+)-", wanted)
        return int(match[1]) if match and self.site.ranges and current else 0

    def _status(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        if code in (429, 503):
            self.send_header("Retry-After", "0")
        self.end_headers()

    def _body(self, body: bytes, first: int, fault: str, number: int) -> None:
        rest = body[first:]
        self.send_response(206 if first else 200)
        if first:
            start = first + (1 if fault == "shift" else 0)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.site.sizes:
            self.send_header("Content-Length", str(len(rest) + (number if fault == "length" else 0)))
        self.send_header("ETag", self.site.etag)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if fault in ("drop", "stall"):
            rest = rest[:number]
        self.wfile.write(rest)
        self.wfile.flush()
        if fault == "stall":
            self.site.stalled.wait(self.site.stall_seconds)


class Server:
    """Serves a `Site` on a free port while the context lasts."""

    def __enter__(self) -> Site:
        site = Site()
        handler = type("Handler", (_Handler,), {"site": site})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients that hang up are what is tested
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        site.address = f"http://127.0.0.1:{self._server.server_port}"
        return site

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
