"""CSV files: every record with its physical line, and every damaged one with the reason.

`read_table` takes a clean file apart with pyarrow. pyarrow is lenient (an unterminated quote swallows the
rows behind it without an error), so the quotes are verified first; a file with anything wrong is read record
by record, by `records`, which any caller may iterate over. Both find the same records.

Format (RFC 4180): a quote opens a field only at its beginning, a doubled quote inside is a quote, a closing
quote is followed by a comma or a line end. A quote in the middle of an unquoted field is text.
"""

from __future__ import annotations

import csv
import errno
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from arxiv_cls.errors import UserError

# Field of ours to the names it goes by in the exports, the newer first.
COLUMN_NAMES = {
    "id": ("id",),
    "title": ("title",),
    "abstract": ("summary", "abstract"),
    "category_code": ("category_code",),
    "category": ("category", "categories"),
    "published": ("published_date",),
}
FIELDS = ("id", "title", "abstract", "category", "published")
"""What a paper consists of; `category` is filled from `category_code` or, without it, from the name."""

UNTERMINATED = "unterminated quote"
AFTER_QUOTE = "text after a closing quote"
STRAY_RETURN = "carriage return inside a row"
WRONG_COLUMNS = "wrong number of columns"
REPEATED_HEADER = "repeated header"

QUOTE, COMMA, LINE_FEED, CARRIAGE_RETURN = 34, 44, 10, 13
_FIELD = re.compile(rb'(?:"([^"]*+(?:""[^"]*+)*+)"|(?!")([^,\r\n]*+))(,|\r?\n|\r?\Z)')
_CHUNK = 1 << 22  # bytes that numpy compares and pyarrow parses at once; 4 MiB was the fastest of 1, 4 and 8
_RECORDS = 10_000  # records per chunk of a table that is read record by record
_DELIMITERS = (("semicolons", ";"), ("tabs", "\t"), ("vertical bars", "|"))
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class CsvFile:
    """The bytes of a CSV whose header was checked; a file with carriage returns alone has line feeds here."""

    path: Path
    data: bytes
    names: tuple[str, ...]  # of the columns, trimmed and in lower case
    header: list[bytes]  # the same as they stand in the file
    columns: dict[str, int]  # key of COLUMN_NAMES to column index, for those that the file has
    start: int  # offset of the first byte behind the header
    line: int  # physical line of that byte, from 1

    def column_names(self) -> dict[str, str]:
        """Key of `COLUMN_NAMES` to the name in the file, for the columns that are there."""
        return {key: self.names[index] for key, index in self.columns.items()}


class Record(NamedTuple):
    """One record of a CSV."""

    line: int  # physical line, from 1; of an unterminated quote the line that opened it
    fields: list[bytes]  # as many as the header has; of a damaged record what could be read
    reason: str  # why it is no row of the table, "" when it is one
    beginning: str  # of a damaged record, at most 80 characters


@dataclass(frozen=True)
class Reject:
    """A row that cannot be used, and why."""

    row: int  # number of the row in the file, from 0, blank lines not counted
    line: int  # physical line, from 1
    column: str  # name of the column in the file, or "" when the row could not be taken apart
    reason: str
    value: str  # the value in question, at most 80 characters


@dataclass
class RawTable:
    """The columns of a CSV as they stand in the file."""

    table: pa.Table  # binary columns named by the keys of COLUMN_NAMES that the file has
    rows: np.ndarray  # int64, (table rows,): number of each row in the file, from 0
    lines: np.ndarray  # int64, (table rows,): physical line of each row, from 1
    damaged: list[Reject]

    @property
    def rows_read(self) -> int:
        """Rows of the table and damaged ones."""
        return len(self.table) + len(self.damaged)


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


