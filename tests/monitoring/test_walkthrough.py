"""The walk-through of docs/monitoring.md as it is written: quiet traffic, a shift, the alarm, its report.

`make demo` takes minutes: where it has not run, a baseline of the same papers stands in for its model.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request

import pytest
from command_line import shell_environment
from factories import ROOT
from local_servers import free_port
from test_docs import blocks, project  # noqa: F401

pytestmark = pytest.mark.slow

NAME = "tests/monitoring/test_walkthrough.py"


def answer(url: str, text: str, seconds: float = 120) -> str:
    """What an address answers, once it holds this text."""
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                if text in (found := reply.read().decode()):
                    return found
        except OSError:
            # It starts, or is not ready yet.
            pass
        assert time.monotonic() < until, f"{url} never answered {text}"
        time.sleep(0.2)


def test_walk_through(project, trained, tmp_path):  # noqa: F811
    """The servers run until the end; what they print is what the page says."""
    demo = ROOT / "outputs/demo"
    made = (demo / "monitoring/reference.parquet").is_file() and (demo / "onnx/model.onnx").is_file()
    shutil.copytree(demo if made else trained, project / "outputs/demo")
    ports = {"8000": free_port(), "8001": free_port(), "8002": free_port()}
    environment = shell_environment() | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    codes = [block.code for block in blocks("docs/monitoring.md") if block.run_by == NAME]
    servers, printed = [], {}
    try:
        for number, code in enumerate(codes):
            code = re.sub(r"\b800[012]\b", lambda found: str(ports[found[0]]), code)
            code = code.replace("make serve", f"make serve PORT={ports['8000']}")
            code = code.replace("make monitor", f"make monitor PORT={ports['8001']}")
            url = f"http://127.0.0.1:{ports['8000']}"
            code = re.sub(r"(traffic.py outputs/\S+)", rf"\1 --url {url}", code)
            output = tmp_path / f"{number}.txt"
            with output.open("w") as file:
                process = subprocess.Popen(
                    ["bash", "-euo", "pipefail", "-c", code], cwd=project, env=environment,
                    stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            kind = next((one for one in ("make serve", "make monitor", "--webhook") if one in code), "")
            if kind:
                servers.append(process)
                printed[kind] = output
            else:
                assert process.wait(300) == 0, output.read_text()
            if kind == "make serve":
                answer(f"{url}/health", "")
            if kind == "make monitor":
                answer(f"http://127.0.0.1:{ports['8001']}/", '"status":"ok"')
        assert '"verdict":"alarm"' in output.read_text()
        until = time.monotonic() + 30
        while printed["--webhook"].read_text().count("\n") < 2 and time.monotonic() < until:
            time.sleep(0.2)
        action = json.loads(output.read_text().splitlines()[-1])["action"]
        assert printed["--webhook"].read_text() == f"Drift of outputs/demo: alarm\n  {action}\n"
        for address in (f"{ports['8001']}/drift/report", f"{ports['8000']}/monitoring"):
            assert "Drift: alarm" in answer(f"http://127.0.0.1:{address}", "<html")
    finally:
        for process in servers:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)
