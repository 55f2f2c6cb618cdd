"""Where the records of a CSV begin and end, to the byte, and which of them are damaged.

`pyarrow.csv` reads fast but is lenient: an unterminated quote swallows the rows behind it without a word, and
with threads it cannot say where a bad row was. The scan here looks at the positions of quotes, line breaks
and commas only (whole arrays, no loop per row), so it can both vouch for a clean file in a fraction of the
reading time and name the physical line of every damaged row.

Rules (RFC 4180): a quote opens a field only at the field's beginning, a doubled quote inside is a quote, a
closing quote is followed by a comma or a line end. A quote in the middle of an unquoted field is text.
"""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from arxiv_cls.errors import UserError

QUOTE, COMMA, LINE_FEED, CARRIAGE_RETURN = 34, 44, 10, 13

UNTERMINATED = "unterminated quote"
AFTER_QUOTE = "text after a closing quote"
STRAY_RETURN = "carriage return inside a row"
WRONG_COLUMNS = "wrong number of columns"

_CHUNK = 1 << 22  # bytes compared at once: bounds the memory of the scan
_WINDOW = 1 << 14  # quotes verified at once: bounds the work that is done again after a damaged row


@dataclass(frozen=True)
class Damage:
    """A stretch of bytes that is no row of the table: `data[start:stop]`, whole physical lines."""

    start: int
    stop: int
    at: int  # the byte to blame; its line is the one reported
    reason: str


@dataclass
class Structure:
    """Positions of a file's quotes that open or close, and its damaged stretches, both ascending."""

    quotes: np.ndarray  # int64, (n,): even entries open, odd entries close
    damages: list[Damage] = field(default_factory=list)


def positions(bytes_: np.ndarray, value: int, start: int = 0) -> np.ndarray:
    """Offsets, from `start` on, of the bytes equal to `value`: int64 array."""
    found = [
        np.flatnonzero(bytes_[offset : offset + _CHUNK] == value) + offset
        for offset in range(start, len(bytes_), _CHUNK)
    ]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def unquoted_positions(bytes_: np.ndarray, value: int, start: int, quotes: np.ndarray) -> np.ndarray:
    """As `positions`, without the bytes inside quoted fields; `quotes` as in `Structure`."""
    found, carried = [], 0
    for offset in range(start, len(bytes_), _CHUNK):
        chunk = bytes_[offset : offset + _CHUNK]
        low, high = np.searchsorted(quotes, (offset, offset + len(chunk)))
        inside = np.zeros(len(chunk), dtype=np.uint8)
        inside[quotes[low:high] - offset] = 1
        inside[0] ^= carried
        np.bitwise_xor.accumulate(inside, out=inside)
        carried = inside[-1]
        found.append(np.flatnonzero((chunk == value) & (inside == 0)) + offset)
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def line_break_of(data: bytes) -> int:
    """The byte that ends a line: a line feed, or a carriage return in a file that has no line feed."""
    return CARRIAGE_RETURN if LINE_FEED not in data and CARRIAGE_RETURN in data else LINE_FEED


def scan_quotes(data: bytes, start: int) -> Structure:
    """Verifies every quote behind the header; a row with a wrong one becomes a damage and is stepped over.

    After a damaged row the scan goes on at the next physical line, so one missing quote costs one row and
    not the rest of the file.

    Args:
        data: the whole file.
        start: offset of the first byte behind the header.
    """
    bytes_ = np.frombuffer(data, dtype=np.uint8)
    line_break = bytes([line_break_of(data)])
    quotes = positions(bytes_, QUOTE, start)
    verified, count = np.empty(len(quotes), dtype=np.int64), 0
    damages: list[Damage] = []
    floor, at = start, 0  # no record begins before `floor`; `at` is the next quote to look at
    while at < len(quotes):
        window = quotes[at : at + _WINDOW]
        wrong = _first_wrong(bytes_, window, int(verified[count - 1]) if count else -2, floor)
        verified[count : count + wrong] = window[:wrong]
        count += wrong
        if wrong == len(window) and wrong % 2 == 0:
            at += wrong
            continue
        if wrong % 2 == 0:  # a quote in the middle of an unquoted field: text
            at += wrong + 1
            continue
        opened = _field_opening(verified, count - 1)
        begin = _record_start(data, line_break, verified[: count - 1], opened, floor)
        end = data.find(line_break, opened)
        end = len(data) if end < 0 else end + 1
        closed = int(window[wrong]) if wrong < len(window) else len(data)
        damages.append(Damage(begin, end, opened, UNTERMINATED if closed >= end else AFTER_QUOTE))
        count = int(np.searchsorted(verified[:count], begin))
        floor, at = end, int(np.searchsorted(quotes, end))
    return Structure(verified[:count].copy(), damages)


