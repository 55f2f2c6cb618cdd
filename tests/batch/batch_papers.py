"""Papers in every format that is read, and the rows that come out."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from factories import WORDS

PAPERS = [
    {"id": f"2401.{at:05d}", "title": f"On\n {word} {at}", "abstract": f"  We study {word}, \"{at}\".\n"}
    for at, word in enumerate(list(WORDS) * 5)
]  # fmt: skip


def write_papers(folder: Path, name: str, papers: list[dict[str, Any]] = PAPERS) -> Path:
    """A file of papers in the format that its name ends with; `groups.parquet` has small row groups."""
    path = folder / name
    lines = "".join(json.dumps(one) + "\n" for one in papers).encode()
    kind = name.partition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(papers), path, row_group_size=4 if "groups" in name else None)
    elif kind.startswith("csv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, papers[0])
            writer.writeheader()
            writer.writerows(papers)
        if kind == "csv.gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
    elif kind.endswith(".zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(lines)
    else:
        path.write_bytes(gzip.compress(lines) if kind.endswith(".gz") else lines)
    return path


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run, in the order of its files."""
    return [row for part in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
