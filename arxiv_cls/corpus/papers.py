"""The papers of a file, CSV, JSON Lines or Parquet; `records` says what is checked of each.

A clean CSV is taken apart with pyarrow. pyarrow is lenient (an unterminated quote takes in the rows behind
it without an error), so the quotes are verified first; a file with anything wrong is read record by record.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from arxiv_cls.corpus.csv_reader import FIELDS, CsvFile, is_header, open_csv, read_bytes, records
from arxiv_cls.corpus.fetch import local_file
from arxiv_cls.corpus.records import (
    KNOWN_COLUMNS,
    Keep,
    RawTable,
    Reject,
    Rows,
    blank_lines,
    check_rows,
    file_format,
    json_lines,
    parquet_rows,
    parse_cell,
)
from arxiv_cls.corpus.taxonomy import category_codes
from arxiv_cls.errors import UserError
from arxiv_cls.record.files import staged, text_cell

QUOTE, COMMA, LINE_FEED, CARRIAGE_RETURN = 34, 44, 10, 13
_CHUNK = 1 << 22  # bytes that numpy compares and pyarrow parses at once; 4 MiB was the fastest of 1, 4 and 8
_RECORDS = 10_000  # records per chunk of a table that is read record by record
_BLOCK = 1 << 23  # bytes of JSON Lines that are parsed at once
_PARQUET_ROWS = 8192
_READ = 1 << 20


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
    """What a file holds, in the order of the file.

    `table` has the columns row (int64, from 0), line (int64, physical, from 1), id (as in the file),
    arxiv_id (base id), version (int32), title, abstract, category (code), published (date32) and, where the
    file has a column of them, categories (list of codes, the category first). A column that is not required
    can hold nulls, all others are filled: a paper with `id` and no `arxiv_id` has an identifier that cannot
    be read. A row that was not asked for has no title and abstract.
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
    path: str | Path,
    *,
    required: Sequence[str] = FIELDS,
    data: bytes | None = None,
    digests: tuple[str, str] | None = None,
    keep: Keep | None = None,
) -> Papers:
    """Reads and checks a file of arXiv papers, with no label set, split or merging.

    Args:
        path: the file, CSV, JSON Lines (plain, .gz or .zst) or Parquet, or hf://datasets/...; the columns
            are named as in the public CSV or as in arXiv's snapshot.
        required: those of `FIELDS` (id, title, abstract, category, published) that a row must have to be
            used; for the others a missing column or a bad value is a null.
        data: the bytes of a CSV, where the caller has them already.
        digests: md5 and sha256 of the file, where the caller has them already.
        keep: whose title and abstract are kept; of all by default. A CSV is in memory anyway.

    Raises:
        UserError: the file cannot be read, or a required column is missing.
    """
    file = local_file(path)
    if file_format(file) != "csv":
        parts = list(_checked_parts(file, required, keep))
        rows = sum(part.rows_read for part in parts)
        rejects = [reject for part in parts for reject in part.rejects]
        if not parts:
            raise UserError(f"{path}: the file is empty", "papers are expected, one a row")
        # A part without a value in some column lacks it.
        table = pa.concat_tables([part.table for part in parts], promote_options="default")
        version = DataVersion(str(path), *(digests or file_digests(file)), file.stat().st_size, rows)
        return Papers(table, sorted(rejects, key=lambda reject: reject.row), rows, version)
    content = read_bytes(file) if data is None else data
    csv_file = open_csv(path, required, content)
    # Hashing and pyarrow release the interpreter lock, so they run beside each other.
    with ThreadPoolExecutor(max(2, pa.cpu_count())) as pool:
        md5 = pool.submit(
            lambda: digests[0] if digests else hashlib.md5(content, usedforsecurity=False).hexdigest()
        )
        sha = pool.submit(lambda: digests[1] if digests else hashlib.sha256(content).hexdigest())
        found = check_rows(read_table(csv_file), required, keep, pool.map)
        version = DataVersion(str(path), md5.result(), sha.result(), len(content), found.rows_read)
    return Papers(found.table, sorted(found.rejects, key=lambda reject: reject.row), found.rows_read, version)


