"""What is scored: the files that paths, globs and buckets name, and where each is cut into shards.

Plain JSON Lines are cut at byte offsets moved to line ends, from samples alone; Parquet at row groups. A
record of a CSV can hold line breaks, so a CSV is read once to find its cuts. A compressed file, and Parquet
with row groups that are too large, is a stream: read once from its beginning, and cut into pieces by rows.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
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
_REQUESTS = 16  # range requests at a time
_READ = 1 << 22
_LONGEST_RECORD = 1 << 24
# What buckets know of an object without its being read.
_CHECKSUMS = ("md5Hash", "crc32c", "ETag", "etag", "blob_id")

_FIELD = rb'(?:"[^"]*+(?:""[^"]*+)*+"|(?!")[^,\r\n]*+)'
_FIELDS = re.compile(rb"(?:" + _FIELD + rb",)*+")
_WHOLE_FIELD, _LAST_FIELD = re.compile(_FIELD), re.compile(_FIELD + rb"\r?\Z")
_RECORD = re.compile(rb"(?:" + _FIELD + rb",)*+" + _FIELD + rb"\r?\n")


@dataclass(frozen=True)
class Input:
    """One input file, as the manifest has it."""

    source: str  # absolute path or address
    bytes: int
    checksum: str  # the bucket's own, else sha256 of the size and of 64 KiB of every 8 MiB
    format: str  # csv, json or parquet
    stream: bool
    cuts: list[int]  # shard i is cuts[i] to cuts[i + 1], bytes or row groups; of a stream []


@dataclass(frozen=True)
class Shard:
    """What one task reads, and the name of the one file that it writes."""

    name: str
    source: str
    format: str
    start: int  # byte or row group; of a stream's piece, the position of its first record
    end: int
    weight: float  # its part of the bytes of its file, for the time left
    header: bytes = b""  # of a CSV
    data: Any = None  # of a stream's piece: the bytes, or the batch of Parquet
    last: bool = False  # a stream's last piece


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
        files = {
            name: one for name, one in sorted(listed.items())
            if one["type"] != "directory" and not (type(fs) is type(target) and name.startswith(inside))
        }  # fmt: skip
        if not files:
            raise UserError(f"--input {path}: no file there", "name files, folders or globs of them")
        for name, one in files.items():
            if not SUFFIXES.search(name):
                raise UserError(
                    f"--input {name}: not a format that is read",
                    "CSV and JSON Lines (plain, .gz, .zst), Parquet",
                )
            found[name if "file" in fs.protocol else fs.unstrip_protocol(name)] = one
    return found


def cut_input(source: str, size: int, checksum: str, rows: int) -> Input:
    """Where a file is cut into shards of about `rows` rows.

    Raises:
        UserError: it cannot be read, or a CSV lacks the columns.
    """
    kind = file_format(source)
    fs, path = file_system(source)
    stream, cuts = source.lower().endswith((".gz", ".zst")), []
    with storage_errors(source):
        if kind == "parquet":
            with fs.open(path, "rb") as file:
                metadata = pq.ParquetFile(file).metadata
            groups = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
            stream = max(groups, default=0) > 2 * rows
            cuts = [] if stream else _group_cuts(groups, rows)
        elif stream:
            if kind == "json":
                _refuse_list(source, next(pieces(source, rows=1))[2])
        elif kind == "json":
            _refuse_list(source, fs.cat_file(path, 0, BLOCK))
            cuts = _line_cuts(fs, path, size, rows)
        else:
            cuts = [csv_header(source, fs.cat_file(path, 0, _READ))[1]]
            with fs.open(path, "rb", block_size=_READ) as file:
                file.seek(cuts[0])
                for piece in _csv_pieces(file, rows):
                    cuts.append(cuts[-1] + len(piece))
            cuts = cuts if len(cuts) > 1 else [*cuts, size]
    return Input(source, size, checksum, kind, stream, cuts)


def checksum_of(source: str, info: dict[str, Any]) -> str:
    """The object's own checksum; of a file that has none, of samples: see `Input`."""
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
        packed = source.lower().endswith((".gz", ".zst", ".parquet", ".pq"))
        guessed += info["size"] / BYTES_PER_ROW["packed" if packed else "plain"]
    return min(most, max(LEAST_ROWS, int(guessed / LEAST_SHARDS)))


