"""Files that appear whole: written beside their place and renamed, so that no reader sees half of one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def text_cell(text: str) -> str:
    """A cell of a CSV that no spreadsheet executes: `'` before what it would take for a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path in the same folder to write to; on leaving it takes the place of `path`, after an error it goes.

    Args:
        path: the file that is to appear or to be replaced; its folder is made.

    Raises:
        OSError: the file cannot be written or renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a whole file, text as UTF-8.

    Raises:
        OSError: the file cannot be written.
    """
    with staged(path) as partial:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_json(content: dict[str, Any], path: Path) -> None:
    """Writes a record as JSON.

    Raises:
        ValueError: a number is not finite.
        OSError: the file cannot be written.
    """
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
