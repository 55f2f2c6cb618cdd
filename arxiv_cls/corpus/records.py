"""Rows of a file, whatever its format, checked field by field: each is a paper or a reject with its reason.

A block of JSON Lines (the full arXiv snapshot), a batch of Parquet and a CSV become the same `RawTable`, and
`check_rows` is the one set of checks. All functions are pure: a file can be taken apart in any order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from arxiv_cls.corpus.csv_reader import BAD_UTF8, COLUMN_NAMES, FIELDS, MISSING, NUL_BYTE, cell_text
from arxiv_cls.corpus.ids import CSV_ID_PATTERN, parse_id
from arxiv_cls.corpus.taxonomy import ambiguous_names, category_code, category_codes

BAD_ID = "malformed arXiv id"
UNKNOWN_CATEGORY = "unknown category"
AMBIGUOUS_NAME = "name of two categories"
BAD_DATE = "unreadable date"
BAD_JSON = "broken JSON"

_VISIBLE = r"[^\s\pZ\p{Cc}\p{Cf}]"  # as `cell_text` has it
# `2007-04-02 19:18:42`, `8/1/93` (month first) and the snapshot's `Mon, 2 Apr 2007 19:18:42 GMT`.
_DATE = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ].*)?|(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})"
    r"|(?:[A-Z][a-z]{2}, *)?(\d{1,2}) ([A-Z][a-z]{2}) (\d{4})(?: .*)?",
    re.ASCII,
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME_OF_DAY = r"^((?:[A-Z][a-z]{2}, *)?\d{1,2} [A-Z][a-z]{2} \d{4}|\d{4}-\d{1,2}-\d{1,2})[T ].*$"
_PIVOT = 69  # two-digit years from here on are 19xx, as POSIX strptime reads them
# The snapshot breaks lines inside titles and abstracts, the public CSV does not.
_LINE_BREAK = r"[ \t]*\r?\n\s*"

_BLANK_LINE = re.compile(rb"^[ \t\r]*\n", re.MULTILINE)

_VERSIONS = pa.list_(pa.struct([("version", pa.string()), ("created", pa.string())]))
# Field of ours to the names it goes by, the first that has a value counts; `versions` has the first date.
_NAMES = COLUMN_NAMES | {
    "category": ("category", "categories"),
    "published": ("published_date", "update_date"),
}
KNOWN_COLUMNS = (*dict.fromkeys(name for names in _NAMES.values() for name in names), "versions")
"""What is read of JSON Lines and of Parquet."""
_SCHEMA = pa.schema([(name, _VERSIONS if name == "versions" else pa.string()) for name in KNOWN_COLUMNS])
_SHOWN_NAMES = {"abstract": "abstract", "category": "categories", "published": "versions"}


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
    """The columns of a file, or of a part of it, as they stand there."""

    table: pa.Table  # binary or string columns named by the keys of COLUMN_NAMES; `version` is int32
    rows: np.ndarray  # int64, (table rows,): number of each row in the file, from 0
    lines: np.ndarray  # int64, (table rows,): physical line of each row, from 1
    damaged: list[Reject]
    names: dict[str, str]  # key to the name of the column in the file
    has_nul: bool = True
    breaks_lines: bool = False  # a line break inside a text stands for a blank


@dataclass
class Rows:
    """What a `RawTable` holds: the columns of `Papers.table`, and the rest with its reasons."""

    table: pa.Table
    rejects: list[Reject] = field(default_factory=list)
    rows_read: int = 0


Keep = Callable[[pa.Table], np.ndarray]
"""(rows,) bool of a table as `Papers.table` without its texts: whose title and abstract are kept."""


def file_format(path: str | Path) -> str:
    """`json`, `parquet` or `csv`, by the end of the name; `.gz` or `.zst` may follow that of JSON Lines."""
    name = re.sub(r"\.(gz|zst)$", "", str(path).lower())
    if name.endswith((".json", ".jsonl", ".ndjson")):
        return "json"
    return "parquet" if name.endswith((".parquet", ".pq")) else "csv"


def json_lines(block: bytes, first_line: int = 1, first_row: int = 0) -> RawTable:
    """Whole lines of JSON Lines, an object each; a line that is none is a reject, blank ones do not count.

    Args:
        block: ends at a line end or at the end of the file.
        first_line, first_row: physical line, from 1, and row, from 0, of the block's first.
    """
    lines = block.count(b"\n") + (not block.endswith(b"\n") and bool(block))
    table, places, damaged = None, None, []
    # pyarrow reads a clean block ten times as fast, but stops at the first broken line.
    if _each_opens(block) == lines and _is_utf8(block):
        options = pajson.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore")
        reading = pajson.ReadOptions(use_threads=False, block_size=len(block) + 1)
        try:
            table = pajson.read_json(pa.BufferReader(block), reading, options)
        except pa.ArrowInvalid:
            table = None
        if table is not None and len(table) != lines:
            table = None
    if table is None:
        table, places, damaged = _each_line(block, first_line, first_row)
    numbers = np.arange(len(table), dtype=np.int64)
    rows, physical = (numbers + first_row, numbers + first_line) if places is None else places
    return _raw(table, rows, physical, damaged, has_nul=b"\\u0000" in block)


def blank_lines(block: bytes) -> int:
    """How many of a block's whole lines are blank."""
    return 0 if _each_opens(block) == block.count(b"\n") else len(_BLANK_LINE.findall(block))


