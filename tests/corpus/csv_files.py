"""Small CSVs in the schema of the real file, for the tests of the reader and the builder."""

from __future__ import annotations

import csv
import io
from pathlib import Path

COLUMNS = (
    "id",
    "title",
    "category",
    "category_code",
    "published_date",
    "updated_date",
    "authors",
    "first_author",
    "summary",
    "summary_word_count",
)
COUNT = 200  # papers in the CSV of the fixture
CODES = {
    "cs.AI": "Artificial Intelligence",
    "cs.CL": "Computation and Language",
    "cs.CV": "Computer Vision and Pattern Recognition",
    "cs.LG": "Machine Learning",
    "stat.ML": "Machine Learning (Statistics)",
}


def paper(number: int = 0, **changes: str) -> dict[str, str]:
    """One row: paper `number` of a file, every paper different; `changes` replaces columns."""
    code = changes.get("category_code", list(CODES)[number % len(CODES)])
    row = {
        "id": f"abs-{1501 + number // 90000}.{number % 90000:05d}v1",
        "title": f"On the {number}th problem, and others",
        "category": CODES.get(code, "Logic"),
        "category_code": code,
        "published_date": f"{number % 12 + 1}/{number % 28 + 1}/{15 + number % 5}",
        "updated_date": "8/1/19",
        "authors": "['A. One', 'B. Two']",
        "first_author": "'A. One'",
        "summary": f'We solve the {number}th problem, known as "hard".',
        "summary_word_count": "8",
    }
    return row | changes


def papers(count: int, start: int = 0) -> list[dict[str, str]]:
    """`count` different rows."""
    return [paper(number) for number in range(start, start + count)]


def to_csv(rows: list[dict[str, str]], columns: tuple[str, ...] = COLUMNS, line_end: str = "\n") -> bytes:
    """The bytes of a CSV with a header; columns that a row lacks are empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator=line_end, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def write_csv(path: Path, rows: list[dict[str, str]], **options: str) -> Path:
    """Writes `to_csv` and returns the path."""
    path.write_bytes(to_csv(rows, **options))
    return path
