"""CSV files: every record with its physical line, and every damaged one with the reason.

Format (RFC 4180): a quote opens a field only at its beginning, a doubled quote inside is a quote, a closing
quote is followed by a comma or a line end. A quote in the middle of an unquoted field is text. Standard
library only: the Space scores uploaded files where no pyarrow is installed.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from arxiv_cls.errors import UserError

# Field of ours to the names it goes by in the exports, the newer first.
COLUMN_NAMES = {
    "id": ("id",),
    "title": ("title",),
    "abstract": ("summary", "abstract"),
    "category_code": ("category_code",),
    "category": ("category", "categories"),
    "categories": ("categories",),
    "published": ("published_date",),
    "text": ("text",),
}
FIELDS = ("id", "title", "abstract", "category", "published")
"""What a paper consists of; `category` is filled from `category_code` or, without it, from the name."""

UNTERMINATED = "unterminated quote"
AFTER_QUOTE = "text after a closing quote"
STRAY_RETURN = "carriage return inside a row"
WRONG_COLUMNS = "wrong number of columns"
REPEATED_HEADER = "repeated header"

MISSING = "missing or empty"
BAD_UTF8 = "invalid UTF-8"
NUL_BYTE = "NUL byte"

_FIELD = re.compile(rb'(?:"([^"]*+(?:""[^"]*+)*+)"|(?!")([^,\r\n]*+))(,|\r?\n|\r?\Z)')
_DELIMITERS = (("semicolons", ";"), ("tabs", "\t"), ("vertical bars", "|"))
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class CsvFile:
    """The bytes of a CSV whose header was checked; a file with carriage returns alone has line feeds here."""

    data: bytes
    names: tuple[str, ...]  # of the columns, trimmed and in lower case
    columns: dict[str, int]  # key of COLUMN_NAMES to index of the column, for those that the file has
    start: int  # offset of the first byte behind the header
    line: int  # physical line of that byte, from 1


class Record(NamedTuple):
    """One record of a CSV."""

    line: int  # physical line, from 1; of an unterminated quote the line that opened it
    fields: list[bytes]  # as many as the header has; of a damaged record what could be read
    reason: str  # why it is no row of the table, "" when it is one
    beginning: str  # of a damaged record, at most 80 characters


def read_bytes(path: str | Path) -> bytes:
    """The whole file.

    Raises:
        UserError: it is missing, a directory, or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        hint = "get it with `make data`, or take the synthetic one: --data.csv data/sample/arxiv_sample.csv"
        raise UserError(f"{path}: the CSV cannot be read: {error.strerror}", hint * absent or None) from None


def open_csv(
    path: str | Path, required: Sequence[str] = FIELDS, data: bytes | None = None, *, instead: str = ""
) -> CsvFile:
    """Reads a file and checks its header; blank lines and Excel's `sep=,` may stand before it.

    Args:
        path: the file.
        required: those of `FIELDS` that must have a column.
        data: the bytes of the file, where the caller has them already.
        instead: a column that does in place of the required ones.

    Raises:
        UserError: the file cannot be read, is empty, no CSV in UTF-8 or has another delimiter, or a column is
            missing or there twice.
    """
    data = read_bytes(path) if data is None else data
    if data.startswith(b"\x1f\x8b"):
        raise UserError(f"{path}: the file is a gzip archive", "unpack it first: gunzip FILE")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        raise UserError(f"{path}: the file is UTF-16", "save it as UTF-8")
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    end, line, row = len(_BYTE_ORDER_MARK) * data.startswith(_BYTE_ORDER_MARK), 0, b""
    while not row or row.lower() in (b"sep=,", b'"sep=,"'):
        start, line = end, line + 1
        if start == len(data):
            raise UserError(f"{path}: the file is empty", "a CSV with a header line is expected")
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
            if (times := names.count(alias)) > 1:
                raise UserError(f"{where}: the column {alias!r} is there {times} times", "keep one of them")
            if times:
                columns.setdefault(key, names.index(alias))
    if columns.get("categories") == columns.get("category"):
        columns.pop("categories", None)  # one column for both
    if instead not in columns:
        _check_required(where, names, columns, required, instead)
    return CsvFile(data, names, columns, end, line + 1)


def _check_required(
    where: str, names: tuple[str, ...], columns: dict[str, int], required: Sequence[str], instead: str
) -> None:
    missing = []
    for wanted in required:
        keys = ("category_code", "category") if wanted == "category" else (wanted,)
        if not columns.keys() & set(keys):
            missing.append(" or ".join(alias for key in keys for alias in COLUMN_NAMES[key]))
    if not missing:
        return
    shown = ", ".join(names)
    shown = shown if len(shown) <= 300 else shown[:300] + "..."
    hint = "the columns are named as in the public file; see the README of the data"
    for name, delimiter in _DELIMITERS:
        if len(names) == 1 and delimiter in names[0]:
            hint = f"the columns seem to be separated by {name}: save the file with commas"
    missed = "; ".join(missing) + (f" (or {instead} in their place)" if instead else "")
    raise UserError(f"{where}: missing columns: {missed}\n  found: {shown}", hint)


def is_header(fields: list[bytes], names: Sequence[str]) -> bool:
    """Whether a row repeats the header, as where files were joined: case, blanks and a mark do not count."""
    if fields[0].removeprefix(_BYTE_ORDER_MARK).strip().lower() != names[0].encode():
        return False
    return all(
        field.strip().lower() == name.encode() for field, name in zip(fields[1:], names[1:], strict=True)
    )


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
        elif len(fields) == 1 and data[begin] in b"\r\n":
            line += 1
            continue
        elif len(fields) != len(file.names):
            reason = f"{WRONG_COLUMNS}: {len(fields)} instead of {len(file.names)}"
        elif is_header(fields, file.names):
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


def cell_text(cell: bytes) -> tuple[str, str]:
    """The trimmed text of a cell, and what is wrong with it: "" when it has a visible character."""
    try:
        text = cell.decode("utf-8").strip()
    except UnicodeDecodeError:
        return "", BAD_UTF8
    if "\0" in text:
        return "", NUL_BYTE
    # Format characters, such as zero-width spaces, show nothing by themselves.
    invisible = all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text)
    return ("", MISSING) if invisible else (text, "")