def open_csv(path: str | Path, required: Sequence[str] = FIELDS, data: bytes | None = None) -> CsvFile:
    """Reads a file and checks its header; blank lines and Excel's `sep=,` may stand before it.

    Args:
        path: the file.
        required: those of `FIELDS` that must have a column.
        data: the bytes of the file, where the caller has them already.

    Raises:
        UserError: the file cannot be read, is empty, no CSV in UTF-8 or has another delimiter, or a column is
            missing or there twice.
    """
    path = Path(path)
    data = read_bytes(path) if data is None else data
    if data[:2] == b"\x1f\x8b":
        raise UserError(f"{path}: the file is a gzip archive", "unpack it first: gunzip FILE")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: the file is UTF-16", "save it as UTF-8")
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    end, line, row = len(_BYTE_ORDER_MARK) * data.startswith(_BYTE_ORDER_MARK), 0, b""
    while not row or row.lower() == b"sep=,":
        start, line = end, line + 1
        if start == len(data):
            raise UserError(
                f"{path}: the file is empty", "a CSV with a header line is expected: run `make data`"
            )
        end = data.find(b"\n", start) + 1 or len(data)
        row = data[start:end].strip()
    where = f"{path}, line {line}"
    try:
        fields = next(csv.reader([data[start:end].rstrip(b"\r\n").decode("utf-8")], strict=True))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: the header is not UTF-8 (byte {error.start})", "is it a CSV?") from None
    except csv.Error as error:
        raise UserError(f"{where}: the header cannot be read: {error}") from None
    names = tuple(name.strip().lower() for name in fields)
    columns: dict[str, int] = {}
    for key, aliases in COLUMN_NAMES.items():
        for alias in aliases:
            if names.count(alias) > 1:
                times = names.count(alias)
                raise UserError(f"{where}: the column {alias!r} is there {times} times", "keep one of them")
            if alias in names:
                columns.setdefault(key, names.index(alias))
    _check_required(where, names, columns, required)
    header = [name.encode() for name in fields]
    return CsvFile(path, data, names, header, columns, end, line + 1)


def _check_required(
    where: str, names: tuple[str, ...], columns: dict[str, int], required: Sequence[str]
) -> None:
    missing = []
    for wanted in required:
        keys = ("category_code", "category") if wanted == "category" else (wanted,)
        if not columns.keys() & set(keys):
            missing.append(" or ".join(alias for key in keys for alias in COLUMN_NAMES[key]))
    if not missing:
        return
    found = ", ".join(names)
    hint = "the columns are named as in the public file; see the README of the data"
    for name, delimiter in _DELIMITERS:
        if len(names) == 1 and delimiter in names[0]:
            hint = f"the columns seem to be separated by {name}: save the file with commas"
    shown = found if len(found) <= 300 else found[:300] + "..."
    raise UserError(f"{where}: missing columns: {'; '.join(missing)}\n  found: {shown}", hint)


def records(file: CsvFile) -> Iterator[Record]:
    """The records behind the header, in order, without blank lines.

    A damaged record costs the physical lines up to the one with the damage, and nothing behind it.
    """
    data, position, line = file.data, file.start, file.line
    while position < len(data):
        begin, fields, more = position, [], True
        while more and (field := _FIELD.match(data, position)):
            quoted, plain, delimiter = field.groups()
            fields.append(plain if quoted is None else quoted.replace(b'""', b'"'))
            position, more = field.end(), delimiter == b","
        reason, blamed = "", line
        if more:
            end = data.find(b"\n", position) + 1 or len(data)
            reason = _damage(data, position, end)
            blamed += data.count(b"\n", begin, position)
            position = end
        elif len(fields) == 1 and data[begin] in (LINE_FEED, CARRIAGE_RETURN):
            line += 1
            continue
        elif len(fields) != len(file.names):
            reason = f"{WRONG_COLUMNS}: {len(fields)} instead of {len(file.names)}"
        elif fields == file.header:
            reason = REPEATED_HEADER
        line += data.count(b"\n", begin, position)
        beginning = data[begin : min(begin + 80, position)].decode("utf-8", "replace").rstrip()
        yield Record(blamed, fields, reason, beginning if reason else "")


def _damage(data: bytes, position: int, end: int) -> str:
    """What is wrong with the field at `position`, in a line that ends before `end`."""
    if data[position : position + 1] != b'"':
        return STRAY_RETURN
    closing = re.compile(rb'"[^"]*+(?:""[^"]*+)*+"').match(data, position)
    return UNTERMINATED if closing is None or closing.end() > end else AFTER_QUOTE


