"""A file server on loopback with the faults that downloads meet: drops, stalls, errors, no ranges."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from loopback import serving


@dataclass
class FileServer:
    """What is served, how, and what was asked for."""

    files: dict[str, bytes]
    etag: str | None = '"one"'
    ranges: bool = True
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

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            asked = self.headers.get("Range")
            server.requests.append((self.command, self.path, asked))
            content = server.files.get(self.path)
            if server.status or content is None:
                self.send_error(server.status or 404)
                return
            start = 0
            if asked and server.ranges and self.headers.get("If-Range") in (None, server.etag):
                start = int(asked.removeprefix("bytes=").split("-")[0])
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if server.etag:
                self.send_header("ETag", server.etag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if body:
                self._send(content[start:])

        def _send(self, content: bytes) -> None:
            if server.drops:
                self.wfile.write(content[: server.drops.pop(0)])
                self.close_connection = True
            elif server.stall_after is not None and not server.go_on.is_set():
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
