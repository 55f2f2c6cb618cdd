"""The papers of a CSV, checked field by field: every row is either a paper or a reject with its reason.

A clean file is taken apart with pyarrow. pyarrow is lenient (an unterminated quote takes in the rows behind
it without an error), so the quotes are verified first; a file with anything wrong is read record by record.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from arxiv_cls.corpus.csv_reader import (
    BAD_UTF8,
    FIELDS,
    MISSING,
    NUL_BYTE,
    CsvFile,
    cell_text,
    is_header,
    open_csv,
    read_bytes,
    records,
)
from arxiv_cls.corpus.ids import CSV_ID_PATTERN, parse_id
from arxiv_cls.corpus.taxonomy import ambiguous_names, category_code
from arxiv_cls.record.files import text_cell

BAD_ID = "malformed arXiv id"
UNKNOWN_CATEGORY = "unknown category"
AMBIGUOUS_NAME = "name of two categories"
BAD_DATE = "unreadable date"

QUOTE, COMMA, LINE_FEED, CARRIAGE_RETURN = 34, 44, 10, 13
_CHUNK = 1 << 22  # bytes that numpy compares and pyarrow parses at once; 4 MiB was the fastest of 1, 4 and 8
_RECORDS = 10_000  # records per chunk of a table that is read record by record
_VISIBLE = r"[^\s\pZ\p{Cc}\p{Cf}]"  # as `cell_text` has it
_DATE = re.compile(r"(?:(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ].*)?|(\d{1,2})/(\d{1,2})/(\d{4}|\d{2}))", re.ASCII)
_PIVOT = 69  # two-digit years from here on are 19xx, as POSIX strptime reads them


@dataclass(frozen=True)
class Reject:
    """A row that cannot be used, and why."""

    row: int  # number of the row in the file, from 0, blank lines not counted
    line: int  # physical line, from 1
    column: str  # name of the column in the file, or "" when the row could not be taken apart
    reason: str
    value: str  # the value in question, at most 80 characters

    @property
    def where(self) -> str:
        """What stands before the reason."""
        return f"{self.column}: " if self.column else ""


@dataclass
class RawTable:
    """The columns of a CSV as they stand in the file."""

    table: pa.Table  # binary columns named by the keys of COLUMN_NAMES that the file has
    rows: np.ndarray  # int64, (table rows,): number of each row in the file, from 0
    lines: np.ndarray  # int64, (table rows,): physical line of each row, from 1
    damaged: list[Reject]


@dataclass(frozen=True)
class DataVersion:
    """Which file it was."""

    csv: str
    md5: str
    sha256: str
    bytes: int
    rows: int


@dataclass
class Papers:
    """What a CSV holds, in the order of the file.

    `table` has the columns row (int64, from 0), line (int64, physical, from 1), id (as in the file),
    arxiv_id (base id), version (int32), title, abstract, category (code), published (date32). A column that
    is not required can hold nulls, all others are filled: a paper with `id` and no `arxiv_id` has an
    identifier that cannot be read.
    """

    table: pa.Table
    rejects: list[Reject]
    rows_read: int
    version: DataVersion

    def rejected_by_reason(self) -> dict[str, int]:
        """Counts by "column: reason", without the figures of single rows, most frequent first."""
        reasons = (r.where + r.reason.partition(":")[0] for r in self.rejects)
        return dict(sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0])))


def read_papers(
    csv: str | Path, *, required: Sequence[str] = FIELDS, data: bytes | None = None, sha256: str | None = None
) -> Papers:
    """Reads and checks a CSV of arXiv papers, with no label set, split or merging.

    Args:
        csv: path of the file, in either export's column names.
        required: those of `FIELDS` (id, title, abstract, category, published) that a row must have to be
            used; for the others a missing column or a bad value is a null.
        data, sha256: the bytes of the file and their hash, where the caller has them already.

    Raises:
        UserError: the file cannot be read, or a required column is missing.
    """
    content = read_bytes(csv) if data is None else data
    file = open_csv(csv, required, content)
    # Hashing and pyarrow release the interpreter lock, so they run beside each other.
    with ThreadPoolExecutor(max(2, pa.cpu_count())) as pool:
        md5 = pool.submit(lambda: hashlib.md5(content, usedforsecurity=False).hexdigest())
        sha = pool.submit(lambda: sha256 or hashlib.sha256(content).hexdigest())
        checks = _Checks(file, set(required), pool)
        table = checks.papers()
        rows_read = len(checks.bad) + len(checks.raw.damaged)
        version = DataVersion(str(csv), md5.result(), sha.result(), len(content), rows_read)
    return Papers(table, sorted(checks.rejects, key=lambda reject: reject.row), rows_read, version)


class _Checks:
    """The checks of one file: the first thing wrong with a row is its reason."""

    def __init__(self, file: CsvFile, required: set[str], pool: ThreadPoolExecutor) -> None:
        self.raw, self.required, self.pool = read_table(file), required, pool
        self.names = {key: file.names[index] for key, index in file.columns.items()}
        # Codes are read where the file has them, names else.
        self.category = "category_code" if "category_code" in self.names else "category"
        self.has_nul = b"\0" in file.data
        self.bad = np.zeros(len(self.raw.table), dtype=bool)
        self.rejects = list(self.raw.damaged)

    def papers(self) -> pa.Table:
        """The columns of `Papers.table`, rows with something wrong left out."""
        identifiers = self.text("id")
        base, version = self.parsed(identifiers)
        self.refuse("id", pc.is_null(base), identifiers, BAD_ID)
        columns = {
            "row": pa.array(self.raw.rows),
            "line": pa.array(self.raw.lines),
            "id": identifiers,
            "arxiv_id": base,
            "version": version,
            "title": self.text("title"),
            "abstract": self.text("abstract"),
            "category": self.categories(),
            "published": self.dates(),
        }
        table = pa.table(columns)
        return table.filter(pa.array(~self.bad)) if self.bad.any() else table

    def parsed(self, identifiers: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """Base ids and versions: by a pattern for the whole column, then by `parse_id` for what is left."""
        parts = self.each_chunk(lambda chunk: pc.extract_regex(chunk, CSV_ID_PATTERN), identifiers)
        old, new = pc.struct_field(parts, "old"), pc.struct_field(parts, "new")
        slashed = pc.binary_join_element_wise(pc.struct_field(parts, "archive"), old, "/")
        base = pc.if_else(pc.equal(new, ""), slashed, new)
        version = pc.struct_field(parts, "version")
        version = pc.cast(pc.if_else(pc.equal(version, ""), "1", version), pa.int32())
        left = pc.and_(pc.is_null(base), pc.is_valid(identifiers)).combine_chunks()
        if pc.any(left).as_py():
            found = [_parse_cell(cell) for cell in identifiers.filter(left).to_pylist()]
            base = _replaced(base, left, [one for one, _ in found])
            version = _replaced(version, left, [one for _, one in found])
        return base, version

    def each_chunk(
        self, function: Callable[[pa.Array], pa.Array], column: pa.ChunkedArray
    ) -> pa.ChunkedArray:
        """A function of the columns' chunks, several at a time: pyarrow's own take one after another."""
        chunks = column.chunks or [pa.array([], type=column.type)]
        return pa.chunked_array(list(self.pool.map(function, chunks)))

    def refuse(self, field: str, mask: pa.ChunkedArray, values: pa.ChunkedArray, reason: str) -> None:
        """Rejects the rows of the mask that are still good, when the field is a required one."""
        if field not in self.required:
            return
        column = self.names[self.category if field == "category" else field]
        wrong = np.asarray(pc.fill_null(mask, False)) & ~self.bad
        for index in np.flatnonzero(wrong).tolist():
            value = values[index].as_py() or ""
            shown = value[:320].decode("utf-8", "replace") if isinstance(value, bytes) else value
            row, line = int(self.raw.rows[index]), int(self.raw.lines[index])
            self.rejects.append(Reject(row, line, column, reason, shown[:80]))
        self.bad |= wrong

    def text(self, key: str, field: str | None = None) -> pa.ChunkedArray:
        """A column as trimmed text; null where it is not valid text or empty."""
        field = field or key
        if key not in self.raw.table.column_names:
            return pa.chunked_array([pa.nulls(len(self.bad), pa.string())])
        values = self.raw.table[key]
        # Trimming copies: the untrimmed column is let go, which halves the memory of the abstracts.
        self.raw.table = self.raw.table.drop_columns([key])
        text = self.each_chunk(lambda chunk: pc.utf8_trim_whitespace(_decode(chunk)), values)
        if text.null_count:
            self.refuse(field, pc.is_null(text), values, BAD_UTF8)
        if self.has_nul:
            self.refuse(field, pc.match_substring(text, "\0"), text, NUL_BYTE)
        empty = self.each_chunk(lambda chunk: pc.invert(pc.match_substring_regex(chunk, _VISIBLE)), text)
        self.refuse(field, empty, text, MISSING)
        if pc.any(empty).as_py():
            text = pc.if_else(empty, pa.scalar(None, pa.string()), text)
        return text

    def categories(self) -> pa.ChunkedArray:
        """Category codes; a file has few different cells, so each is read once."""
        given = self.text(self.category, "category")
        cells = given.combine_chunks().dictionary_encode()
        distinct = cells.dictionary.to_pylist()
        ambiguous = ambiguous_names(distinct)
        for name, codes in ambiguous.items():
            self.refuse("category", pc.equal(given, name), given, f"{AMBIGUOUS_NAME}: {codes}, give the code")
        read = [None if cell in ambiguous else category_code(cell) for cell in distinct]
        codes = pa.chunked_array([pc.take(pa.array(read, pa.string()), cells.indices)])
        self.refuse("category", pc.is_null(codes), given, UNKNOWN_CATEGORY)
        return codes

    def dates(self) -> pa.ChunkedArray:
        """Days, each read once, as `categories`."""
        given = self.text("published")
        days = given.combine_chunks().dictionary_encode()
        read = pa.array([_parse_date(day) for day in days.dictionary.to_pylist()], type=pa.date32())
        published = pa.chunked_array([pc.take(read, days.indices)])
        self.refuse("published", pc.is_null(published), given, BAD_DATE)
        return published


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
    short = np.full(len(table), bool(wanted))
    known = [file.names[index] for index in file.columns.values()]
    for column, name in zip(table.columns, known, strict=True):
        # A byte order mark and some blanks may come on top.
        short &= np.asarray(pc.less_equal(pc.binary_length(column), len(name) + 8))
    if any(is_header(list(row.values()), known) for row in table.filter(pa.array(short)).to_pylist()):
        return None  # a repeated header, if the other columns are
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
    """Whether quotes open and close fields in turn, at the ends of a field, or are doubled."""
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
    places: list[tuple[int, int]] = []
    schema = pa.schema([(key, pa.binary()) for key in file.columns])
    parts = []
    numbered = enumerate(records(file))
    while batch := list(itertools.islice(numbered, _RECORDS)):
        good = [(row, record) for row, record in batch if not record.reason]
        damaged += [Reject(row, r.line, "", r.reason, r.beginning) for row, r in batch if r.reason]
        places += [(row, record.line) for row, record in good]
        columns = [[record.fields[index] for _, record in good] for index in file.columns.values()]
        parts.append(pa.record_batch(columns, schema=schema))
    rows, lines = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return RawTable(pa.Table.from_batches(parts, schema), rows, lines, damaged)


def _decode(values: pa.Array) -> pa.Array:
    """Binary to string, null where the bytes are not UTF-8."""
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        cells = [None if cell_text(value)[1] == BAD_UTF8 else value.decode() for value in values.to_pylist()]
        return pa.array(cells, type=pa.string())


def _replaced(column: pa.ChunkedArray, mask: pa.BooleanArray, values: list[Any]) -> pa.ChunkedArray:
    return pa.chunked_array(
        [pc.replace_with_mask(column.combine_chunks(), mask, pa.array(values, column.type))]
    )


def _parse_cell(identifier: str) -> tuple[str | None, int | None]:
    try:
        base, version = parse_id(identifier, numbers=True)
    except ValueError:
        return None, None
    return base, version or 1


def _parse_date(text: str) -> date | None:
    """The day in `8/1/93`, `8/1/1993` (month first) or ISO; None when it is none of them."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    year, month, day = match.group(1, 2, 3) if match[1] else match.group(6, 4, 5)
    number = int(year)
    if len(year) == 2:
        number += 1900 if number >= _PIVOT else 2000
    try:
        return date(number, int(month), int(day))
    except ValueError:
        return None