def _each_opens(block: bytes) -> int:
    """How many lines begin with an object."""
    return block.count(b"\n{") + block.startswith(b"{")


def parquet_rows(batch: pa.RecordBatch, first_row: int = 0) -> RawTable:
    """A batch of Parquet with the snapshot's columns or the CSV's; others are not looked at."""
    columns, rows = {}, np.arange(first_row, first_row + len(batch), dtype=np.int64)
    for name in KNOWN_COLUMNS:
        if name in batch.schema.names:
            columns[name] = _text_or_versions(name, batch.column(name))
    return _raw(pa.table(columns), rows, rows + 1, [], has_nul=True)


def _is_utf8(block: bytes) -> bool:
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _text_or_versions(name: str, column: pa.Array) -> pa.Array:
    kind = column.type
    if name == "versions":
        try:
            return column.cast(_VERSIONS)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            return pa.nulls(len(column), _VERSIONS)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pc.binary_join(column.cast(pa.list_(pa.string())), " ")
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
    return column if pa.types.is_binary(column.type) else column.cast(pa.string())


def _each_line(
    block: bytes, first_line: int, first_row: int
) -> tuple[pa.Table, tuple[np.ndarray, np.ndarray], list[Reject]]:
    """A block line by line: its objects as the fast reader has them, their rows and lines, and the rest."""
    found: list[dict[str, Any]] = []
    places: list[tuple[int, int]] = []
    damaged: list[Reject] = []
    row = first_row
    for number, line in enumerate(block.split(b"\n"), start=first_line):
        if not line.strip(b" \t\r"):
            continue
        try:
            fields = json.loads(line.decode("utf-8").removeprefix("\ufeff"))
            if not isinstance(fields, dict):
                raise TypeError("no object")
            found.append({name: _json_value(name, fields.get(name)) for name in KNOWN_COLUMNS})
            places.append((row, number))
        except (ValueError, TypeError, RecursionError) as error:
            reason = BAD_UTF8 if isinstance(error, UnicodeError) else f"{BAD_JSON}: {error}"
            damaged.append(Reject(row, number, "", reason, line[:80].decode("utf-8", "replace")))
        row += 1
    rows, physical = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return pa.Table.from_pylist(found, _SCHEMA), (rows, physical), damaged


def _json_value(name: str, value: Any) -> Any:
    """A value as a column holds it; UnicodeError for half a surrogate pair."""
    if name == "versions":
        items = value if isinstance(value, list) else []
        texts = [
            {key: item.get(key) for key in ("version", "created")} for item in items if isinstance(item, dict)
        ]
        return [{key: text if isinstance(text, str) else None for key, text in one.items()} for one in texts]
    if isinstance(value, list):
        value = " ".join(map(str, value))
    text = None if value is None else str(value)
    if text is not None:
        text.encode("utf-8")
    return text


