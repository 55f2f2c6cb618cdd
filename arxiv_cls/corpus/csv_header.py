"""The first line of the CSV: which column holds what, under the names of either export."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arxiv_cls.corpus.csv_structure import line_break_of
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