def _first_wrong(bytes_: np.ndarray, window: np.ndarray, before: int, floor: int) -> int:
    """Index of the first quote of the window that breaks the rules, or the window's length.

    The window begins outside a quoted field. `before` is the last verified quote: a quote right behind it is
    the second half of a doubled one. A last quote without its partner counts as opening, hence as fine; the
    caller sees it by the odd length.
    """
    opening, closing = window[0::2], window[1::2]
    previous = bytes_[np.maximum(opening - 1, 0)]
    doubled = opening - 1 == np.concatenate(([before], closing))[: len(opening)]
    opens = (previous == COMMA) | (previous == LINE_FEED) | (previous == CARRIAGE_RETURN) | doubled
    opens |= opening == floor
    following = bytes_[np.minimum(closing + 1, len(bytes_) - 1)]
    closes = (following == COMMA) | (following == LINE_FEED) | (following == CARRIAGE_RETURN)
    closes |= (following == QUOTE) | (closing + 1 == len(bytes_))
    fine = np.ones(len(window), dtype=bool)
    fine[0::2], fine[1::2] = opens, closes
    return len(window) if fine.all() else int(np.argmin(fine))


def _field_opening(verified: np.ndarray, index: int) -> int:
    """Offset of the quote that opened the field in which quote `index` stands, over doubled quotes."""
    while index >= 2 and verified[index] - 1 == verified[index - 1]:
        index -= 2
    return int(verified[index])


def _record_start(data: bytes, line_break: bytes, verified: np.ndarray, offset: int, floor: int) -> int:
    """Offset of the first byte of the record that holds `offset`: behind the last unquoted line break."""
    end = offset
    while True:
        found = data.rfind(line_break, floor, end)
        if found < 0:
            return floor
        if np.searchsorted(verified, found) % 2 == 0:
            return found + 1
        end = found


@dataclass
class Records:
    """A file's records in order: bytes `starts[i]` to `stops[i]`, line break included; no blank lines."""

    starts: np.ndarray  # int64, (records,)
    stops: np.ndarray  # int64, (records,)
    columns: np.ndarray  # int64, (records,): fields of each record; 0 for a damaged stretch
    lines: np.ndarray  # int64, (records,): physical line, from 1, that a report should name
    reasons: dict[int, str]  # record number to reason, for the damaged ones


def find_records(data: bytes, start: int, first_line: int, structure: Structure) -> Records:
    """Cuts the file into records and counts their fields.

    Args:
        data: the whole file.
        start: offset of the first byte behind the header.
        first_line: physical line number of that byte, from 1.
        structure: what `scan_quotes` found.
    """
    bytes_ = np.frombuffer(data, dtype=np.uint8)
    line_break = line_break_of(data)
    breaks = positions(bytes_, line_break, start)
    damages = structure.damages
    damage_starts = np.array([d.start for d in damages], dtype=np.int64)
    damage_stops = np.array([d.stop for d in damages], dtype=np.int64)

    ends = unquoted_positions(bytes_, line_break, start, structure.quotes) + 1
    inside = np.searchsorted(damage_starts, ends - 1, side="right") > np.searchsorted(
        damage_stops, ends - 1, side="right"
    )
    stops = np.unique(np.concatenate((ends[~inside], damage_stops, [len(data)] if len(data) > start else [])))
    stops = stops.astype(np.int64)
    starts = np.concatenate(([start], stops[:-1])).astype(np.int64)[: len(stops)]

    length = stops - starts
    first = bytes_[starts] if len(starts) else np.empty(0, dtype=np.uint8)
    blank = (length == 1) & ((first == line_break) | (first == CARRIAGE_RETURN))
    blank |= (length == 2) & (first == CARRIAGE_RETURN) & (bytes_[np.maximum(stops - 1, 0)] == LINE_FEED)
    starts, stops = starts[~blank], stops[~blank]

    blamed = starts.copy()
    reasons: dict[int, str] = {}
    damaged = np.searchsorted(starts, damage_starts)
    for index, damage in zip(damaged.tolist(), damages, strict=True):
        blamed[index] = damage.at
        reasons[index] = damage.reason
    if line_break == LINE_FEED and CARRIAGE_RETURN in data:
        returns = positions(bytes_, CARRIAGE_RETURN, start)
        stray = returns[bytes_[np.minimum(returns + 1, len(bytes_) - 1)] != LINE_FEED]
        stray = stray[(np.searchsorted(structure.quotes, stray) % 2 == 0) & (stray + 1 < len(bytes_))]
        for index in (np.searchsorted(starts, stray, side="right") - 1).tolist():
            reasons.setdefault(index, STRAY_RETURN)

    commas = unquoted_positions(bytes_, COMMA, start, structure.quotes)
    columns = np.searchsorted(commas, stops) - np.searchsorted(commas, starts) + 1
    columns[list(reasons)] = 0
    return Records(starts, stops, columns, np.searchsorted(breaks, blamed) + first_line, reasons)


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

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Header:
    """The header of a CSV."""

    names: tuple[str, ...]  # as the file spells them
    indices: dict[str, int]  # key of COLUMN_NAMES to column index, for those that the file has
    data_start: int  # offset of the first byte behind the header
    line: int  # physical line of the header, from 1

    def column_names(self) -> dict[str, str]:
        """Key of `COLUMN_NAMES` to the name in the file, for the columns that are there."""
        return {key: self.names[index] for key, index in self.indices.items()}


