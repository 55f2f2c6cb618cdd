"""Papers in every format that is read, and a model that answers at once."""

from __future__ import annotations

import csv
import gzip
import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import WORDS, write_onnx_model

from arxiv_cls.batch import runs, shards

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


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX model whose answers can be worked out by hand."""
    return write_onnx_model(tmp_path_factory.mktemp("batch") / "model")


class InlinePool:
    """A pool that scores when it is asked."""

    limit = 2

    def __init__(self, settings: shards.Settings, processes: int) -> None:
        self.settings = settings

    def submit(self, shard):
        future: Future = Future()
        try:
            future.set_result(shards.score_shard(shard, self.settings))
        except Exception as error:
            future.set_exception(error)
        return future

    def result(self, future):
        return future.result()

    def close(self) -> None:
        """Nothing was started."""


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are scored in this process, five rows each."""
    monkeypatch.setattr(runs, "_LocalPool", InlinePool)
    monkeypatch.setattr("arxiv_cls.batch.inputs.LEAST_ROWS", 5)
