"""Reads what W&B wrote into an offline run."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

HEADER_BYTES, BLOCK_BYTES, LAST_CHUNK_TYPES = 7, 32768, (1, 4)


def run_files(folder: Path) -> list[Path]:
    """The files of the offline runs in a run's folder, oldest first."""
    return sorted((folder / "wandb").glob("offline-run-*/*.wandb"))


def recorded_to_the_end(run_file: Path) -> list:
    """The records of a run file, once W&B's own process has written the last one."""
    from google.protobuf.message import DecodeError

    deadline = time.monotonic() + 60
    while True:
        try:
            records = recorded(run_file)
        except (struct.error, DecodeError):
            records = []
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        assert time.monotonic() < deadline, "the run file has no end"
        time.sleep(0.1)


def recorded(run_file: Path) -> list:
    """The records of a W&B run file: protobuf messages in LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, position = run_file.read_bytes(), HEADER_BYTES
    assert data.startswith(b":W&B")
    records, message = [], b""
    while position < len(data):
        left_in_block = BLOCK_BYTES - position % BLOCK_BYTES
        if left_in_block < HEADER_BYTES:
            position += left_in_block
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        position += HEADER_BYTES
        message += data[position : position + length]
        position += length
        if kind in LAST_CHUNK_TYPES:
            records.append(wandb_internal_pb2.Record.FromString(message))
            message = b""
    return records


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(records: list) -> dict[str, Any]:
    """The last value of everything that was logged at a step."""
    return _values(item for record in records for item in record.history.item)


def summary(records: list) -> dict[str, Any]:
    """The summary of the run."""
    return _values(item for record in records for item in record.summary.update)


def config(records: list) -> dict[str, Any]:
    """The configuration of the run."""
    return _values(item for record in records for item in record.run.config.update)


def exit_code(records: list) -> int:
    """How the run ended."""
    (code,) = [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"]
    return code
