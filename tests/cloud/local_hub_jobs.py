"""Hugging Face Jobs, and a registry of images, on loopback.

The fields of a job are those that huggingface_hub 2.4 sends and reads; another one is a 400.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from local_servers import JsonHandler, Loopback

COMMIT = "c" * 40
FIELDS: dict[str, tuple[type, ...]] = {
    "command": (list,), "arguments": (list,), "environment": (dict,), "flavor": (str,), "secrets": (dict,),
    "timeoutSeconds": (int,), "attempts": (int,), "labels": (dict,), "volumes": (list,),
    "dockerImage": (str,),
}  # fmt: skip
# Of an Inference Endpoint, by its parts.
ENDPOINT = {
    "": {"compute", "model", "name", "provider", "type"},
    "compute": {"accelerator", "instanceSize", "instanceType", "scaling"},
    "model": {
        "framework", "repository", "revision", "image", "task", "args", "secrets", "env", "command",
    },
    "provider": {"region", "vendor"},
}  # fmt: skip
VOLUME = {"type", "source", "mountPath", "revision", "readOnly", "path"}
HARDWARE = [
    {"name": "cpu-basic", "prettyName": "CPU Basic", "cpu": "2 vCPU", "ram": "16 GB", "accelerator": None,
     "unitCostMicroUSD": 167, "unitCostUSD": 0.000167, "unitLabel": "minute"},
    {"name": "l4x4", "prettyName": "4x Nvidia L4", "cpu": "48 vCPU", "ram": "186 GB",
     "accelerator": {"type": "gpu", "model": "L4", "quantity": "4", "vram": "96 GB", "manufacturer": "x"},
     "unitCostMicroUSD": 63333, "unitCostUSD": 0.063333, "unitLabel": "minute"},
]  # fmt: skip


@dataclass
class LocalHubJobs(Loopback):
    """The service."""

    token: str
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)  # what its own store holds
    stages: list[str] = field(default_factory=list)  # of a job, one a look
    log: list[str] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)  # for each coming stream: close after so many lines
    csv: bytes | None = None  # arxiv.csv of the dataset
    buckets: set[str] = field(default_factory=lambda: {"user/models"})
    role: str = "write"
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    endpoint_states: list[str] = field(default_factory=list)  # one a look
    model_files: tuple[str, ...] = ("config.json", "handler.py")
    refusals: dict[str, int] = field(default_factory=dict)  # the path's beginning to a status
    requests: list[tuple[str, str]] = field(default_factory=list)

    def start(self, namespace: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Stores a job as the service tells about it."""
        wrong = [key for key, value in body.items() if not isinstance(value, FIELDS.get(key, ()))]
        wrong += [
            f"volume {sorted(set(item) - VOLUME)}" for item in body.get("volumes", []) if set(item) - VOLUME
        ]
        if wrong or "dockerImage" not in body:
            return 400, {"error": f"unrecognized keys: {wrong}"}
        self.secrets |= body.pop("secrets", {})
        number = f"{len(self.jobs):024x}"
        self.jobs[number] = body | {
            "id": number,
            "createdAt": "2026-01-02T03:04:05.000Z",
            "owner": {"id": "1", "name": namespace, "type": "user"},
            "status": {"stage": "SCHEDULING", "message": None},
        }
        return 200, self.jobs[number]

    def answer(self, method: str, target: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and reply."""
        split = urlsplit(target)
        parts, query = split.path.strip("/").split("/")[1:], parse_qs(split.query)
        match [method, *parts]:
            case ["GET", "whoami-v2"]:
                token = {"accessToken": {"role": self.role}}
                return 200, {"type": "user", "name": "user", "orgs": [{"name": "lab"}], "auth": token}
            case ["GET", "jobs", "hardware"]:
                return 200, HARDWARE
            case ["POST", "jobs", namespace]:
                return self.start(namespace, body)
            case ["GET", "jobs", _]:
                assert query.get("label", ["app=arxiv-cls"]) == ["app=arxiv-cls"]
                return 200, list(self.jobs.values())
            case ["GET", "jobs", _, number] if number in self.jobs:
                if self.stages:
                    self.jobs[number]["status"]["stage"] = self.stages.pop(0)
                return 200, self.jobs[number]
            case ["POST", "jobs", _, number, "cancel"] if number in self.jobs:
                self.jobs[number]["status"]["stage"] = "CANCELED"
                return 200, {}
            case ["GET", "datasets", "user", "csv"]:
                return 200, {"id": "user/csv", "sha": COMMIT}
            case ["POST", "datasets", "user", "csv", "paths-info", revision] if revision == COMMIT:
                if self.csv is None:
                    return 200, []
                sha256 = hashlib.sha256(self.csv).hexdigest()
                lfs = {"oid": sha256, "size": len(self.csv), "pointerSize": 134}
                size = len(self.csv)
                return 200, [{"type": "file", "path": "arxiv.csv", "size": size, "oid": "1" * 40, "lfs": lfs}]
            case ["GET", "buckets", owner, name] if f"{owner}/{name}" in self.buckets:
                date = "2026-01-01T00:00:00.000Z"
                return 200, {
                    "id": f"{owner}/{name}",
                    "private": True,
                    "createdAt": date,
                    "size": 0,
                    "totalFiles": 0,
                }
            case ["GET", "models", "user", "name", *revision] if revision in ([], ["revision", "v1.2.0"]):
                files = [{"rfilename": name} for name in self.model_files]
                return 200, {"id": "user/name", "sha": COMMIT, "siblings": files}
            case [_, "endpoint", namespace, *name]:
                return self.endpoint(method, f"{namespace}/{name[0] if name else body['name']}", body)
        return 404, {"error": "not found"}

    def endpoint(self, method: str, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        """An Inference Endpoint as the service tells about it."""
        wrong = [
            f"{part}.{key}"
            for part, known in ENDPOINT.items()
            for key in set(body.get(part, {}) if part else body) - known
        ]
        if wrong:
            return 400, {"error": f"unrecognized keys: {wrong}"}
        if method != "POST" and name not in self.endpoints:
            return 404, {"error": "not found"}
        found = self.endpoints.setdefault(name, {})
        found |= {
            key: found.get(key, {}) | value if isinstance(value, dict) else value
            for key, value in body.items()
        }
        state = self.endpoint_states.pop(0) if self.endpoint_states else "running"
        date = "2026-01-02T03:04:05.000Z"
        status = {"state": state, "message": "because", "createdAt": date, "updatedAt": date}
        if state == "running":
            status["url"] = "https://x1.endpoints.example"
        return 200, found | {"status": status, "healthRoute": "/health"}


@dataclass
class LocalRegistry(Loopback):
    """A registry with one tag; it wants the token that it names itself."""

    platforms: tuple[str, ...] = ("amd64", "arm64")
    single: bool = False  # one manifest in place of an index
    status: int | None = None

    @property
    def image(self) -> str:
        """Its name with the tag."""
        return f"{self.url.removeprefix('http://')}/user/arxiv-cls/train:1.2.0"

    @property
    def manifest(self) -> bytes:
        """The index, or the one manifest."""
        if self.single:
            return json.dumps({"config": {"digest": "sha256:" + "b" * 64}}).encode()
        listed = [
            {"platform": {"architecture": name, "os": "linux"}} for name in (*self.platforms, "unknown")
        ]
        return json.dumps({"manifests": listed}).encode()

    @property
    def digest(self) -> str:
        """Of the tag."""
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"


class _Registry(JsonHandler):
    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        repository = "/v2/user/arxiv-cls/train"
        if path == "/token":
            assert parse_qs(urlsplit(self.path).query)["scope"] == ["repository:user/arxiv-cls/train:pull"]
            self.answer(200, {"token": "pull"})
        elif self.headers.get("Authorization") != "Bearer pull":
            scope = "repository:user/arxiv-cls/train:pull"
            challenge = f'Bearer realm="{self.service.url}/token",service="local",scope="{scope}"'
            self.answer(401, {}, WWW_Authenticate=challenge)
        elif self.service.status:
            self.answer(self.service.status, {})
        elif path == f"{repository}/manifests/1.2.0":
            self.answer(200, self.service.manifest, Docker_Content_Digest=self.service.digest)
        elif path == f"{repository}/blobs/sha256:{'b' * 64}":
            self.answer(200, {"architecture": self.service.platforms[0]})
        else:
            self.answer(404, {})


class _Handler(JsonHandler):
    def _serve(self) -> None:
        data = self.body()
        self.service.requests.append((f"{self.command} {self.path}", data))
        path = urlsplit(self.path).path
        refused = next(
            (status for start, status in self.service.refusals.items() if path.startswith(start)), None
        )
        if self.headers.get("Authorization") != f"Bearer {self.service.token}":
            refused = 401
        if refused:
            self.answer(refused, {"error": "because"})
        elif path.endswith("/logs") and path.split("/")[-2] in self.service.jobs:
            self._stream()
        else:
            body = {} if not data else (json.loads(data) if data[0] == "{" else parse_qs(data))
            status, reply = self.service.answer(self.command, self.path, body)
            self.answer(status, reply)

    def _stream(self) -> None:
        lines = self.service.log[: self.service.breaks.pop(0)] if self.service.breaks else self.service.log
        whole = len(lines) == len(self.service.log)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            event = json.dumps({"timestamp": "2026-01-02T03:04:05.000Z", "data": line})
            chunk = f"data: {event}\n\n".encode()
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        if whole:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    do_GET = do_POST = do_PUT = _serve


LocalHubJobs.handler, LocalRegistry.handler = _Handler, _Registry
