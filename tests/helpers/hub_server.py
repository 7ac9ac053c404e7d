"""A stand-in for the Hugging Face Hub on this machine: as much of its HTTP API as huggingface_hub
uses to push and to fetch models.

It keeps what it is sent, byte for byte, so that tests compare. It can break a connection in the
middle of a large file, answer with an error, and it remembers every request, so that tests see what
was sent, how often, and where a token appeared.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".gguf", ".bin")
PIECE = 1 << 20
TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
"""An invented token that may write for `me`."""


@dataclass
class Repo:
    private: bool
    branches: dict[str, dict[str, bytes]] = field(
        default_factory=lambda: {"main": {".gitattributes": b"*.safetensors lfs\n"}}
    )
    commits: int = 0


@dataclass
class Seen:
    """One request, less its Authorization header, which is in `authorized` alone."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    authorized: str | None


class Hub:
    """State of the stand-in; `url` is where it listens."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.owners = {TOKEN: {"me"}}
        self.seen: list[Seen] = []
        self.puts: Counter[str] = Counter()
        """Whole large files that arrived, by sha256."""
        self.break_after: int | None = None
        """Close the connection after so many bytes of a large file."""
        self.slow = 0.0
        """Seconds for each piece of a large file."""
        self.arrived = 0
        """Bytes of large files that have arrived, whole or not."""
        self.break_from = 0
        """Large files that still pass before one is broken off."""
        self.answers: list[tuple[str, str, int, dict[str, str], str]] = []
        """(method, pattern of the path, status, headers, message): answered instead of the true
        thing, always.
        """
        self.makes_public = False
        self.spoils: str | None = None
        """A file whose bytes the stand-in changes when it is committed."""
        self.hashes: dict[int, tuple[bytes, str, str]] = {}
        """By identity of the bytes, which are held here: a large file is hashed once, not at each
        request.
        """
        self.url = ""
        self.lock = threading.Lock()

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds, less what the Hub itself puts there."""
        return {
            n: data for n, data in self.repos[repo_id].branches[revision].items() if n != ".gitattributes"
        }

    def everything(self) -> bytes:
        """All that was sent to it, without the Authorization headers."""
        return b"\n".join(
            f"{seen.method} {seen.path} {json.dumps(seen.headers)}".encode() + seen.body for seen in self.seen
        )

    def count(self, method: str, pattern: str) -> int:
        return sum(seen.method == method and re.search(pattern, seen.path) is not None for seen in self.seen)


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone (killed, say) is no error here."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _commit_id(repo_id: str, number: int) -> str:
    return hashlib.sha1(f"{repo_id} {number}".encode()).hexdigest()