def _raw(
    table: pa.Table, rows: np.ndarray, lines: np.ndarray, damaged: list[Reject], has_nul: bool
) -> RawTable:
    table = table.combine_chunks()
    columns: dict[str, Any] = {}
    names: dict[str, str] = {}
    for key, aliases in _NAMES.items():
        for alias in aliases:
            if alias in table.column_names and table[alias].null_count < len(table):
                both = (columns[key], table[alias]) if key in columns else ()
                columns[key] = pc.coalesce(*(one.cast(pa.binary()) for one in both)) if both else table[alias]
                names.setdefault(key, alias)
    if names.get("category") == "categories":
        del columns["categories"]  # one column for both
    if "versions" in table.column_names and table["versions"].null_count < len(table):
        versions = table["versions"].chunk(0)
        count = np.asarray(pc.fill_null(pc.list_value_length(versions), 0))
        ends = np.asarray(versions.offsets)
        values, none = versions.values, count == 0
        created = pc.take(values.field("created"), pa.array(ends[:-1], mask=none))
        latest = pc.take(values.field("version"), pa.array(ends[1:] - 1, mask=none))
        number = pc.struct_field(pc.extract_regex(latest, r"^v?(?P<n>[1-9][0-9]{0,3})$"), "n")
        columns["version"] = pa.chunked_array([pc.cast(number, pa.int32())])
        dates = [pa.chunked_array([created]), *([columns["published"]] if "published" in columns else [])]
        columns["published"], names["published"] = pc.coalesce(*dates), "versions"
    if "published" in columns:
        # The days of a block are few, its seconds are not.
        columns["published"] = pc.replace_substring_regex(
            _as_string(columns["published"]), _TIME_OF_DAY, r"\1"
        )
    names = {key: _SHOWN_NAMES.get(key, key) for key in FIELDS} | names
    # A table without a column has no rows either.
    columns = columns or {"id": pa.nulls(len(table), pa.string())}
    return RawTable(pa.table(columns), rows, lines, damaged, names, has_nul, breaks_lines=True)


