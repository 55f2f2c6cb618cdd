"""What is scored: the files that paths, globs and buckets name, and the pieces that each is cut into.

Every file is read once, from its beginning, by the process that gives out the work, and cut by rows. So
compressed files, CSV (whose records can hold line breaks) and Parquet with row groups of any size are one
case, and workers need not reach the inputs.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from arxiv_cls.corpus.csv_reader import open_csv
from arxiv_cls.corpus.records import KNOWN_COLUMNS, file_format
from arxiv_cls.errors import UserError
from arxiv_cls.record.storage import file_system, storage_errors

SUFFIXES = re.compile(r"\.(csv|json|jsonl|ndjson)(\.gz|\.zst)?$|\.(parquet|pq)$", re.IGNORECASE)
# A small input gets smaller shards, so that no worker waits long for the last one of another.
LEAST_SHARDS, LEAST_ROWS = 32, 500
# Of arXiv's snapshot: bytes of a record as it stands and compressed, to guess how many rows there are.
BYTES_PER_ROW = {"plain": 1400, "packed": 420}
BLOCK = 1 << 16
_SAMPLE_EVERY = 1 << 23
_READ = 1 << 22
_LONGEST_RECORD = 1 << 24
# What buckets know of an object without its being read.
_CHECKSUMS = ("md5Hash", "crc32c", "ETag", "etag", "blob_id")

_FIELD = rb'(?:"[^"]*+(?:""[^"]*+)*+"|(?!")[^,\r\n]*+)'
_FIELDS = re.compile(rb"(?:" + _FIELD + rb",)*+")
_WHOLE_FIELD, _LAST_FIELD = re.compile(_FIELD), re.compile(_FIELD + rb"\r?\Z")
_RECORD = re.compile(rb"(?:" + _FIELD + rb",)*+" + _FIELD + rb"\r?\n")


@dataclass(frozen=True)
class Shard:
    """What one task scores, and the name of the one file that it writes."""

    name: str
    source: str
    position: int  # of the first record: byte offset in the unpacked text, or row of Parquet
    data: Any  # the bytes of the records, or a batch of Parquet
    weight: float  # its part of the bytes of its file, for the time left
    header: bytes = b""  # of a CSV
    last: bool = False  # of its file


def list_files(paths: Sequence[str], output: str) -> dict[str, dict[str, Any]]:
    """Source to what its file system says of it, in the order of the paths, of a glob by name.

    Args:
        paths: files, folders, globs; local or gs://, s3://, hf://.
        output: the folder of the run; what it holds is no input.

    Raises:
        UserError: a path names no file, one of another format, or cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    target, target_path = file_system(output)
    inside = target_path.rstrip("/") + "/"
    for path in paths:
        fs, place = file_system(path)
        with storage_errors(path):
            if any(sign in place for sign in "*?["):
                listed = fs.glob(place, detail=True)
            elif (info := fs.info(place))["type"] == "directory":
                listed = {
                    name: one for name, one in fs.find(place, detail=True).items() if SUFFIXES.search(name)
                }
            else:
                listed = {place: info}
        given = {name: one for name, one in sorted(listed.items()) if one["type"] != "directory"}
        if not given:
            raise UserError(f"--input {path}: no file there", "name files, folders or globs of them")
        files = {
            name: one for name, one in given.items()
            if not (type(fs) is type(target) and name.startswith(inside))
        }  # fmt: skip
        if not files:
            raise UserError(f"--input {path}: lies in --output {output}", "name another --output")
        for name, one in files.items():
            if not SUFFIXES.search(name):
                raise UserError(
                    f"--input {name}: not a format that is read",
                    "CSV and JSON Lines (plain, .gz, .zst), Parquet",
                )
            found[name if "file" in fs.protocol else fs.unstrip_protocol(name)] = one
    return found


def _is_packed(source: str) -> bool:
    return source.lower().endswith((".gz", ".zst"))


def checksum_of(source: str, info: dict[str, Any]) -> str:
    """The object's own checksum; of a file that has none, sha256 of the size and of 64 KiB of every 8 MiB."""
    for key in _CHECKSUMS:
        if info.get(key):
            return f"{key}:{info[key]}"
    fs, path = file_system(source)
    digest, size = hashlib.sha256(str(info["size"]).encode()), info["size"]
    with (
        storage_errors(source),
        fs.open(path, "rb", **({} if "file" in fs.protocol else {"cache_type": "none"})) as file,
    ):
        for start in [*range(0, size, _SAMPLE_EVERY), max(0, size - BLOCK)]:
            file.seek(start)
            digest.update(file.read(BLOCK))
    return f"sampled-sha256:{digest.hexdigest()}"