def write_rejects(rejects: Sequence[Reject], path: Path) -> None:
    """Writes a CSV with the columns line, column, reason, value; see `text_cell`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["line", "column", "reason", "value"])
        writer.writerows((r.line, r.column, r.reason, text_cell(r.value)) for r in rejects)


def keep_newest_versions(papers: pa.Table) -> tuple[pa.Table, int]:
    """Leaves one row per base id, the one with the highest version, in the order of `papers`.

    The same version twice goes by its date, then by its text, never by the order of rows.

    Returns:
        The table without the older rows, and how many those are.
    """
    encoded = papers["arxiv_id"].combine_chunks().dictionary_encode()
    groups = np.asarray(encoded.indices)
    repeated = np.bincount(groups, minlength=1)[groups] > 1 if len(groups) else np.empty(0, dtype=bool)
    if not repeated.any():
        return papers, 0
    rows = np.flatnonzero(repeated)
    fields = papers.select(["version", "published", "title", "abstract", "category"]).take(pa.array(rows))
    keys = list(zip(*(column.to_pylist() for column in fields.columns), strict=True))
    newest: dict[int, tuple[tuple, int]] = {}
    for row, group, key in zip(rows.tolist(), groups[rows].tolist(), keys, strict=True):
        if group not in newest or key > newest[group][0]:
            newest[group] = (key, row)
    keep = ~repeated
    keep[[row for _, row in newest.values()]] = True
    return papers.filter(pa.array(keep)), int(len(keep) - keep.sum())
