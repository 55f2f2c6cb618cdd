"""The commands of docs/serving.md print what the page says they print."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from local_servers import TOKEN, Server, free_port

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
SHOWN = re.compile(r"```bash\n(curl .*?)```\n\n```json\n(.*?)```", re.S)
START = re.compile(r"```bash\n(make serve MODEL=\S+)\n```")


def close_to(printed, said) -> bool:
    """Whether two JSON values are the same, scores within a millionth."""
    if isinstance(said, dict):
        return printed.keys() == said.keys() and all(close_to(printed[key], said[key]) for key in said)
    if isinstance(said, list):
        return len(printed) == len(said) and all(map(close_to, printed, said))
    return printed == (pytest.approx(said, abs=1e-6) if isinstance(said, float) else said)


@pytest.mark.slow
def test_what_the_page_prints(tmp_path):
    """`make serve` as the page has it, and each curl line against its output."""
    (command,) = START.findall(PAGE)
    port = free_port()
    output = tmp_path / "output.txt"
    environment = os.environ | {"ARXIV_CLS_TOKEN": TOKEN}
    with output.open("w") as file:
        process = subprocess.Popen(
            [*command.split(), f"PORT={port}"],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, f"http://127.0.0.1:{port}", output)
    try:
        server.wait_until_ready(240)
        examples = SHOWN.findall(PAGE)
        assert len(examples) == PAGE.count("```json") == 6
        for line, said in examples:
            asked = line.replace("localhost:8000", f"127.0.0.1:{port}")
            done = subprocess.run(
                ["bash", "-c", asked], capture_output=True, text=True, timeout=120, env=environment
            )
            assert close_to(json.loads(done.stdout), json.loads(said)), f"{line}\nprinted\n{done.stdout}"
    finally:
        # make, its shell and the server.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