def read_header(data: bytes, path: Path, required: Sequence[str]) -> Header:
    """Reads and checks the header.

    Args:
        data: the whole file.
        path: named in messages.
        required: those of `FIELDS` that must have a column.

    Raises:
        UserError: an empty or binary file, another delimiter, missing or repeated columns.
    """
    # Looks at the beginning first: stripping a whole file copies it.
    if not data[:4096].strip() and not data.strip():
        raise UserError(f"{path}: the file is empty", "a CSV with a header line is expected: run `make data`")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: the file is UTF-16", "save it as UTF-8")
    start = len(_BYTE_ORDER_MARK) if data.startswith(_BYTE_ORDER_MARK) else 0
    line_break, line = bytes([line_break_of(data)]), 1
    while True:
        end = data.find(line_break, start)
        end = len(data) if end < 0 else end + 1
        if data[start:end].strip():
            break
        start, line = end, line + 1
    names = _split_header(data[start:end], path, line)
    indices: dict[str, int] = {}
    for key, aliases in COLUMN_NAMES.items():
        for alias in aliases:
            if names.count(alias) > 1:
                raise UserError(
                    f"{path}, line {line}: the column {alias!r} is there {names.count(alias)} times",
                    "keep one of them",
                )
            if alias in names:
                indices.setdefault(key, names.index(alias))
    _check_required(path, line, names, indices, required)
    return Header(tuple(names), indices, end, line)


def _split_header(raw: bytes, path: Path, line: int) -> list[str]:
    """The names in the header line, trimmed and in lower case."""
    if b"\0" in raw:
        raise UserError(f"{path}, line {line}: NUL bytes in the header", "this is not a text file in UTF-8")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {line}: the header is not UTF-8 ({error.reason} at byte {error.start})",
            "is it a CSV? A compressed file must be unpacked first",
        ) from error
    try:
        names = next(csv.reader([text.strip()], strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: the header cannot be read: {error}") from error
    return [name.strip().lower() for name in names]


def _check_required(
    path: Path, line: int, names: list[str], indices: dict[str, int], required: Sequence[str]
) -> None:
    """Raises with the names expected and found when a required column is missing."""
    missing = []
    for wanted in required:
        keys = ("category_code", "category") if wanted == "category" else (wanted,)
        if not any(key in indices for key in keys):
            missing.append(" or ".join(alias for key in keys for alias in COLUMN_NAMES[key]))
    if not missing:
        return
    found = ", ".join(names)
    shown = found if len(found) <= 300 else found[:300] + "..."
    hint = "the columns are named as in the public file; see the README of the data"
    for name, delimiter in (("semicolons", ";"), ("tabs", "\t"), ("vertical bars", "|")):
        if len(names) == 1 and delimiter in names[0]:
            hint = f"the columns seem to be separated by {name}: save the file with commas"
    raise UserError(f"{path}, line {line}: missing columns: {'; '.join(missing)}\n  found: {shown}", hint)


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
