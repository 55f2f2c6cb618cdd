"""What stands in the files of a request log."""

from __future__ import annotations

import json
from pathlib import Path


def lines_in(directory: Path) -> list[dict]:
    """The lines of all files, oldest file first."""
    files = sorted(directory.glob("requests-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
