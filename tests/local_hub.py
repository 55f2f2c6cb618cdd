"""A Hub on loopback that the real `huggingface_hub` client talks to, with faults to inject.

    with LocalHub() as hub:
        environment = hub.environment(cache)        # for a subprocess
        hub.fail("commit", status=500)              # the next commit fails, then all is well again
        hub.repository("user/name").files("main")   # what is there

It answers the calls that the client makes, stores everything in memory and knows one token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from local_servers import serving

TOKEN = "hf_" + "loopback" * 4
API = re.compile(r"^/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.*))?$")
RESOLVE = re.compile(r"^/(datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
LFS_BATCH = re.compile(r"^/(datasets/|spaces/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch$")
LFS_SUFFIXES = (".safetensors", ".skops", ".parquet", ".onnx", ".png", ".bin", ".whl")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Blob:
    """One file's content; `lfs` files are addressed by sha256, the others by git's blob hash."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """Git's blob id: of the content, or for an LFS file of something that stands for its pointer."""
        content = f"pointer {self.sha256}".encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """One commit: the whole tree, path to blob."""

    oid: str
    parent: str | None
    title: str
    tree: dict[str, Blob]


class ParentMoved(Exception):
    """The commit names a parent that is no longer the head."""


class TagExists(Exception):
    """The tag is there already."""


