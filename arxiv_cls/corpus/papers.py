"""The papers of a CSV, checked field by field: every row is either a paper or a reject with its reason."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_cls.corpus.csv_reader import FIELDS, RawTable, Reject, open_csv, read_bytes, read_table
from arxiv_cls.corpus.ids import ID_PATTERN
from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES, name_to_code
from arxiv_cls.record.files import text_cell

MISSING = "missing or empty"
BAD_UTF8 = "invalid UTF-8"
NUL_BYTE = "NUL byte"
BAD_ID = "malformed arXiv id"
UNKNOWN_CATEGORY = "unknown category"
BAD_DATE = "unreadable date"

_DATE = re.compile(r"(?:(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ].*)?|(\d{1,2})/(\d{1,2})/(\d{4}|\d{2}))", re.ASCII)
_PIVOT = 69  # two-digit years from here on are 19xx, as POSIX strptime reads them


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
    is not required can hold nulls, all others are filled.
    """

    table: pa.Table
    rejects: list[Reject]
    rows_read: int
    version: DataVersion

    def rejected_by_reason(self) -> dict[str, int]:
        """Counts by "column: reason", without the figures of single rows, most frequent first."""
        reasons = ((f"{r.column}: " if r.column else "") + r.reason.partition(":")[0] for r in self.rejects)
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
        raw = read_table(file)
        rows_read = raw.rows_read
        checks = _Checks(raw, file.column_names(), set(required), b"\0" in content, pool)
        table = checks.papers()
        version = DataVersion(str(csv), md5.result(), sha.result(), len(content), rows_read)
    return Papers(table, sorted(checks.rejects, key=lambda reject: reject.row), rows_read, version)


class _Checks:
    """The checks of one file: the first thing wrong with a row is its reason."""

    def __init__(
        self,
        raw: RawTable,
        names: dict[str, str],
        required: set[str],
        has_nul: bool,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.raw, self.names, self.required, self.has_nul, self.pool = raw, names, required, has_nul, pool
        self.bad = np.zeros(len(raw.table), dtype=bool)
        self.rejects = list(raw.damaged)

    def papers(self) -> pa.Table:
        """The columns of `Papers.table`, rows with something wrong left out."""
        identifiers = self.text("id")
        parts = self.each_chunk(lambda chunk: pc.extract_regex(chunk, ID_PATTERN), identifiers)
        self.refuse("id", pc.is_null(parts), identifiers, BAD_ID)
        old, new = pc.struct_field(parts, "old"), pc.struct_field(parts, "new")
        slashed = pc.binary_join_element_wise(pc.struct_field(parts, "archive"), old, "/")
        version = pc.struct_field(parts, "version")
        columns = {
            "row": pa.array(self.raw.rows),
            "line": pa.array(self.raw.lines),
            "id": identifiers,
            "arxiv_id": pc.if_else(pc.equal(new, ""), slashed, new),
            "version": pc.cast(pc.if_else(pc.equal(version, ""), "1", version), pa.int32()),
            "title": self.text("title"),
            "abstract": self.text("abstract"),
            "category": self.categories(),
            "published": self.dates(),
        }
        table = pa.table(columns)
        return table.filter(pa.array(~self.bad)) if self.bad.any() else table

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
        column = self.names[self.category_key() if field == "category" else field]
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
        empty = pc.equal(pc.binary_length(text), 0)
        self.refuse(field, empty, text, MISSING)
        if pc.any(empty).as_py():
            text = pc.if_else(empty, pa.scalar(None, pa.string()), text)
        return text

    def category_key(self) -> str:
        """Codes are read where the file has them, names else."""
        return "category_code" if "category_code" in self.names else "category"

    def categories(self) -> pa.ChunkedArray:
        """Category codes."""
        key = self.category_key()
        codes = {code: code for code in CATEGORY_NAMES} if key == "category_code" else name_to_code()
        given = self.text(key, "category")
        index = pc.index_in(given, pa.array(list(codes)))
        self.refuse("category", pc.is_null(index), given, UNKNOWN_CATEGORY)
        return pc.take(pa.array(list(codes.values())), index)

    def dates(self) -> pa.ChunkedArray:
        """Days; a file has few different ones, so each is read once."""
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
        return pa.array([_decode_one(value) for value in values.to_pylist()], type=pa.string())


def _decode_one(value: bytes) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


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
    """Leaves one row per base id, the one with the highest version.

    The same version twice goes by its date, then by its text, never by the order of rows.

    Args:
        papers: table with the columns arxiv_id, version, published, title, abstract, category.

    Returns:
        The table without the older rows, in the order it came in, and how many rows were merged away.
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
