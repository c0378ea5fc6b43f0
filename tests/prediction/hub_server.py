"""The part of the Hugging Face hub's API that its client uses for models, on the loopback, with faults to order.

https://huggingface.co/docs/hub/api
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_testing"


class Hub:
    """Repositories by name: commits, newest last, and tags."""

    def __init__(self):
        self.commits, self.tags, self.requests = {}, {}, []
        self.faults = []
        """Statuses to answer next, one per request."""
        self.half, self.swapped = None, {}
        """File whose content breaks off, and files that are answered with another content."""

    def snapshot(self, name, revision):
        """Id and files of a revision; None where there is none."""
        revision = self.tags.get(name, {}).get(revision, revision)
        for number, files in reversed(list(enumerate(self.commits[name]))):
            commit = self.commit_id(name, number)
            if revision in ("main", commit):
                return commit, files
        return None

    @staticmethod
    def commit_id(name, number):
        return hashlib.sha1(f"{name} {number}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status=200, value=None, headers=(), body=None):
        body = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        for key, content in dict(headers).items():
            self.send_header(key, content)
        if "Content-Length" not in dict(headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code):
        self.answer(404, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def handle_request(self):
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if hub.faults:
            self.close_connection = True
            return self.answer(hub.faults.pop(0), {"error": "ordered"})
        if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        for method, pattern, action in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == self.command:
                return action(self, hub, body, *found.groups())
        return self.answer(404, {"error": f"no route {path}"})

    do_GET = do_POST = do_HEAD = handle_request


def _create(handler, hub, body):
    wanted = json.loads(body)
    name = "/".join(part for part in (wanted.get("organization"), wanted["name"]) if part)
    url = f"http://{handler.headers['Host']}/{name}"
    if name in hub.commits:
        return handler.answer(409, {"error": "exists", "url": url})
    hub.commits[name], hub.tags[name] = [{}], {}
    return handler.answer(200, {"url": url})


def _info(handler, hub, _, name, revision="main"):
    if name not in hub.commits:
        return handler.missing("RepoNotFound")
    found = hub.snapshot(name, revision)
    if found is None:
        return handler.missing("RevisionNotFound")
    siblings = [{"rfilename": path} for path in found[1]]
    return handler.answer(200, {"id": name, "sha": found[0], "siblings": siblings, "private": False, "tags": []})


def _tree(handler, hub, _, name, revision):
    found = hub.snapshot(name, revision)
    if found is None:
        return handler.missing("RevisionNotFound")
    entries = [
        {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
        for path, content in found[1].items()
    ]
    return handler.answer(200, entries)


def _blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _resolve(handler, hub, _, name, revision, path):
    if name not in hub.commits:
        return handler.missing("RepoNotFound")
    found = hub.snapshot(name, revision)
    if found is None:
        return handler.missing("RevisionNotFound")
    commit, files = found
    if path not in files:
        return handler.missing("EntryNotFound")
    content = hub.swapped.get(path, files[path])
    headers = {"ETag": f'"{_blob(files[path])}"', "X-Repo-Commit": commit, "Content-Length": str(len(content))}
    if path == hub.half and handler.command == "GET":
        handler.close_connection = True
        content = content[: len(content) // 2]
    return handler.answer(200, headers=headers, body=content)


def _preupload(handler, _, body, __, ___):
    files = [
        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
    ]
    handler.answer(200, {"files": files})


def _commit(handler, hub, body, name, _):
    files = dict(hub.commits[name][-1])
    for line in body.splitlines():
        entry = json.loads(line)
        if entry["key"] == "file":
            files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        elif entry["key"] == "deletedFile":
            del files[entry["value"]["path"]]
    hub.commits[name].append(files)
    commit = hub.commit_id(name, len(hub.commits[name]) - 1)
    address = f"http://{handler.headers['Host']}/{name}"
    handler.answer(200, {"commitUrl": f"{address}/commit/{commit}", "commitOid": commit, "success": True})


def _tag(handler, hub, body, name, _):
    tag = json.loads(body)["tag"]
    if tag in hub.tags[name]:
        return handler.answer(409, {"error": "exists"})
    hub.tags[name][tag] = hub.commit_id(name, len(hub.commits[name]) - 1)
    return handler.answer(200, {})


_MODEL = r"/api/models/([\w.-]+/[\w.-]+)"
_ROUTES = [
    ("POST", r"/api/repos/create", _create),
    ("POST", r"/api/validate-yaml", lambda handler, *_: handler.answer(200, {"errors": [], "warnings": []})),
    ("GET", _MODEL, _info),
    ("GET", _MODEL + r"/revision/(.+)", _info),
    ("GET", _MODEL + r"/tree/([^/]+)", _tree),
    ("POST", _MODEL + r"/preupload/(.+)", _preupload),
    ("POST", _MODEL + r"/commit/(.+)", _commit),
    ("POST", _MODEL + r"/tag/(.+)", _tag),
    ("GET", r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", _resolve),
    ("HEAD", r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", _resolve),
]


@contextmanager
def hub_server():
    """A running hub; yields its address and its content."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub()
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