def file_digests(path: Path) -> tuple[str, str]:
    """md5 and sha256 of a file's bytes, read once."""
    both = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    try:
        with path.open("rb") as stream, ThreadPoolExecutor(2) as pool:
            while block := stream.read(_READ):
                list(pool.map(lambda digest, block=block: digest.update(block), both))
    except OSError as error:
        raise unreadable(path, error) from None
    return both[0].hexdigest(), both[1].hexdigest()


def unreadable(path: str | Path, error: Exception) -> UserError:
    """What to say of a file that breaks off or is not what its name says."""
    return UserError(f"{path}: the file cannot be read: {' '.join(str(error).split())}", "fetch it again")


def _checked_parts(path: Path, required: Sequence[str], keep: Keep | None) -> Iterator[Rows]:
    """The parts of a file, in order, checked several at a time; only so many of them are in memory."""
    read = _json_parts(path) if file_format(path) == "json" else _parquet_parts(path)
    threads = max(2, pa.cpu_count())
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Rows]] = deque()
        for function, part, *place in read:
            waiting.append(
                pool.submit(lambda f=function, p=part, w=place: check_rows(f(p, *w), required, keep))
            )
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def json_blocks(path: Path, size: int = _BLOCK) -> Iterator[tuple[bytes, int, int]]:
    """Blocks of whole lines of JSON Lines, plain or compressed, each with its first line and row.

    Raises:
        UserError: the file cannot be read, or is one JSON list.
    """
    line, row, rest = 1, 0, b""
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            more = True
            while more:
                block = stream.read(size)
                more = bool(block)
                end = block.rfind(b"\n") + 1 if more else 0
                if line == 1 and not rest and block.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
                    raise UserError(
                        f"{path}: the file is one JSON list", "an object a line is expected: JSON Lines"
                    )
                if more and not end:
                    rest += block
                    continue
                whole, rest = rest + block[:end], block[end:] if more else b""
                if whole:
                    yield whole, line, row
                    lines = whole.count(b"\n")
                    line, row = line + lines, row + lines - blank_lines(whole)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from None


def _json_parts(path: Path) -> Iterator[tuple]:
    for block, line, row in json_blocks(path):
        yield json_lines, block, line, row


def _parquet_parts(path: Path) -> Iterator[tuple]:
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in KNOWN_COLUMNS if name in file.schema_arrow.names]
            if not names:
                shown = ", ".join(file.schema_arrow.names)
                raise UserError(
                    f"{path}: no column of papers\n  found: {shown}",
                    "the columns are those of arXiv's snapshot",
                )
            row = 0
            for batch in file.iter_batches(_PARQUET_ROWS, columns=names):
                yield parquet_rows, batch, row
                row += len(batch)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from None


def read_table(file: CsvFile) -> RawTable:
    """All records of a file as columns; those that are no rows are listed, none is lost."""
    table = _read_clean(file)
    return _read_by_record(file) if table is None else table


def _raw(
    file: CsvFile, table: pa.Table, rows: np.ndarray, lines: np.ndarray, damaged: list[Reject]
) -> RawTable:
    names = {key: file.names[index] for key, index in file.columns.items()}
    return RawTable(table, rows, lines, damaged, names, has_nul=b"\0" in file.data)


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
    return _raw(file, table, rows, lines, [])


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
    return _raw(file, pa.Table.from_batches(parts, schema), rows, lines, damaged)


