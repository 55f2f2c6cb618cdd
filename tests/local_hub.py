"""A Hub on loopback that the real `huggingface_hub` client talks to, with faults to inject.

    with LocalHub() as hub:
        environment = hub.environment(cache)        # for a subprocess
        hub.fail("commit", status=500)              # the next commit fails, then all is well again
        hub.repository("user/name").files("main")   # what is there

It answers the calls that the client makes, stores everything in memory and knows one token.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from local_hub_api import RepositoryApi
from local_hub_store import Repository
from loopback import serving

TOKEN = "hf_" + "loopback" * 4
API = re.compile(r"^/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.*))?$")
RESOLVE = re.compile(r"^/(datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
LFS_BATCH = re.compile(r"^/(datasets/|spaces/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch$")


@dataclass
class Fault:
    """One way to fail: where, how (an HTTP status, or the connection dropped) and how many times.

    Attributes:
        operation: "commit", "tag", "upload", "preupload", "create", "whoami", "read" or "download";
            "short" answers a download with half of the file.
        status: the HTTP status to answer with; None drops the connection.
        times: how many requests fail before all is well again.
        after: do the work first, and fail only the answer (the client never learns that it succeeded).
        headers: of the answer, such as Retry-After.
    """

    operation: str
    status: int | None = 500
    times: int = 1
    after: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class DroppedConnection(Exception):
    """Ends a request without an answer."""


@dataclass
class LocalHub:
    """The server; a context manager."""

    token: str = TOKEN
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> LocalHub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = serving(handler)
        self.url = self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__(None, None, None)

    def environment(self, home: Path, *, token: str | None = TOKEN) -> dict[str, str]:
        """Variables for a process of its own: this Hub, an empty cache below `home`, this token or none."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE_", "WANDB_"))}
        variables = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        variables |= {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
        return kept | variables | ({"HF_TOKEN": token} if token else {})

    def fail(
        self, operation: str, status: int | None = 500, *, times: int = 1, after: bool = False, **headers: str
    ) -> None:
        """Makes the next `times` requests of this operation fail."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(operation, status, times, after, named))

    def repository(self, repo_id: str, kind: str = "models") -> Repository:
        """The repository, as the server holds it."""
        return self.repositories[kind, repo_id]


class _Handler(RepositoryApi, BaseHTTPRequestHandler):
    """Answers one request; the class attribute `hub` is the server's state."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"
    # Header and body leave in one packet: apart they wait 40 ms for each other's acknowledgement.
    wbufsize = 65536
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Keeps the test output clean."""

    # Every verb goes the same way: read the body, find the operation, answer or fail.
    def _serve(self) -> None:
        self.path_only, self.query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        self.hub.requests.append(f"{self.command} {self.path_only}")
        body = self._read_body()
        try:
            self._route(body)
        except DroppedConnection:
            self.close_connection = True
            self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _reply(self, payload: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _error(self, status: int, code: str, message: str) -> None:
        self._reply({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})

    def _fails(self, operation: str, *, after: bool = False) -> bool:
        """Plays an injected fault; `after` is asked once the work is done."""
        waiting = next((f for f in self.hub.faults if f.operation == operation and f.times > 0), None)
        if waiting is None or waiting.after != after:
            return False
        waiting.times -= 1
        if waiting.status is None:
            raise DroppedConnection
        self._reply({"error": "injected fault"}, waiting.status, waiting.headers)
        return True

    def _authorised(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.hub.token}":
            return True
        self._reply({"error": "Invalid credentials in Authorization header"}, 401)
        return False

    def _route(self, body: bytes) -> None:
        path = unquote(self.path_only)
        if path == "/api/whoami-v2":
            if not self._fails("whoami") and self._authorised():
                self._reply({"type": "user", "name": "user", "orgs": [], "auth": {"accessToken": {}}})
        elif path == "/api/repos/create":
            if not self._fails("create") and self._authorised():
                self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._reply({"errors": [], "warnings": []})
        elif path.startswith("/uploads/"):
            if not self._fails("upload"):
                self.hub.uploads[path.rsplit("/", 1)[1]] = body
                self._reply({})
        elif match := LFS_BATCH.match(path):
            self._lfs_batch(json.loads(body))
        elif match := RESOLVE.match(self.path_only):
            if not self._fails("download"):
                self._download((match[1] or "models/")[:-1], match[2], unquote(match[3]), unquote(match[4]))
        elif match := API.match(self.path_only):
            repository = self.hub.repositories.get((match[1], match[2]))
            if repository is None:
                self._error(404, "RepoNotFound", "Repository not found")
            else:
                self._api(match[2], repository, match[3] or "", body)
        else:
            self._error(404, "EntryNotFound", f"the local Hub has no {path}")

    def _create(self, request: dict[str, Any]) -> None:
        kind = f"{request.get('type') or 'model'}s"
        if kind == "spaces" and not request.get("sdk"):
            self._error(400, "BadRequest", "a Space needs an sdk")
            return
        repo_id = f"{request.get('organization') or 'user'}/{request['name']}"
        exists = (kind, repo_id) in self.hub.repositories
        if not exists:
            self.hub.repositories[kind, repo_id] = Repository()
        prefix = "" if kind == "models" else f"{kind}/"
        self._reply({"url": f"{self.hub.url}/{prefix}{repo_id}"}, 409 if exists else 200)

    def _lfs_batch(self, request: dict[str, Any]) -> None:
        objects = []
        for item in request["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.uploads:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/uploads/{item['oid']}"}}
            objects.append(answer)
        self._reply({"transfer": "basic", "objects": objects})

    def _download(self, kind: str, repo_id: str, revision: str, path: str) -> None:
        repository = self.hub.repositories.get((kind, repo_id))
        commit = repository.resolve(revision) if repository else None
        if repository is None:
            self._error(404, "RepoNotFound", "Repository not found")
        elif commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif path not in commit.tree:
            self._error(404, "EntryNotFound", "Entry not found")
        else:
            blob = commit.tree[path]
            etag = blob.sha256 if blob.lfs else blob.oid
            content, status = blob.content, 200
            headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
            if wanted := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
                headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                content, status = content[start : end + 1], 206
            short = next((f for f in self.hub.faults if f.operation == "short" and f.times > 0), None)
            if short is not None and self.command == "GET" and len(content) > 1:
                short.times -= 1
                content = content[: len(content) // 2]
            self._reply(content, status, headers)

    def _api(self, repo_id: str, repository: Repository, rest: str, body: bytes) -> None:
        verb, _, tail = rest.partition("/")
        if self.command in ("POST", "PUT") and verb not in ("paths-info",) and not self._authorised():
            return
        if verb == "preupload":
            if not self._fails("preupload"):
                self._preupload(repository, unquote(tail), json.loads(body))
        elif verb == "commit":
            if not self._fails("commit"):
                self._commit(repo_id, repository, unquote(tail), body)
        elif verb == "tag":
            if not self._fails("tag"):
                self._tag(repository, unquote(tail), json.loads(body))
        elif verb == "refs":
            if not self._fails("read"):
                self._refs(repository)
        elif verb == "discussions":
            self._discussions(repo_id, repository)
        else:
            revision, _, sub_path = tail.partition("/")
            commit = repository.resolve(unquote(revision) if verb else "main")
            if commit is None:
                self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            else:
                self._read(repo_id, repository, commit, verb, unquote(sub_path), body)
