"""The web demo as a process, and a browser in front of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from server_process import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class SpaceProcess:
    """`arxiv-cls space MODEL`, or another program that opens the page, on a free port of 127.0.0.1.

    Args:
        command: arguments of Python; `{port}` in them is the port.
        output: file for what the process prints.
        env: variables to add.
        cwd: where it runs.
    """

    def __init__(
        self, command: list[str], output: Path, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.port, self.output = free_port(), output
        self.url = f"http://127.0.0.1:{self.port}"
        variables = (
            os.environ
            | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "GRADIO_SERVER_PORT": str(self.port)}
            | (env or {})
        )
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *(part.format(port=self.port) for part in command)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=variables,
                cwd=cwd,
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
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)
