"""A server process of ours, as a client and as the person who started it see it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKEN = "correct-horse"


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
    model: Path | str, *options: object, output: Path, env: dict[str, str] | None = None
) -> Server:
    """Starts `arxiv-cls serve MODEL [options]` on a free port of loopback; it may not be ready yet.

    The port is an option, unless `env` names it as Vertex AI does.
    """
    named = (env or {}).get("AIP_HTTP_PORT")
    port = int(named or free_port())
    command = [sys.executable, "-m", "arxiv_cls.cli", "serve", str(model)]
    command += [] if named else ["--port", str(port)]
    with output.open("w") as file:
        process = subprocess.Popen(
            [*command, *map(str, options)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"ARXIV_CLS_TOKEN": TOKEN} | (env or {}),
        )
    return Server(process, f"http://127.0.0.1:{port}", output)
