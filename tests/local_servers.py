"""Servers for tests, all on the loopback address: ours as processes, and stand-ins for those of others."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "correct-horse"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Quiet: the clients that tests kill in the middle of an answer are no error."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves on a free port, and yields `http://127.0.0.1:PORT`."""
    with _Server(("127.0.0.1", 0), handler) as server:
        # The interval is how long `shutdown` waits at most.
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


class Loopback:
    """A stand-in for the service of somebody else; a context manager. Its `handler` knows it as `service`."""

    handler: type[BaseHTTPRequestHandler]
    url = ""

    def __enter__(self):
        self._server = serving(type("Handler", (self.handler,), {"service": self}))
        self.url = self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__(None, None, None)


class JsonHandler(BaseHTTPRequestHandler):
    """Reads and answers JSON, and keeps the test output clean."""

    service: Any
    protocol_version = "HTTP/1.1"
    wbufsize = 65536

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def body(self) -> str:
        """Of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()

    def answer(self, status: int, content: Any, **headers: str) -> None:
        """Sends bytes as they are, all else as JSON."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content_Type": "application/json"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@dataclass
class Server:
    """A server process of ours."""

    process: subprocess.Popen
    url: str
    output: Path

    def call(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 60
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, decoded body and headers of a GET, or of a POST when there is a body."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, headers={"Content-Type": "application/json", **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return reply.status, _decoded(reply.read()), dict(reply.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decoded(error.read()), dict(error.headers)

    def wait_until_ready(self, seconds: float = 120) -> None:
        """Waits for the model."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.output.read_text()
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                if self.call("/health", timeout=5)[0] == 200:
                    return
            time.sleep(0.05)
        raise AssertionError("the server did not get ready: " + self.output.read_text())

    def log_lines(self) -> list[dict[str, Any]]:
        """The JSON lines that the server has logged."""
        return [json.loads(line) for line in self.output.read_text().splitlines() if line.startswith("{")]

    def stop(self, how: int = signal.SIGTERM, seconds: float = 60) -> int:
        """Ends the process and returns its status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(seconds)


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_process(
    model: Path | str,
    *options: object,
    output: Path,
    env: dict[str, str] | None = None,
    words: tuple[str, ...] = ("serve",),
) -> Server:
    """Starts `arxiv-cls serve MODEL [options]` on a free port of loopback; it may not be ready yet.

    `words` name another command. The port is an option, unless `env` names it as Vertex AI does.
    """
    named = (env or {}).get("AIP_HTTP_PORT")
    port = int(named or free_port())
    command = [sys.executable, "-m", "arxiv_cls.cli", *words, str(model)]
    command += [] if named else ["--port", str(port)]
    with output.open("w") as file:
        process = subprocess.Popen(
            [*command, *map(str, options)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"ARXIV_CLS_TOKEN": TOKEN} | (env or {}),
        )
    return Server(process, f"http://127.0.0.1:{port}", output)


@contextmanager
def served_by_make(command: str, output: Path) -> Iterator[Server]:
    """The server that a page's `make serve ...` starts, with our token; it ends with the block."""
    port = free_port()
    with output.open("w") as file:
        process = subprocess.Popen(
            [*command.split(), f"PORT={port}"],
            cwd=Path(__file__).resolve().parents[1],
            env=os.environ | {"ARXIV_CLS_TOKEN": TOKEN},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, f"http://127.0.0.1:{port}", output)
    try:
        server.wait_until_ready(240)
        yield server
    finally:
        # make, its shell and the server.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def lines_in(directory: Path, prefix: str = "requests-") -> list[dict]:
    """The lines of all files, oldest file first."""
    files = sorted(directory.glob(f"{prefix}*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@dataclass
class Webhook:
    """A receiver that answers with `statuses` one after the other, then 200, and keeps what it took."""

    statuses: list[int] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def open(self) -> Iterator[str]:
        """Runs it until the block ends; yields its address."""
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = hook.statuses.pop(0) if hook.statuses else 200
                if status == 200:
                    hook.taken.append(body)
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

        with serving(Handler) as url:
            yield f"{url}/services/SECRET"


@contextmanager
def storage_emulator(monkeypatch: Any) -> Iterator[None]:
    """An emulator of Google's storage with the bucket `logs`, which both clients use meanwhile."""
    import gcsfs
    from gcp_storage_emulator.server import create_server

    port = free_port()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    emulator = create_server("127.0.0.1", port, in_memory=True, default_bucket="logs")
    emulator.start()
    gcsfs.GCSFileSystem.clear_instance_cache()
    try:
        yield
    finally:
        emulator.stop()


class SpaceProcess:
    """A program that opens the page on a free port of 127.0.0.1: Python's arguments, `{port}` in them."""

    def __init__(
        self, command: list[str], output: Path, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.port, self.output = free_port(), output
        self.url = f"http://127.0.0.1:{self.port}"
        ours = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "GRADIO_SERVER_PORT": str(self.port)}
        words = [sys.executable, *(part.format(port=self.port) for part in command)]
        variables = os.environ | ours | (env or {})
        with output.open("w") as file:
            self.process = subprocess.Popen(
                words, stdout=file, stderr=subprocess.STDOUT, env=variables, cwd=cwd
            )

    def wait_until_open(self, seconds: float = 300) -> SpaceProcess:
        """Waits for the page."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.output.read_text()
            try:
                # Gradio answers before its queue runs; it prints this line once all is ready.
                with urllib.request.urlopen(self.url + "/config", timeout=5):
                    if "Running on" in self.output.read_text():
                        return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise AssertionError("the page did not open: " + self.output.read_text())

    def call(self, name: str, *arguments: Any) -> tuple[str, Any]:
        """Calls an endpoint as any client would: the event it ends with, and its data."""
        body = json.dumps({"data": list(arguments)}).encode()
        request = urllib.request.Request(
            f"{self.url}/gradio_api/call/{name}", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            event_id = json.loads(reply.read())["event_id"]
        with urllib.request.urlopen(f"{self.url}/gradio_api/call/{name}/{event_id}", timeout=300) as reply:
            lines = reply.read().decode().splitlines()
        event = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")][-1]
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")][-1]
        return event, json.loads(data)

    def stop(self) -> None:
        """Ends the process."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)


KAGGLE_ARCHIVE = "/archive.zip"


@dataclass
class FileServer:
    """A file server with the faults that downloads meet; it also answers what kagglehub asks of Kaggle."""

    files: dict[str, bytes]
    status: int | None = None  # answer every request with this
    drops: list[int] = field(default_factory=list)  # for each coming GET: close after so many body bytes
    stall_after: int | None = None  # send so many body bytes, then wait for `go_on`
    go_on: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    url: str = ""


@contextmanager
def serve(server: FileServer) -> Iterator[FileServer]:
    """Runs the server on a free port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            server.requests.append(("POST", self.path.rsplit("/", 1)[-1], None))
            if server.status:
                self.send_error(server.status)
            elif self.path.endswith("/GetDataset"):
                self._send(200, json.dumps({"currentVersionNumber": 1}).encode(), "application/json")
            else:
                self.send_response(302)
                self.send_header("Location", f"{server.url}{KAGGLE_ARCHIVE}")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.requests.append((self.command, self.path, asked))
            content = server.files.get(self.path)
            if server.status or content is None:
                self.send_error(server.status or 404)
                return
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            self._send(206 if start else 200, content[start:], "application/octet-stream")

        def _send(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if self.command == "GET" and server.drops:
                self.wfile.write(content[: server.drops.pop(0)])
                self.close_connection = True
            elif self.command == "GET" and server.stall_after is not None and not server.go_on.is_set():
                self.wfile.write(content[: server.stall_after])
                self.wfile.flush()
                server.stalled.set()
                server.go_on.wait(60)
                self.close_connection = True
            else:
                self.wfile.write(content)

    with serving(Handler) as server.url:
        try:
            yield server
        finally:
            server.go_on.set()


SERVICE = re.compile(r"^/v2/(projects/[^/]+/locations/[^/]+/services/([^/]+))$")
OPERATION = re.compile(r"^/v2/(projects/[^/]+/locations/[^/]+/operations/[^/]+)$")
# Of a service, at any depth, as the client library google-cloud-run 0.16 has them.
FIELDS = {
    "traffic", "type", "percent", "revision", "ingress", "invokerIamDisabled", "template", "serviceAccount",
    "scaling", "minInstanceCount", "maxInstanceCount", "containers", "image", "args", "env", "name", "value",
    "ports", "containerPort", "resources", "limits", "cpu", "memory", "cpuIdle", "startupCpuBoost",
    "startupProbe", "httpGet", "path", "port", "periodSeconds", "timeoutSeconds", "failureThreshold",
    "valueSource", "secretKeyRef", "secret", "version",
}  # fmt: skip
SERVICE_TYPE = "type.googleapis.com/google.cloud.run.v2.Service"


@dataclass
class LocalCloudRun(Loopback):
    """Cloud Run's REST calls.

    It keeps services as the client sent them, with a revision for each (newest first), answers updates with
    an operation that ends at the first look, takes only requests with a bearer token, and answers all with
    `refuse` (status, reason) when it is set.
    """

    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    revisions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    refuse: tuple[int, str] | None = None
    failure: str | None = None

    def credentials(self, path: Path) -> Path:
        """Writes the key of a service account that was made up here, and returns its path."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {
            "type": "service_account",
            "project_id": "papers",
            "private_key_id": "1",
            "private_key": key.decode(),
            "client_email": "ci@papers.example",
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(account))
        return path

    def update(self, name: str, service: dict[str, Any], mask: str | None) -> dict[str, Any]:
        """Stores a service, or only its traffic; returns the operation that tells how it went."""
        short = name.rsplit("/", 1)[1]
        state = "CONDITION_FAILED" if self.failure else "CONDITION_SUCCEEDED"
        condition = {"type": "Ready", "state": state, "message": self.failure or ""}
        revisions = self.revisions.setdefault(name, [])
        if mask:
            service = self.services[name] | {mask: service[mask]}
        else:
            path = f"{name}/revisions/{short}-{len(revisions) + 1:05}"
            revisions.insert(0, {"name": path, "conditions": [condition]})
        ready = [one["name"] for one in revisions if one["conditions"][0]["state"] == "CONDITION_SUCCEEDED"]
        traffic = service.get("traffic") or [
            {"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100}
        ]
        assert sum(one["percent"] for one in traffic) == 100
        assert {one["revision"] for one in traffic if "revision" in one} <= {
            one.rsplit("/", 1)[1] for one in ready
        }
        deployed = service | {
            "name": name,
            "uri": f"https://{short}.example",
            "terminalCondition": condition,
            "trafficStatuses": traffic if ready else [],
            "latestReadyRevision": ready[0] if ready else "",
        }
        self.services[name] = deployed
        operation = name.replace(f"/services/{short}", f"/operations/{len(self.operations) + 1}")
        self.operations[operation] = {
            "name": operation,
            "done": True,
            "response": {"@type": SERVICE_TYPE, **deployed},
        }
        return {"name": operation, "done": False}


def names_in(content: Any) -> set[str]:
    """The keys of JSON at any depth."""
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else []
    return {
        *(content if isinstance(content, dict) else ()),
        *(name for one in parts for name in names_in(one)),
    }


class _CloudHandler(JsonHandler):
    def _fail(self, status: int, message: str) -> None:
        self.answer(status, {"error": {"code": status, "message": message, "status": "FAKE"}})

    def _serve(self) -> None:
        split, sent = urlsplit(self.path), self.body()
        if split.path == "/token":
            self.answer(200, {"access_token": "made-up", "expires_in": 3600, "token_type": "Bearer"})
            return
        body = json.loads(sent or "{}")
        self.service.requests.append((self.command, split.path))
        if not self.headers.get("Authorization", "").startswith("Bearer "):
            self._fail(401, "the request has no token")
        elif self.service.refuse:
            self._fail(*self.service.refuse)
        elif match := SERVICE.match(split.path):
            self._service(match[1], body, parse_qs(split.query))
        elif (match := SERVICE.match(split.path.removesuffix("/revisions"))) and self.command == "GET":
            self.answer(200, {"revisions": self.service.revisions.get(match[1], [])})
        elif (match := OPERATION.match(split.path)) and match[1] in self.service.operations:
            self.answer(200, self.service.operations[match[1]])
        else:
            self._fail(404, f"no {split.path}")

    def _service(self, name: str, body: dict[str, Any], query: dict[str, list[str]]) -> None:
        known, unknown = name in self.service.services, names_in(body) - FIELDS
        if unknown:
            self._fail(400, f"unknown names: {unknown}")
            return
        if self.command == "PATCH" and (known or query.get("allowMissing") == ["true"]):
            self.answer(200, self.service.update(name, body, query.get("updateMask", [None])[0]))
        elif self.command == "GET" and known:
            self.answer(200, self.service.services[name])
        else:
            self._fail(404, f"Resource {name!r} was not found")

    do_GET = do_PATCH = do_POST = do_DELETE = _serve


LocalCloudRun.handler = _CloudHandler
