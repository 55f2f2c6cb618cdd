"""The commands of docs/serving.md print what the page says they print."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from local_servers import TOKEN, served_by_make

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
    environment = os.environ | {"ARXIV_CLS_TOKEN": TOKEN}
    with served_by_make(command, tmp_path / "output.txt") as server:
        examples = SHOWN.findall(PAGE)
        assert len(examples) == PAGE.count("```json") == 6
        for line, said in examples:
            asked = line.replace("localhost:8000", server.url.removeprefix("http://"))
            done = subprocess.run(
                ["bash", "-c", asked], capture_output=True, text=True, timeout=120, env=environment
            )
            assert close_to(json.loads(done.stdout), json.loads(said)), f"{line}\nprinted\n{done.stdout}"
