"""Reads the CSV into Arrow columns: fast where the file is clean, exact about lines where it is not.

`pyarrow.csv` reads with all threads into binary columns, while the positions of the quotes vouch that its
lenient parsing met nothing to be lenient about. Only a file with damaged rows is cut into records (see
`csv_structure`), rid of them and read again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from arxiv_cls.corpus.csv_header import FIELDS, Header, read_header
from arxiv_cls.corpus.csv_structure import (
    LINE_FEED,
    WRONG_COLUMNS,
    Records,
    find_records,
    line_break_of,
    scan_quotes,
)
from arxiv_cls.errors import UserError

_BLOCK = 1 << 22  # bytes that pyarrow parses at once; 4 MiB was the fastest of 1, 4 and 8 on two cores
_LARGEST_BLOCK = 2**31 - 1


@dataclass(frozen=True)
class DamagedRow:
    """A row that could not be taken apart into columns."""

    row: int  # number of the row in the file, from 0, blank lines not counted
    line: int  # physical line, from 1
    reason: str
    value: str  # how the row begins


@dataclass
class RawTable:
    """The columns of a CSV as they stand in the file."""

    table: pa.Table  # binary columns named by the keys of COLUMN_NAMES that the file has
    rows: np.ndarray  # int64, (table rows,): number of each row in the file, from 0
    lines: np.ndarray  # int64, (table rows,): physical line of each row, from 1
    damaged: list[DamagedRow]
    rows_read: int  # table rows and damaged rows
    column_names: dict[str, str]  # key of COLUMN_NAMES to the name in the file


def read_bytes(path: str | Path) -> bytes:
    """The whole file.

    Raises:
        UserError: it is missing, a directory, or cannot be read.
    """
    path = Path(path)
    hint = None
    if not path.exists():
        hint = "get it with `make data`, or take the synthetic one: --data.csv data/sample/arxiv_sample.csv"
    try:
        return path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise UserError(f"{path}: the CSV cannot be read: {reason}", hint) from error


def read_csv(data: bytes, path: Path, required: Sequence[str] = FIELDS) -> RawTable:
    """Takes the file apart into columns; rows that are no rows are listed, not dropped.

    Args:
        data: the whole file.
        path: named in messages.
        required: those of `FIELDS` that must have a column.

    Raises:
        UserError: the header is not usable, see `read_header`.
    """
    header = read_header(data, path, required)
    structure = scan_quotes(data, header.data_start)
    body = pa.py_buffer(data).slice(header.data_start)
    if not structure.damages and not _has_stray_returns(data, header.data_start):
        table = _parse(body, header, _BLOCK)
        if table is not None:
            rows = np.arange(len(table), dtype=np.int64)
            lines = rows + header.line + 1
            if data.count(line_break_of(data).to_bytes(), header.data_start) > len(table):
                # Blank lines or line breaks inside fields: rows are not lines.
                lines = find_records(data, header.data_start, header.line + 1, structure).lines
            return RawTable(table, rows, lines, [], len(table), header.column_names())
    records = find_records(data, header.data_start, header.line + 1, structure)
    return _read_without_damaged(data, header, records)


def _has_stray_returns(data: bytes, start: int) -> bool:
    """Whether carriage returns stand elsewhere than in line ends; pyarrow would end a row at them."""
    if data.find(b"\r", start) < 0:  # counting takes ten times as long as looking
        return False
    return LINE_FEED in data and data.count(b"\r", start) != data.count(b"\r\n", start)


def _parse(body: pa.Buffer, header: Header, block: int) -> pa.Table | None:
    """The wanted columns, binary; None where a row is not one, whatever pyarrow dislikes about it."""
    names = [f"column {index}" for index in range(len(header.names))]
    wanted = {key: names[index] for key, index in header.indices.items()}
    if body.size == 0:
        return pa.table({key: pa.array([], type=pa.binary()) for key in wanted})
    try:
        # No invalid_row_handler: it gets the row as text, which a damaged row need not be.
        table = pacsv.read_csv(
            pa.BufferReader(body),
            read_options=pacsv.ReadOptions(column_names=names, block_size=block),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(wanted.values()),
                column_types={name: pa.binary() for name in wanted.values()},
            ),
        )
    except pa.ArrowInvalid as error:
        # A row longer than the block: take the file as one block, the most that a row can be.
        whole = min(body.size + 1, _LARGEST_BLOCK)
        return _parse(body, header, whole) if "block" in str(error) and block < whole else None
    return table.rename_columns(list(wanted))


def _read_without_damaged(data: bytes, header: Header, records: Records) -> RawTable:
    """Reads the records with the right number of columns, and lists the others."""
    expected = len(header.names)
    good = records.columns == expected
    damaged = []
    for index in np.flatnonzero(~good).tolist():
        reason = records.reasons.get(index)
        if reason is None:
            reason = f"{WRONG_COLUMNS}: {records.columns[index]} instead of {expected}"
        begin = int(records.starts[index])
        value = data[begin : min(begin + 80, int(records.stops[index]))].decode("utf-8", "replace").rstrip()
        damaged.append(DamagedRow(index, int(records.lines[index]), reason, value))
    view, pieces = memoryview(data), []
    rows = np.flatnonzero(good)
    # Neighbouring good records are one piece.
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for group in np.split(rows, breaks):
        if len(group):
            pieces.append(view[int(records.starts[group[0]]) : int(records.stops[group[-1]])])
    table = _parse(pa.py_buffer(b"".join(pieces)), header, _BLOCK)
    if table is None or len(table) != len(rows):
        read = "could not be" if table is None else f"{len(table)} were"
        raise RuntimeError(f"{len(rows)} rows were found and {read} read: the scan and pyarrow disagree")
    return RawTable(table, rows, records.lines[good], damaged, len(good), header.column_names())