def _as_string(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([_decode(chunk) for chunk in column.chunks], pa.string())


def check_rows(
    raw: RawTable, required: Iterable[str] = FIELDS, keep: Keep | None = None, map_chunks: Any = map
) -> Rows:
    """The rows with all required fields as the columns of `Papers.table`, and the others with the reason.

    Args:
        raw: what was read; its columns are taken out of it, to save memory.
        required: those of `FIELDS` that a row must have; for the others a bad value is a null.
        keep: whose title and abstract are kept; the others' are null.
        map_chunks: `map`, or that of an executor, for the chunks of a column.
    """
    total = len(raw.rows) + len(raw.damaged)
    checks = _Checks(raw, set(required), map_chunks)
    table = checks.papers()
    if keep is not None:
        kept = pa.array(keep(table))
        for name in ("title", "abstract"):
            texts = pc.if_else(kept, table[name], pa.scalar(None, pa.string()))
            table = table.set_column(table.column_names.index(name), name, texts)
    if raw.breaks_lines:
        for name in ("title", "abstract"):
            texts = pc.replace_substring_regex(table[name], _LINE_BREAK, " ")
            table = table.set_column(table.column_names.index(name), name, texts)
    return Rows(table, checks.rejects, total)


class _Checks:
    """The checks of one table: the first thing wrong with a row is its reason."""

    def __init__(self, raw: RawTable, required: set[str], map_chunks: Any) -> None:
        self.raw, self.required, self.map_chunks = raw, required, map_chunks
        self.names, self.has_nul = raw.names, raw.has_nul
        # Codes are read where the file has them, names else.
        self.category = "category_code" if "category_code" in raw.table.column_names else "category"
        self.bad = np.zeros(len(self.raw.table), dtype=bool)
        self.rejects = list(self.raw.damaged)
        self.listed: pa.ChunkedArray | None = None

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
            "category": self.codes(),
            "published": self.dates(),
        }
        if self.listed is not None:
            columns["categories"] = self.listed
        table = pa.table(columns)
        return table.filter(pa.array(~self.bad)) if self.bad.any() else table

    def parsed(self, identifiers: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """Base ids and versions: by a pattern for the whole column, then by `parse_id` for what is left."""
        parts = self.each_chunk(lambda chunk: pc.extract_regex(chunk, CSV_ID_PATTERN), identifiers)
        old, new = pc.struct_field(parts, "old"), pc.struct_field(parts, "new")
        slashed = pc.binary_join_element_wise(pc.struct_field(parts, "archive"), old, "/")
        base = pc.if_else(pc.equal(new, ""), slashed, new)
        version = pc.struct_field(parts, "version")
        unsaid = "1"
        if "version" in self.raw.table.column_names:
            unsaid = pc.coalesce(pc.cast(self.raw.table["version"], pa.string()), pa.scalar(unsaid))
        version = pc.cast(pc.if_else(pc.equal(version, ""), unsaid, version), pa.int32())
        left = pc.and_(pc.is_null(base), pc.is_valid(identifiers)).combine_chunks()
        if pc.any(left).as_py():
            found = [parse_cell(cell) for cell in identifiers.filter(left).to_pylist()]
            base = _replaced(base, left, [one for one, _ in found])
            version = _replaced(version, left, [one for _, one in found])
        return base, version

    def each_chunk(
        self, function: Callable[[pa.Array], pa.Array], column: pa.ChunkedArray
    ) -> pa.ChunkedArray:
        """A function of the columns' chunks, several at a time: pyarrow's own take one after another."""
        chunks = column.chunks or [pa.array([], type=column.type)]
        return pa.chunked_array(list(self.map_chunks(function, chunks)))

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
            nothing = pa.chunked_array([pa.nulls(len(self.bad), pa.string())])
            self.refuse(field, pc.is_null(nothing), nothing, MISSING)
            return nothing
        values = self.raw.table[key]
        # Trimming copies: the untrimmed column is let go, which halves the memory of the abstracts.
        self.raw.table = self.raw.table.drop_columns([key])
        text = self.each_chunk(lambda chunk: pc.utf8_trim_whitespace(_decode(chunk)), values)
        if text.null_count:
            self.refuse(field, pc.is_null(values), values, MISSING)
            self.refuse(field, pc.is_null(text), values, BAD_UTF8)
        if self.has_nul:
            self.refuse(field, pc.match_substring(text, "\0"), text, NUL_BYTE)
        empty = self.each_chunk(lambda chunk: pc.invert(pc.match_substring_regex(chunk, _VISIBLE)), text)
        self.refuse(field, pc.fill_null(empty, True), text, MISSING)
        if pc.any(empty).as_py():
            text = pc.if_else(empty, pa.scalar(None, pa.string()), text)
        return text

    def codes(self) -> pa.ChunkedArray:
        """Category codes; a file has few different cells, so each is read once. Fills `listed`."""
        given = self.text(self.category, "category")
        cells = given.combine_chunks().dictionary_encode()
        distinct = cells.dictionary.to_pylist()
        ambiguous = ambiguous_names(distinct)
        for name, codes in ambiguous.items():
            self.refuse("category", pc.equal(given, name), given, f"{AMBIGUOUS_NAME}: {codes}, give the code")
        read = [None if cell in ambiguous else _category_code(cell) for cell in distinct]
        codes = pa.chunked_array([pc.take(pa.array(read, pa.string()), cells.indices)])
        self.refuse("category", pc.is_null(codes), given, UNKNOWN_CATEGORY)
        if "categories" in self.raw.table.column_names:
            every = pc.fill_null(self.text("categories"), "")
            # Whatever the two columns say, the label comes first.
            pairs = pc.binary_join_element_wise(pc.fill_null(codes, ""), every, " ").combine_chunks()
            self.listed = _listed(pairs.dictionary_encode())
        elif self.names.get(self.category) == "categories":
            self.listed = _listed(cells)
        return codes

    def dates(self) -> pa.ChunkedArray:
        """Days, each read once, as `categories`."""
        given = self.text("published")
        days = given.combine_chunks().dictionary_encode()
        read = pa.array([_parse_date(day) for day in days.dictionary.to_pylist()], type=pa.date32())
        published = pa.chunked_array([pc.take(read, days.indices)])
        self.refuse("published", pc.is_null(published), given, BAD_DATE)
        return published


def _decode(values: pa.Array) -> pa.Array:
    """Binary to string, null where the bytes are not UTF-8."""
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        cells = [None if cell_text(value)[1] == BAD_UTF8 else value.decode() for value in values.to_pylist()]
        return pa.array(cells, type=pa.string())


_category_code = lru_cache(maxsize=1 << 16)(category_code)


def _listed(cells: pa.DictionaryArray) -> pa.ChunkedArray:
    """All category codes of each cell, list<string>, without repetitions; empty where one is not known."""
    codes = [list(category_codes(cell or "")) for cell in cells.dictionary.to_pylist()]
    return pa.chunked_array([pc.take(pa.array(codes, pa.list_(pa.string())), cells.indices)])


def _replaced(column: pa.ChunkedArray, mask: pa.BooleanArray, values: list[Any]) -> pa.ChunkedArray:
    return pa.chunked_array(
        [pc.replace_with_mask(column.combine_chunks(), mask, pa.array(values, column.type))]
    )


def parse_cell(identifier: str) -> tuple[str | None, int | None]:
    """Base id and version of a cell, 1 where it has none; None, None for what is no identifier."""
    try:
        base, version = parse_id(identifier, numbers=True)
    except ValueError:
        return None, None
    return base, version or 1


@lru_cache(maxsize=1 << 15)
def _parse_date(text: str) -> date | None:
    """The day of a date in one of the forms of `_DATE`; None when it has none of them."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    try:
        if match[9]:
            return date(int(match[9]), _MONTHS.index(match[8]) + 1, int(match[7]))
        year, month, day = match.group(1, 2, 3) if match[1] else match.group(6, 4, 5)
        number = int(year)
        if len(year) == 2:
            number += 1900 if number >= _PIVOT else 2000
        return date(number, int(month), int(day))
    except ValueError:
        return None