def commit_of(repo_id: str, repo: Repo, revision: str | None) -> str:
    """The commit of a branch, or the commit itself."""
    if revision in (None, "main") or revision not in repo.branches:
        return revision if revision and len(revision) == 40 else _commit_id(repo_id, repo.commits)
    return _commit_id(f"{repo_id} {revision}", repo.commits)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _serve(self) -> None:
        hub, parts = self.hub, urlsplit(self.path)
        self.where, self.query = unquote(parts.path), parse_qs(parts.query)
        headers = {name.lower(): value for name, value in self.headers.items()}
        authorized = headers.pop("authorization", None)
        self.token = (authorized or "").removeprefix("Bearer ") or None
        body = self._body(int(headers.get("content-length", 0)), headers)
        if body is None:
            return None
        with hub.lock:
            hub.seen.append(Seen(self.command, self.path, headers, body, authorized))
            for method, pattern, status, more, message in hub.answers:
                if method == self.command and re.search(pattern, self.where):
                    return self._say(status, {"error": message}, more)
            return self._route(body)

    def _body(self, length: int, headers: dict[str, str]) -> bytes | None:
        if headers.get("transfer-encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        breaks = self.command == "PUT" and self.hub.break_after is not None
        if breaks and len(self.hub.puts) >= self.hub.break_from:
            self.rfile.read(min(length, self.hub.break_after or 0))
            self.close_connection = True
            self.connection.close()
            return None
        data = bytearray()
        while len(data) < length:
            piece = self.rfile.read(min(PIECE, length - len(data)))
            if not piece:
                # The client is gone in the middle of it.
                self.close_connection = True
                return None
            data += piece
            if self.command == "PUT":
                self.hub.arrived += len(piece)
                time.sleep(self.hub.slow)
        return bytes(data)

    # Routes

    def _route(self, body: bytes) -> None:
        routes = (
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", self._validate),
            ("GET", r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", self._info),
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/.*)?", self._tree),
            ("POST", r"/api/models/([^/]+/[^/]+)/branch/(.+)", self._branch),
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self._preupload),
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", self._commit),
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            ("PUT", r"/large/(\w+)", self._put),
            ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
            ("HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        )
        for method, pattern, handle in routes:
            if method == self.command and (found := re.fullmatch(pattern, self.where)):
                return handle(body, *found.groups())
        return self._say(404, {"error": "Not Found"})

    def _may(self, owner: str) -> bool:
        if self.token is not None and self.token not in self.hub.owners:
            self._say(401, {"error": "Invalid credentials in Authorization header"})
            return False
        if owner not in self.hub.owners.get(self.token or "", set()):
            self._say(403, {"error": f"You don't have the rights to write to {owner}"})
            return False
        return True

    def _repo(self, repo_id: str, revision: str | None = "main") -> dict[str, bytes] | None:
        """The files at a revision, or None when an answer has been given."""
        repo = self.hub.repos.get(repo_id)
        if self.token is not None and self.token not in self.hub.owners:
            self._say(401, {"error": "Invalid credentials in Authorization header"})
            return None
        readable = repo is not None and (
            not repo.private or repo_id.split("/")[0] in self.hub.owners.get(self.token or "", ())
        )
        if repo is None or not readable:
            status = 401 if self.token is None else 404
            self._say(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        commits = {commit_of(repo_id, repo, branch): branch for branch in repo.branches}
        revision = "main" if revision is None else commits.get(revision, revision)
        if revision not in repo.branches:
            self._say(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repo.branches[revision]

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        owner = asked.get("organization") or "me"
        repo_id = f"{owner}/{asked['name']}"
        if not self._may(owner):
            return
        if repo_id in self.hub.repos:
            self._say(
                409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo_id}"}
            )
            return
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repos[repo_id] = Repo(private and not self.hub.makes_public)
        self._say(200, {"url": f"{self.hub.url}/{repo_id}", "name": repo_id, "id": repo_id})

    def _validate(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        bad = 'base_model: "not an id"' in content
        self._say(
            400 if bad else 200,
            {"errors": [{"message": '"base_model" is not valid'}] if bad else [], "warnings": []},
        )

    def _info(self, body: bytes, repo_id: str, revision: str | None) -> None:
        files = self._repo(repo_id, revision)
        if files is None:
            return
        repo = self.hub.repos[repo_id]
        self._say(
            200,
            {
                "_id": "0",
                "id": repo_id,
                "modelId": repo_id,
                "private": repo.private,
                "downloads": 0,
                "tags": [],
                "sha": commit_of(repo_id, repo, revision),
                "siblings": [{"rfilename": name} for name in files],
            },
        )

    def _tree(self, body: bytes, repo_id: str, revision: str) -> None:
        files = self._repo(repo_id, revision)
        if files is not None:
            self._say(200, [self._entry(name, data) for name, data in sorted(files.items())])

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        known = self.hub.hashes.get(id(data))
        if known is None or known[0] is not data:
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            known = self.hub.hashes[id(data)] = (data, hashlib.sha256(data).hexdigest(), git)
        _, sha, git = known
        entry = {"type": "file", "path": name, "size": len(data), "oid": git}
        return (
            {**entry, "lfs": {"oid": sha, "size": len(data), "pointerSize": 130}}
            if name.endswith(LARGE)
            else entry
        )

    def _branch(self, body: bytes, repo_id: str, branch: str) -> None:
        files = self._repo(repo_id)
        if files is None or not self._may(repo_id.split("/")[0]):
            return
        known = branch in self.hub.repos[repo_id].branches
        self.hub.repos[repo_id].branches.setdefault(branch, dict(files))
        self._say(409 if known else 200, {"error": "Reference already exists"} if known else {})

    def _preupload(self, body: bytes, repo_id: str, revision: str) -> None:
        files = self._repo(repo_id, revision)
        if files is None or not self._may(repo_id.split("/")[0]):
            return
        rows = []
        for asked in json.loads(body)["files"]:
            name = asked["path"]
            mode = "lfs" if name.endswith(LARGE) or asked["size"] > 10 << 20 else "regular"
            row = {"path": name, "uploadMode": mode, "shouldIgnore": False}
            if name in files:
                entry = self._entry(name, files[name])
                row["oid"] = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
            rows.append(row)
        self._say(200, {"files": rows})

    def _batch(self, body: bytes, repo_id: str) -> None:
        if self._repo(repo_id) is None or not self._may(repo_id.split("/")[0]):
            return
        objects = []
        for asked in json.loads(body)["objects"]:
            row = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.large:
                row["actions"] = {"upload": {"href": f"{self.hub.url}/large/{asked['oid']}", "header": {}}}
            objects.append(row)
        self._say(200, {"transfer": "basic", "objects": objects})

    def _put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._say(400, {"error": "the bytes are not those of the oid"})
            return
        self.hub.puts[oid] += 1
        self.hub.large[oid] = body
        self._say(200, {})

    def _commit(self, body: bytes, repo_id: str, revision: str) -> None:
        files = self._repo(repo_id, revision)
        if files is None or not self._may(repo_id.split("/")[0]):
            return
        made = dict(files)
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                made[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    self._say(400, {"error": f"{value['path']} points to a file that was not uploaded"})
                    return
                made[value["path"]] = self.hub.large[value["oid"]]
            elif row["key"] == "deletedFile":
                made.pop(value["path"])
        if self.hub.spoils in made:
            made[self.hub.spoils] = made[self.hub.spoils][:-1] + b"\x7f"
        repo = self.hub.repos[repo_id]
        repo.branches[revision] = made
        repo.commits += 1
        commit = _commit_id(repo_id, repo.commits)
        self._say(200, {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{commit}", "commitOid": commit})

    def _resolve(self, body: bytes, repo_id: str, revision: str, name: str) -> None:
        files = self._repo(repo_id, revision)
        if files is None:
            return
        if name not in files:
            self._say(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        data = files[name]
        entry = self._entry(name, data)
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        commit = commit_of(repo_id, self.hub.repos[repo_id], revision)
        more = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
        self._say(200, data, more)

    def _say(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        more = dict(headers or {})
        for name, text in {
            "Content-Length": str(len(data)),
            "Content-Type": "application/json",
            **more,
        }.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def connected(monkeypatch: Any, home: Path) -> Iterator[Hub]:
    """The stand-in, and the Hub's library turned to it, with a cache in `home` and the invented
    token in HF_TOKEN.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    with running() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        changed = {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(home / "cache"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        }
        for name, value in changed.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(
            _http, "time", SimpleNamespace(sleep=lambda s: None, time=time.time, monotonic=time.monotonic)
        )
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
