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
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from local_servers import serving

TOKEN = "hf_" + "loopback" * 4
API = re.compile(r"^/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.*))?$")
RESOLVE = re.compile(r"^/(datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
LFS_BATCH = re.compile(r"^/(datasets/|spaces/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch$")
LFS_SUFFIXES = (".safetensors", ".skops", ".parquet", ".onnx", ".png", ".bin", ".whl")
DATE = "2026-01-01T00:00:00.000Z"


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str = "", message: str = "", headers: dict | None = None) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {"X-Error-Code": code, "X-Error-Message": message} | (headers or {})


class Answer(NamedTuple):
    """A success with more to it than a body."""

    payload: Any
    status: int
    headers: dict[str, str]


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

    @property
    def identity(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict[str, Any]:
        """As `tree` and `paths-info` list it."""
        size = len(self.content)
        lfs = {"lfs": {"oid": self.sha256, "size": size, "pointerSize": 134}} if self.lfs else {}
        return {"type": "file", "path": path, "size": size, "oid": self.oid} | lfs


class Commit(NamedTuple):
    """One commit: the whole tree, path to blob."""

    oid: str
    parent: str | None
    title: str
    tree: dict[str, Blob]


@dataclass
class Repository:
    """One repository with its branches, tags and pull requests, as ref name to commit id."""

    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[int, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}
        self.branches["main"] = self._store(None, "initial commit", own)

    def _store(self, parent: str | None, title: str, tree: dict[str, Blob]) -> str:
        # The count keeps two equal commits apart, as their dates do in git.
        text = f"{len(self.commits)} {parent} {title} {sorted((p, b.oid) for p, b in tree.items())}"
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, tree)
        return oid

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a commit id or `refs/pr/N`."""
        requests = {f"refs/pr/{number}": request["oid"] for number, request in self.pull_requests.items()}
        oid = (self.branches | self.tags | requests).get(revision, revision)
        if oid not in self.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[oid]

    def commit(
        self, branch: str, title: str, changes: dict[str, Blob | None], parent: str | None = None,
        pull_request: bool = False,
    ) -> tuple[str, int | None]:  # fmt: skip
        """Adds a commit (a None deletes the file): its id, and the number of the request that was opened."""
        head = self.branches[branch]
        if parent not in (None, head):
            raise Refused(412, "PreconditionFailed", "A commit has happened since. Please refresh.")
        tree = self.commits[head].tree | changes
        oid = self._store(head, title, {path: blob for path, blob in tree.items() if blob is not None})
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
        tree = self.commits[request["oid"]].tree
        self.branches["main"] = self._store(self.branches["main"], f"{request['title']} (#{number})", tree)
        return self.branches["main"]

    def tag(self, name: str, revision: str) -> None:
        """Creates a tag; one of that name may not be there."""
        if name in self.tags:
            raise Refused(409, "Conflict", "Tag already exists")
        self.tags[name] = self.resolve(revision).oid

    def history(self, revision: str) -> list[Commit]:
        """Commits from the revision back to the first, newest first."""
        found = [self.resolve(revision)]
        while found[-1].parent:
            found.append(self.commits[found[-1].parent])
        return found

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Path to content at a revision."""
        return {path: blob.content for path, blob in self.resolve(revision).tree.items()}

    def state(self) -> tuple[dict[str, str], dict[str, str], int]:
        """What a failed command must leave unchanged: branches, tags, number of pull requests."""
        return dict(self.branches), dict(self.tags), len(self.pull_requests)


@dataclass
class Fault:
    """One way to fail: where, how (an HTTP status, or None: the connection is dropped), how many times.

    `operation` is "commit", "tag", "upload", "preupload", "create", "whoami", "read" or "download"; "short"
    answers a download with half of the file. With `after` the work is done and only its answer is lost.
    """

    operation: str
    status: int | None
    times: int
    after: bool
    headers: dict[str, str]


