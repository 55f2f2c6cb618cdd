"""Writing files whole, and their checksums: the step that writes a file records it, a release compares.

Each step owns one JSON record (`manifest.RECORD_COMMANDS`), so that a pipeline whose stages own their files
can run them one by one. A record ends with the sha256 of its own text (`record_sha256`), and gives the sha256
of the files that were written or measured with it (`files`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from arxiv_cls.errors import UserError
from arxiv_cls.record.manifest import METRICS, RECORD_COMMANDS, RECORD_OF, RELEASE

CHECKSUM_LINE = "# sha256 of the lines above: "
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# A file that changed within this time may change again without a new time stamp: clocks of filesystems tick.
CLOCK_TICK_NS = 100_000_000


def text_cell(text: str) -> str:
    """A cell of a CSV that no spreadsheet executes: `'` before what it would take for a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place, or goes after an error; the folder is made.

    Raises:
        UserError: `path` is a directory or a device.
        OSError: the file cannot be written or renamed.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is a directory or a device, not a file to replace", "name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a whole file, text as UTF-8; errors as of `staged`."""
    with staged(path) as partial:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_json(content: dict[str, Any], path: Path) -> None:
    """Writes a record as JSON.

    Raises:
        ValueError: a number is not finite.
    """
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file, in hexadecimal; a process reads a file once, and again after it changed."""
    state = Path(path).stat()
    changed = max(state.st_mtime_ns, state.st_ctime_ns)
    read = _sha256 if abs(time.time_ns() - changed) > CLOCK_TICK_NS else _sha256.__wrapped__
    return read(str(path), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, changed)


@functools.lru_cache(maxsize=512)
def _sha256(path: str, *_: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_record(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Writes the JSON record of a step with the checksum of its own text, and returns it so."""
    text = _with_checksum(content)
    write_atomically(path, text)
    return json.loads(text)


def write_step_record(
    content: dict[str, Any], model_dir: Path, record: str, known: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Writes the record of a step with the checksums of its files, as they are now, and returns it so.

    Args:
        content: of the record, without `files` (path to sha256) and `record_sha256`.
        model_dir: the model directory.
        record: path of the record in it, a key of `RECORD_COMMANDS`.
        known: checksums that the step has already, by path.
    """
    known = known or {}
    files = {
        path: known.get(path) or file_sha256(model_dir / path)
        for path, owner in RECORD_OF.items()
        if owner == record != path and (model_dir / path).is_file()
    }
    return write_record(content | {"files": files}, model_dir / record)


def update_file(model_dir: Path, path: str) -> None:
    """Records a file anew in the evaluation, for a step that completes it afterwards."""
    record = json.loads((model_dir / METRICS).read_text(encoding="utf-8"))
    record["files"][path] = file_sha256(model_dir / path)
    write_record(record, model_dir / METRICS)


def with_checksum_line(text: str) -> str:
    """A YAML text that ends with a comment, the checksum of what is above it."""
    return f"{text}{CHECKSUM_LINE}{hashlib.sha256(text.encode()).hexdigest()}\n"


def _with_checksum(content: dict[str, Any]) -> str:
    content = {key: value for key, value in content.items() if key != "record_sha256"}

    def text(value: dict[str, Any]) -> str:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    return text(content | {"record_sha256": hashlib.sha256(text(content).encode()).hexdigest()})


def changed_files(model_dir: Path, paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """The files of `RECORD_OF` that are not as recorded, and those that no record names."""
    changed, unrecorded = [], []
    named: dict[str, dict[str, str]] = {}
    for record in RECORD_COMMANDS:
        intact, named[record] = checked_record(model_dir / record)
        if intact is None:
            unrecorded.append(record)
        elif not intact:
            changed.append(record)
    paths = list(paths)
    for path in paths:
        if path in RECORD_COMMANDS or path not in RECORD_OF:
            continue
        recorded = named[RECORD_OF[path]].get(path)
        if recorded is None:
            unrecorded.append(path)
        # A link that leads nowhere is no file.
        elif not (model_dir / path).is_file() or file_sha256(model_dir / path) != recorded:
            changed.append(path)
    gone = [path for files in named.values() for path in files if path not in paths]
    present = {*paths, *gone}
    return [path for path in [*changed, *gone] if path in present], [p for p in unrecorded if p in present]


def checked_record(path: Path) -> tuple[bool | None, dict[str, str]]:
    """Whether a record is as it was written (None: it has no checksum), and the files that it names."""
    try:
        text = path.read_bytes().decode()
        if path.name == RELEASE:
            body, found, _ = text.rpartition(CHECKSUM_LINE)
            return (text == with_checksum_line(body)) if found else None, {}
        content = json.loads(text)
        if "record_sha256" not in content:
            return None, {}
        files = {str(key): str(value) for key, value in content.get("files", {}).items()}
        return text == _with_checksum(content), files
    except FileNotFoundError:
        return None, {}
    except (ValueError, AttributeError):
        return False, {}
