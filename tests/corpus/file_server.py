"""A file server on loopback with the faults that downloads meet; it also answers what kagglehub asks of Kaggle."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from loopback import serving

ARCHIVE = "/archive.zip"


@dataclass
class FileServer:
    """What is served, how, and what was asked for."""

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
                self.send_header("Location", f"{server.url}{ARCHIVE}")
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