@dataclass
class LocalHub:
    """The server; a context manager. `routes` (path to a function of headers, body) come before its own."""

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    routes: dict[str, Callable[[Any, bytes], Any]] = field(default_factory=dict)

    def __enter__(self) -> LocalHub:
        self._server = serving(type("Handler", (_Handler,), {"hub": self}))
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
        if (kind, repo_id) not in self.repositories:
            raise Refused(404, "RepoNotFound", "Repository not found")
        return self.repositories[kind, repo_id]


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; the class attribute `hub` is the server's state."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"
    # Header and body leave in one packet: apart they wait 40 ms for each other's acknowledgement.
    wbufsize = 65536
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Keeps the test output clean."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        body = self._read_body()
        try:
            found = self._route(parts.path, body)
            answer = found if isinstance(found, Answer) else Answer(found, 200, {})
        except Refused as error:
            answer = Answer({"error": error.message}, error.status, error.headers)
        except ConnectionAbortedError:
            self.close_connection = True
            self.connection.close()
            return
        content = answer.payload if isinstance(answer.payload, bytes) else json.dumps(answer.payload).encode()
        self.send_response(answer.status)
        for name, value in (answer.headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

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

    def _fault(self, operation: str, *, after: bool = False) -> Fault | None:
        """Plays an injected fault; `after` is asked once the work is done."""
        faults = self.hub.faults
        fault = next((fault for fault in faults if fault.operation == operation and fault.times > 0), None)
        if fault is None or fault.after != after:
            return None
        fault.times -= 1
        if operation == "short":
            return fault
        if fault.status is None:
            raise ConnectionAbortedError
        raise Refused(fault.status, message="injected fault", headers=fault.headers)

    def _authorise(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, message="Invalid credentials in Authorization header")

    def _route(self, path: str, body: bytes) -> Any:
        if path in self.hub.routes:
            return self.hub.routes[path](self.headers, body)
        if path == "/api/whoami-v2":
            self._fault("whoami")
            self._authorise()
            return {"type": "user", "name": "user", "orgs": [], "auth": {"accessToken": {}}}
        if path == "/api/repos/create":
            self._fault("create")
            self._authorise()
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path.startswith("/uploads/"):
            self._fault("upload")
            self.hub.uploads[path.rsplit("/", 1)[1]] = body
            return {}
        if LFS_BATCH.match(path):
            return self._lfs_batch(json.loads(body))
        if match := RESOLVE.match(path):
            self._fault("download")
            repository = self.hub.repository(match[2], (match[1] or "models/")[:-1])
            return self._download(repository.resolve(unquote(match[3])), unquote(match[4]))
        if match := API.match(path):
            return self._api(match[2], self.hub.repository(match[2], match[1]), match[3] or "", body)
        raise Refused(404, "EntryNotFound", f"the local Hub has no {path}")

    def _create(self, request: dict[str, Any]) -> Answer:
        kind = f"{request.get('type') or 'model'}s"
        if kind == "spaces" and not request.get("sdk"):
            raise Refused(400, "BadRequest", "a Space needs an sdk")
        repo_id = f"{request.get('organization') or 'user'}/{request['name']}"
        exists = (kind, repo_id) in self.hub.repositories
        if not exists:
            self.hub.repositories[kind, repo_id] = Repository()
        prefix = "" if kind == "models" else f"{kind}/"
        return Answer({"url": f"{self.hub.url}/{prefix}{repo_id}"}, 409 if exists else 200, {})

    def _lfs_batch(self, request: dict[str, Any]) -> dict[str, Any]:
        objects = [{"oid": item["oid"], "size": item["size"]} for item in request["objects"]]
        for item in objects:
            if item["oid"] not in self.hub.uploads:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/uploads/{item['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def _download(self, commit: Commit, path: str) -> Answer:
        if path not in commit.tree:
            raise Refused(404, "EntryNotFound", "Entry not found")
        blob = commit.tree[path]
        content, status = blob.content, 200
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.identity}"', "Accept-Ranges": "bytes"}
        if wanted := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        if self.command == "GET" and len(content) > 1 and self._fault("short"):
            content = content[: len(content) // 2]
        return Answer(content, status, headers)

    def _api(self, repo_id: str, repository: Repository, rest: str, body: bytes) -> Any:
        verb, _, tail = rest.partition("/")
        revision, _, sub_path = (unquote(part) for part in tail.partition("/"))
        if verb in ("preupload", "commit", "tag"):
            self._authorise()
            self._fault(verb)
            act = {"preupload": self._preupload, "commit": self._commit, "tag": self._tag}[verb]
            return act(repo_id, repository, unquote(tail), body)
        if verb == "refs":
            self._fault("read")
            refs = {"branches": repository.branches, "tags": repository.tags}
            return {"converts": []} | {
                kind: [{"name": name, "ref": name, "targetCommit": oid} for name, oid in names.items()]
                for kind, names in refs.items()
            }
        if verb == "discussions":
            return self._discussions(repo_id, repository)
        commit = repository.resolve(revision if verb else "main")
        if verb in ("", "revision"):
            return self._info(repo_id, commit)
        if verb == "tree":
            prefix = f"{sub_path.rstrip('/')}/" if sub_path else ""
            deep = self.query.get("recursive", [""])[0].lower() in ("true", "1")
            inside = {path: blob for path, blob in sorted(commit.tree.items()) if path.startswith(prefix)}
            return [b.entry(path) for path, b in inside.items() if deep or "/" not in path[len(prefix) :]]
        if verb == "paths-info":
            text = body.decode()
            asked = json.loads(text) if text.startswith("{") else parse_qs(text)
            return [commit.tree[path].entry(path) for path in asked["paths"] if path in commit.tree]
        if verb == "commits":
            common = {"authors": [{"user": "user"}], "date": DATE, "message": ""}
            return [
                {"id": entry.oid, "title": entry.title} | common for entry in repository.history(commit.oid)
            ]
        raise Refused(404, "EntryNotFound", f"the local Hub has no {verb}")

    def _preupload(self, repo_id: str, repository: Repository, revision: str, body: bytes) -> Any:
        tree, files = repository.resolve(revision).tree, []
        for item in json.loads(body)["files"]:
            path = item["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            oid = tree[path].identity if path in tree else None
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": files}

    def _commit(self, repo_id: str, repository: Repository, branch: str, body: bytes) -> Any:
        header: dict[str, Any] = {}
        changes: dict[str, Blob | None] = {}
        for item in map(json.loads, body.splitlines()):
            value = item["value"]
            if item["key"] == "header":
                header = value
            elif item["key"] == "file":
                changes[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.uploads:
                    raise Refused(400, "BadRequest", f"{value['path']} was not uploaded")
                changes[value["path"]] = Blob(self.hub.uploads[value["oid"]], True)
            elif item["key"] == "deletedFile":
                changes[value["path"]] = None
        opens_request = self.query.get("create_pr") == ["1"]
        parent = header.get("parentCommit")
        oid, number = repository.commit(branch, header["summary"], changes, parent, opens_request)
        self._fault("commit", after=True)
        url = f"{self.hub.url}/{repo_id}"
        request = {"pullRequestUrl": f"{url}/discussions/{number}"} if number is not None else {}
        return {"commitOid": oid, "commitUrl": f"{url}/commit/{oid}"} | request

    def _tag(self, repo_id: str, repository: Repository, revision: str, body: bytes) -> Any:
        repository.tag(json.loads(body)["tag"], revision)
        self._fault("tag", after=True)
        return {}

    def _discussions(self, repo_id: str, repository: Repository) -> dict[str, Any]:
        common = {"author": {"name": "user"}, "createdAt": DATE, "isPullRequest": True}
        common["repo"] = {"name": repo_id, "type": "model"}
        found = [
            {"title": request["title"], "num": number, "status": request["status"]} | common
            for number, request in repository.pull_requests.items()
            if self.query.get("status", [request["status"]]) == [request["status"]]
        ]
        return {"discussions": found, "count": len(found), "start": 0}

    def _info(self, repo_id: str, commit: Commit) -> dict[str, Any]:
        readme = commit.tree["README.md"].content.decode() if "README.md" in commit.tree else ""
        # The Hub reads the task and the library from the front matter.
        card = yaml.safe_load(readme.split("---")[1]) if readme.startswith("---") else {}
        return {
            "id": repo_id, "sha": commit.oid, "private": False, "downloads": 0, "likes": 0,
            "lastModified": DATE, "createdAt": DATE, "tags": card.get("tags", []), "cardData": card,
            "siblings": [{"rfilename": path} for path in sorted(commit.tree)],
        } | {key: card[key] for key in ("pipeline_tag", "library_name") if key in card}  # fmt: skip
