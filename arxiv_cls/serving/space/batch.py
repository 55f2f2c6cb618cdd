"""The CSV tab: a file in, a file with one row for each of its rows out."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from arxiv_cls.errors import UserError
from arxiv_cls.models.predict_csv import count_rows, predict_csv
from arxiv_cls.serving.space.answers import SpaceModel

MAX_ROWS = 2_000
MAX_BYTES = 10 * 1024 * 1024
PREVIEW_ROWS = 10
PREVIEW_HEADER = ("id", "label", "score", "error")
ON_THE_COMMAND_LINE = "For more, install the package: arxiv-cls predict MODEL --csv FILE --out FILE."


@dataclass(frozen=True)
class ScoredFile:
    """What came of a CSV.

    Attributes:
        path: the new CSV.
        scored: rows with a category.
        failed: rows whose `error` column says why they have none.
        preview: the first rows, cut to `PREVIEW_HEADER`.
    """

    path: Path
    scored: int
    failed: int
    preview: list[list[str]]


def score_file(
    space: SpaceModel, source: Path, folder: Path, on_rows: Callable[[int, int], None] | None = None
) -> ScoredFile:
    """Scores an uploaded CSV.

    Args:
        space: the model.
        source: the upload.
        folder: gets the new CSV; the caller's to delete.
        on_rows: called with rows done and rows in all.

    Raises:
        UserError: it is too large, or not a CSV with the columns that are needed; the message names the file
            as the visitor knows it, and the line where there is one.
    """
    size = source.stat().st_size
    if size > MAX_BYTES:
        raise UserError(
            f"{source.name} has {size / 2**20:.1f} MB; this page takes {MAX_BYTES // 2**20} MB.",
            hint=ON_THE_COMMAND_LINE,
        )
    try:
        rows = count_rows(source)
        if rows == 0:
            raise UserError(f"{source.name} has a header and no rows.")
        if rows > MAX_ROWS:
            raise UserError(
                f"{source.name} has {rows:,} rows; this page takes {MAX_ROWS:,}.", hint=ON_THE_COMMAND_LINE
            )
        out = folder / f"{source.stem}_categories.csv"
        scored, failed = predict_csv(
            space,
            source,
            out,
            progress=False,
            rows_at_a_time=space.rows_at_a_time,
            on_rows=None if on_rows is None else lambda done: on_rows(done, rows),
        )
    except UserError as error:
        raise UserError(error.message.replace(str(source), source.name), hint=error.hint) from None
    return ScoredFile(out, scored, failed, _preview(out))


def _preview(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [[row[name] for name in PREVIEW_HEADER] for row in islice(csv.DictReader(file), PREVIEW_ROWS)]