def join_categories(source: Path, categories: Path, out: Path) -> str:
    """Writes a CSV with the column `categories` behind its own, and says in a line what was found.

    Args:
        source: a CSV with a column `id` and none of this name.
        categories: a line per paper: id, tab, codes with blanks between them; plain, .gz or .zst.
        out: the new file; a row whose paper is not among them has an empty cell, a damaged row is left out.

    Raises:
        UserError: a file cannot be read or written, `out` is one of the others, the column is there already,
            or no row has categories.
    """
    if any(out.exists() and given.exists() and out.samefile(given) for given in (source, categories)):
        raise UserError(f"{out}: is an input itself", "name another file")
    known: dict[str, str] = {}
    try:
        with pa.input_stream(str(categories), compression="detect") as stream:
            for number, line in enumerate(stream.read().decode("utf-8").splitlines(), start=1):
                identifier, _, codes = line.partition("\t")
                base = parse_cell(identifier)[0]
                if not base or not category_codes(codes):
                    raise UserError(f"{categories}, line {number}: no id, tab and codes: {line[:80]!r}")
                known[base] = codes.strip()
    except (OSError, ValueError) as error:
        raise unreadable(categories, error) from None
    if not known:
        raise UserError(f"{categories} is empty", "a line is an id, a tab, and codes with blanks between")
    file = open_csv(source, ("id",))
    if "categories" in file.names:
        raise UserError(f"{source}: it has a column `categories` already", "nothing is to be joined")
    rows = found = damaged = 0
    try:
        with (
            staged(out) as part,
            part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as to,
        ):
            writer = csv.writer(to, lineterminator="\n")
            writer.writerow([*file.names, "categories"])
            for record in records(file):
                if record.reason:
                    damaged += 1
                    continue
                fields = [cell.decode("utf-8", "surrogateescape") for cell in record.fields]
                base = parse_cell(fields[file.columns["id"]])[0]
                codes = known.get(base or "", "")
                writer.writerow([*fields, codes])
                rows, found = rows + 1, found + bool(codes)
            if not found:
                hint = "both are ids such as 1501.00001 or cs/0112017, with or without a version"
                raise UserError(f"{categories}: none of its ids is in the {rows:,} rows of {source}", hint)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", "name another file") from None
    return f"{out}: {rows:,} rows, {found:,} of them with categories, {damaged:,} damaged rows left out"


def write_rejects(rejects: Sequence[Reject], path: Path) -> None:
    """Writes a CSV with the columns line, column, reason, value; see `text_cell`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["line", "column", "reason", "value"])
        writer.writerows((r.line, r.column, r.reason, text_cell(r.value)) for r in rejects)


def keep_newest_versions(papers: pa.Table) -> tuple[pa.Table, int]:
    """Leaves one row per base id, the one with the highest version, in the order of `papers`.

    The same version twice goes by its date, then by its text and categories, never by the order of rows.

    Returns:
        The table without the older rows, and how many those are.
    """
    encoded = papers["arxiv_id"].combine_chunks().dictionary_encode()
    groups = np.asarray(encoded.indices)
    repeated = np.bincount(groups, minlength=1)[groups] > 1 if len(groups) else np.empty(0, dtype=bool)
    if not repeated.any():
        return papers, 0
    rows = np.flatnonzero(repeated)
    names = ["version", "published", "title", "abstract", "category", "categories"]
    fields = papers.select([name for name in names if name in papers.column_names]).take(pa.array(rows))
    texts = (pc.binary_join(c, " ") if pa.types.is_list(c.type) else c for c in fields.columns)
    # A text that was not asked for is null.
    columns = (pc.fill_null(c, "") if pa.types.is_string(c.type) else c for c in texts)
    keys = list(zip(*(column.to_pylist() for column in columns), strict=True))
    newest: dict[int, tuple[tuple, int]] = {}
    for row, group, key in zip(rows.tolist(), groups[rows].tolist(), keys, strict=True):
        if group not in newest or key > newest[group][0]:
            newest[group] = (key, row)
    keep = ~repeated
    keep[[row for _, row in newest.values()]] = True
    return papers.filter(pa.array(keep)), int(len(keep) - keep.sum())