def read_table(file: CsvFile) -> RawTable:
    """All records of a file as columns; those that are no rows are listed, none is lost."""
    table = _read_clean(file)
    return _read_by_record(file) if table is None else table


def _read_clean(file: CsvFile) -> RawTable | None:
    """The file as pyarrow reads it; None when anything about it is not as it should be."""
    data, start = file.data, file.start
    if data.find(b"\r", start) >= 0 and data.count(b"\r", start) != data.count(b"\r\n", start):
        return None
    content = np.frombuffer(data, dtype=np.uint8)
    quotes = _positions(content, QUOTE, start)
    if not _quotes_are_paired(content, quotes) or start == len(data):
        return None
    names = [f"column {index}" for index in range(len(file.names))]
    wanted = {key: names[index] for key, index in file.columns.items()}
    try:
        # No invalid_row_handler: it gets the row as text, which a damaged row need not be.
        table = pacsv.read_csv(
            pa.BufferReader(pa.py_buffer(data).slice(start)),
            read_options=pacsv.ReadOptions(column_names=names, block_size=_CHUNK),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(wanted.values()),
                column_types={name: pa.binary() for name in wanted.values()},
            ),
        ).rename_columns(list(wanted))
    except pa.ArrowInvalid:  # a row with another number of columns, or one that is longer than a block
        return None
    repeated = np.full(len(table), bool(file.columns))
    for key, index in file.columns.items():
        if repeated.any():
            repeated &= np.asarray(pc.equal(table[key], file.header[index]))
    if repeated.any():
        return None
    rows = np.arange(len(table), dtype=np.int64)
    lines = rows + file.line
    if data.count(b"\n", start) > len(table):  # blank lines, or line breaks inside fields
        breaks = _positions(content, LINE_FEED, start)
        ends = breaks[np.searchsorted(quotes, breaks) % 2 == 0] + 1
        starts = np.concatenate(([start], ends[ends < len(data)]))
        blank = (content[starts] == LINE_FEED) | (content[starts] == CARRIAGE_RETURN)
        lines = np.searchsorted(breaks, starts[~blank]) + file.line
    return RawTable(table, rows, lines, [])


def _positions(content: np.ndarray, value: int, start: int) -> np.ndarray:
    """Offsets, from `start` on, of the bytes equal to `value`: int64 array."""
    found = [
        np.flatnonzero(content[offset : offset + _CHUNK] == value) + offset
        for offset in range(start, len(content), _CHUNK)
    ]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def _quotes_are_paired(content: np.ndarray, quotes: np.ndarray) -> bool:
    """Whether quotes open and close fields in turn, each where a field begins or ends, or are doubled."""
    if len(quotes) % 2:
        return False
    opening, closing = quotes[0::2], quotes[1::2]
    before = content[opening - 1]
    opens = (before == COMMA) | (before == LINE_FEED)
    opens[1:] |= opening[1:] - 1 == closing[:-1]
    after = content[np.minimum(closing + 1, len(content) - 1)]
    closes = (after == COMMA) | (after == LINE_FEED) | (after == CARRIAGE_RETURN) | (after == QUOTE)
    closes |= closing + 1 == len(content)
    return bool(opens.all() and closes.all())


def _read_by_record(file: CsvFile) -> RawTable:
    damaged: list[Reject] = []
    rows: list[int] = []
    lines: list[int] = []
    chunks: dict[str, list[pa.Array]] = {key: [] for key in file.columns}
    numbered = enumerate(records(file))
    while batch := list(itertools.islice(numbered, _RECORDS)):
        good = [(row, record) for row, record in batch if not record.reason]
        damaged += [Reject(row, r.line, "", r.reason, r.beginning) for row, r in batch if r.reason]
        rows += [row for row, _ in good]
        lines += [record.line for _, record in good]
        for key, index in file.columns.items():
            chunks[key].append(pa.array([record.fields[index] for _, record in good], type=pa.binary()))
    table = pa.table({key: pa.chunked_array(parts, type=pa.binary()) for key, parts in chunks.items()})
    return RawTable(table, np.array(rows, dtype=np.int64), np.array(lines, dtype=np.int64), damaged)