def rows_per_shard(sources: dict[str, dict[str, Any]], most: int) -> int:
    """Rows of a shard: `most`, or fewer where the input has few."""
    guessed = 0.0
    for source, info in sources.items():
        packed = _is_packed(source) or file_format(source) == "parquet"
        guessed += info["size"] / BYTES_PER_ROW["packed" if packed else "plain"]
    return min(most, max(LEAST_ROWS, int(guessed / LEAST_SHARDS)))


@contextlib.contextmanager
def _opened(source: str) -> Iterator[tuple[Any, Any, bytes]]:
    """The file as it is stored; what is read of it, unpacked lines or Parquet; and the header of a CSV."""
    fs, path = file_system(source)
    with storage_errors(source), fs.open(path, "rb", block_size=_READ) as file:
        if file_format(source) == "parquet":
            yield file, pq.ParquetFile(file, buffer_size=1 << 20), b""
            return
        plain: Any = file
        if _is_packed(source):
            gzipped = source.lower().endswith(".gz")
            plain = gzip.GzipFile(fileobj=file) if gzipped else pa.CompressedInputStream(file, "zstd")
        with plain, io.BufferedReader(plain, _READ) as lines:
            header = b""
            if file_format(source) == "csv":
                header = lines.read(len(_csv_header(source, lines.peek(_READ))))
            elif lines.peek(BLOCK).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
                hint = "an object a line is expected: JSON Lines"
                raise UserError(f"{source}: the file is one JSON list", hint)
            yield file, lines, header


def check_input(source: str) -> None:
    """Looks at the beginning of a file.

    Raises:
        UserError: it cannot be read, is one JSON list, or lacks the columns.
    """
    with _opened(source) as (_, content, _):
        if file_format(source) == "parquet":
            _paper_columns(source, content.schema_arrow)


def pieces(source: str, rows: int) -> Iterator[tuple[int, bytes, Any, float]]:
    """The pieces of a file: position of the first record, header, bytes or batch, share of the file so far.

    A file without a record has one empty piece.

    Raises:
        UserError: as `check_input`, or the file breaks off.
    """
    with _opened(source) as (file, content, header):
        if file_format(source) == "parquet":
            columns, size, done = _paper_columns(source, content.schema_arrow), content.metadata.num_rows, 0
            nothing = pa.RecordBatch.from_pylist([], content.schema_arrow).select(columns)
            for batch in content.iter_batches(rows, columns=columns) if size else [nothing]:
                yield done, b"", batch, (done + len(batch)) / max(1, size)
                done += len(batch)
            return
        found: Iterator[bytes]
        if header:
            found = _csv_pieces(content, rows)
        else:
            found = iter(lambda: b"".join(itertools.islice(content, rows)), b"")
        position = len(header)
        for piece in itertools.chain([next(found, b"")], found):
            yield position, header, piece, file.tell() / max(1, file.size)
            position += len(piece)


def _csv_header(source: str, beginning: bytes) -> bytes:
    """The header with what stands before it.

    Raises:
        UserError: it lacks the columns, or lines end with carriage returns alone.
    """
    file = open_csv(source, ("title", "abstract"), beginning, instead="text")
    header = beginning[: file.start]
    if not header.endswith(b"\n"):
        raise UserError(f"{source}: a header alone, or lines that end with carriage returns", "save it anew")
    return header


def _csv_pieces(file: Any, rows: int) -> Iterator[bytes]:
    """The records of a CSV, `rows` at a time, cut where `csv_reader.records` ends a record."""
    data, begin, count, more = b"", 0, 0, True
    while more or begin < len(data):
        end = _record_end(data, begin, more and len(data) - begin < _LONGEST_RECORD)
        if end is None:
            block = file.read(_READ)
            data, more = data + block, bool(block)
            continue
        begin, count = end, count + 1
        if count == rows:
            yield data[:begin]
            data, begin, count = data[begin:], 0, 0
    if data:
        yield data


def _record_end(data: bytes, begin: int, more: bool) -> int | None:
    """Where the record ends that begins there; None where that cannot be known before more is read."""
    if record := _RECORD.match(data, begin):
        return record.end()
    fields = _FIELDS.match(data, begin)
    position = fields.end() if fields else begin
    field = _WHOLE_FIELD.match(data, position)
    # A delimiter takes two bytes at most: with those at hand, this one is damaged for certain.
    if more and (field is None or field.end() + 2 > len(data)):
        return None
    if _LAST_FIELD.match(data, position):
        return len(data)
    end = data.find(b"\n", position) + 1
    return end or (None if more else len(data))


def _paper_columns(source: str, schema: pa.Schema) -> list[str]:
    """The columns of a Parquet file that are read.

    Raises:
        UserError: it has none with texts.
    """
    names = [name for name in KNOWN_COLUMNS if name in schema.names]
    if not {"title", "abstract", "summary", "text"} & set(names):
        shown = ", ".join(schema.names)[:300]
        raise UserError(
            f"{source}: no column of papers\n  found: {shown}", "title and abstract are read, or text"
        )
    return names