@dataclass
class Repository:
    """One repository with its branches, tags and pull requests, as ref name to commit id."""

    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[int, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.branches["main"] = self._store(
            None, "initial commit", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}
        )

    def _store(self, parent: str | None, title: str, tree: dict[str, Blob]) -> str:
        # The count keeps two equal commits apart, as their dates do in git.
        text = f"{len(self.commits)} {parent} {title} {sorted((p, b.oid) for p, b in tree.items())}"
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, tree)
        return oid

    def resolve(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag, a commit id or `refs/pr/N`; None when there is none."""
        if revision.startswith("refs/pr/"):
            number = int(revision.rsplit("/", 1)[1])
            oid = self.pull_requests[number]["oid"] if number in self.pull_requests else None
        else:
            oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid) if oid else None

    def commit(
        self,
        branch: str,
        title: str,
        changes: dict[str, Blob | None],
        *,
        parent: str | None = None,
        pull_request: bool = False,
    ) -> tuple[str, int | None]:
        """Adds a commit; a None among the changes deletes the file.

        Returns:
            The commit id, and the number of the pull request when one was opened.

        Raises:
            ParentMoved: when `parent` is given and is not the head.
        """
        head = self.branches[branch]
        if parent is not None and parent != head:
            raise ParentMoved(head)
        tree = dict(self.commits[head].tree)
        for path, blob in changes.items():
            if blob is None:
                tree.pop(path)
            else:
                tree[path] = blob
        oid = self._store(head, title, tree)
        if not pull_request:
            self.branches[branch] = oid
            return oid, None
        number = len(self.pull_requests) + 1
        self.pull_requests[number] = {"oid": oid, "title": title, "status": "open"}
        return oid, number

    def merge(self, number: int) -> str:
        """Merges a pull request into main with a commit of its own, as the Hub does."""
        request = self.pull_requests[number]
        request["status"] = "merged"
        head = self.branches["main"]
        self.branches["main"] = self._store(
            head, f"{request['title']} (#{number})", dict(self.commits[request["oid"]].tree)
        )
        return self.branches["main"]

    def tag(self, name: str, revision: str) -> None:
        """Creates a tag.

        Raises:
            TagExists: when there is one of that name.
        """
        if name in self.tags:
            raise TagExists(name)
        commit = self.resolve(revision)
        assert commit is not None
        self.tags[name] = commit.oid

    def history(self, revision: str) -> list[Commit]:
        """Commits from the revision back to the first, newest first."""
        commit = self.resolve(revision)
        found = []
        while commit is not None:
            found.append(commit)
            commit = self.commits[commit.parent] if commit.parent else None
        return found

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Path to content at a revision."""
        commit = self.resolve(revision)
        assert commit is not None
        return {path: blob.content for path, blob in commit.tree.items()}

    def state(self) -> tuple[dict[str, str], dict[str, str], int]:
        """What a failed command must leave unchanged: branches, tags, number of pull requests."""
        return dict(self.branches), dict(self.tags), len(self.pull_requests)


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


def file_entry(path: str, blob: Blob) -> dict[str, Any]:
    """A file as `tree` and `paths-info` list it."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
    return entry


def card_metadata(commit: Commit) -> dict[str, Any]:
    """The front matter of the README, which the Hub reads the task and the library from."""
    readme = commit.tree["README.md"].content.decode() if "README.md" in commit.tree else ""
    return yaml.safe_load(readme.split("---")[1]) if readme.startswith("---") else {}


class _Handler(BaseHTTPRequestHandler):
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

    def _preupload(self, repository: Repository, revision: str, request: dict[str, Any]) -> None:
        commit = repository.resolve(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = []
        for item in request["files"]:
            blob = commit.tree.get(item["path"])
            lfs = item["path"].endswith(LFS_SUFFIXES)
            oid = None if blob is None else blob.sha256 if blob.lfs else blob.oid
            mode = "lfs" if lfs else "regular"
            files.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._reply({"files": files})

    def _commit(self, repo_id: str, repository: Repository, branch: str, body: bytes) -> None:
        header: dict[str, Any] = {}
        changes: dict[str, Blob | None] = {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                header = value
            elif item["key"] == "file":
                changes[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.uploads:
                    self._error(400, "BadRequest", f"{value['path']} was not uploaded")
                    return
                changes[value["path"]] = Blob(self.hub.uploads[value["oid"]], True)
            elif item["key"] == "deletedFile":
                changes[value["path"]] = None
        opens_request = self.query.get("create_pr") == ["1"]
        try:
            oid, number = repository.commit(
                branch,
                header["summary"],
                changes,
                parent=header.get("parentCommit"),
                pull_request=opens_request,
            )
        except ParentMoved:
            self._error(
                412, "PreconditionFailed", "A commit has happened since. Please refresh and try again."
            )
            return
        if not self._fails("commit", after=True):
            answer = {"commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}"}
            if number is not None:
                answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/{number}"
            self._reply(answer)

    def _tag(self, repository: Repository, revision: str, request: dict[str, Any]) -> None:
        try:
            repository.tag(request["tag"], revision)
        except TagExists:
            self._error(409, "Conflict", "Tag already exists")
            return
        if not self._fails("tag", after=True):
            self._reply({})

    def _refs(self, repository: Repository) -> None:
        def entries(names: dict[str, str], prefix: str) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{prefix}/{n}", "targetCommit": oid} for n, oid in names.items()]

        answer = {"branches": entries(repository.branches, "heads"), "converts": []}
        self._reply(answer | {"tags": entries(repository.tags, "tags")})

    def _discussions(self, repo_id: str, repository: Repository) -> None:
        found = [
            {"title": request["title"], "num": number, "author": {"name": "user"}, "createdAt": DATE}
            | {"status": request["status"], "repo": {"name": repo_id, "type": "model"}, "isPullRequest": True}
            for number, request in repository.pull_requests.items()
            if self.query.get("status", [request["status"]]) == [request["status"]]
        ]
        self._reply({"discussions": found, "count": len(found), "start": 0})

    def _read(
        self, repo_id: str, repository: Repository, commit: Commit, verb: str, sub_path: str, body: bytes
    ) -> None:
        if verb in ("", "revision"):
            self._reply(self._info(repo_id, commit))
        elif verb == "tree":
            self._reply(self._tree(commit, sub_path.rstrip("/")))
        elif verb == "paths-info":
            text = body.decode()
            asked = json.loads(text) if text.startswith("{") else parse_qs(text)
            self._reply([file_entry(p, commit.tree[p]) for p in asked["paths"] if p in commit.tree])
        elif verb == "commits":
            history = repository.history(commit.oid)
            common = {"authors": [{"user": "user"}], "date": DATE, "message": ""}
            self._reply([{"id": entry.oid, "title": entry.title} | common for entry in history])
        else:
            self._error(404, "EntryNotFound", f"the local Hub has no {verb}")

    def _info(self, repo_id: str, commit: Commit) -> dict[str, Any]:
        metadata = card_metadata(commit)
        answer: dict[str, Any] = {
            "id": repo_id,
            "sha": commit.oid,
            "private": False,
            "downloads": 0,
            "likes": 0,
        }
        answer |= {"lastModified": DATE, "createdAt": DATE, "tags": metadata.get("tags", [])}
        answer |= {"siblings": [{"rfilename": path} for path in sorted(commit.tree)], "cardData": metadata}
        for key in ("pipeline_tag", "library_name"):
            if key in metadata:
                answer[key] = metadata[key]
        return answer

    def _tree(self, commit: Commit, folder: str) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in sorted(commit.tree.items()):
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                parent = prefix + "/".join(parts[:depth])
                if recursive or depth == 1:
                    entries[parent] = {"type": "directory", "path": parent, "size": 0, "oid": commit.oid}
            if recursive or len(parts) == 1:
                entries[path] = file_entry(path, blob)
        return list(entries.values())