def _refuse_list(source: str, beginning: bytes) -> None:
    if beginning.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise UserError(f"{source}: the file is one JSON list", "an object a line is expected: JSON Lines")


def _group_cuts(groups: list[int], rows: int) -> list[int]:
    cuts, held = [0], 0
    for at, count in enumerate(groups):
        if held and held + count > rows:
            cuts.append(at)
            held = 0
        held += count
    return [*cuts, len(groups)]


def _line_cuts(fs: Any, path: str, size: int, rows: int) -> list[int]:
    """Offsets of line starts, about `rows` lines apart, from samples and one block at each cut."""

    def block(start: int) -> bytes:
        return fs.cat_file(path, start, min(size, start + BLOCK))

    def cut(wanted: int) -> int:
        for start in range(wanted, size, BLOCK):
            if (found := block(start).find(b"\n")) >= 0:
                return start + found + 1
        return size

    with ThreadPoolExecutor(_REQUESTS) as pool:
        samples = list(pool.map(block, range(0, size, max(BLOCK, size // 32))))
        lines = sum(sample.count(b"\n") for sample in samples)
        step = max(1, round(rows * sum(map(len, samples)) / max(1, lines)))
        cuts = pool.map(cut, range(step - 1, size, step)) if lines else []
        return [*sorted({0, *cuts} - {size}), size]


def csv_header(source: str, beginning: bytes) -> tuple[bytes, int]:
    """The header with what stands before it, and the offset behind it.

    Raises:
        UserError: it lacks the columns, or lines end with carriage returns alone.
    """
    file = open_csv(source, ("title", "abstract"), beginning, instead="text")
    header = beginning[: file.start]
    if not header.endswith(b"\n"):
        raise UserError(f"{source}: a header alone, or lines that end with carriage returns", "save it anew")
    return header, file.start


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


def pieces(source: str, rows: int) -> Iterator[tuple[int, bytes, Any, float]]:
    """A stream's pieces: position of the first record, header, bytes or batch, share of the file read so far.

    A stream without a record has one empty piece.

    Raises:
        UserError: the file cannot be read, or breaks off.
    """
    fs, path = file_system(source)
    with storage_errors(source), fs.open(path, "rb", block_size=_READ) as file:
        size = max(1, fs.info(path)["size"])
        if file_format(source) == "parquet":
            parquet = pq.ParquetFile(file, buffer_size=1 << 20)
            done = 0
            for batch in parquet.iter_batches(rows, columns=paper_columns(source, parquet.schema_arrow)):
                yield done, b"", batch, (done + len(batch)) / max(1, parquet.metadata.num_rows)
                done += len(batch)
            return
        packed = source.lower().endswith(".gz")
        plain: Any = gzip.GzipFile(fileobj=file) if packed else pa.CompressedInputStream(file, "zstd")
        with plain, io.BufferedReader(plain, _READ) as lines:
            position, header = 0, b""
            if file_format(source) == "csv":
                header, position = csv_header(source, lines.peek(_READ))
                lines.read(position)
                found = _csv_pieces(lines, rows)
            else:
                found = iter(lambda: b"".join(islice(lines, rows)), b"")
            none = True
            for piece in found:
                none = False
                yield position, header, piece, file.tell() / size
                position += len(piece)
            if none:
                yield position, header, b"", 1.0


def paper_columns(source: str, schema: pa.Schema) -> list[str]:
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


def as_json(files: Sequence[Input]) -> list[dict[str, Any]]:
    """The inputs as the manifest has them."""
    return [asdict(file) for file in files]
