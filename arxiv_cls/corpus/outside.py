"""The papers of the CSV that a label set leaves out: what the out-of-scope rule is fitted and tested on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from arxiv_cls.corpus.taxonomy import archive_of

OUTSIDE_FILE = "outside.parquet"
MOST_TRAINING_PAPERS = 20_000  # twice as many give the rule 0.002 more AUROC


@dataclass(frozen=True)
class OutsidePapers:
    """Papers without a label of the corpus.

    Attributes:
        train: texts of training papers, at most `MOST_TRAINING_PAPERS`, the first in hash order.
        test: texts of all test papers.
        test_archives: (n,) archive of each test paper.
    """

    train: list[str]
    test: list[str]
    test_archives: np.ndarray


def outside_table(papers: pa.Table, rows: np.ndarray, positions: np.ndarray, splits: np.ndarray) -> pa.Table:
    """The part of the papers without a label that the build keeps.

    Args:
        papers: one row a paper, with title, abstract and category.
        rows: (m,) rows without a label.
        positions: (m,) their hashes, by which the training papers are chosen.
        splits: (m,) number of the split of each.

    Returns:
        A table in the order of `papers`: text, archive, split (`train` or `test`) and position.
    """
    order = np.argsort(positions, kind="stable")
    wanted = splits == 2
    wanted[order[splits[order] == 0][:MOST_TRAINING_PAPERS]] = True
    mask = np.zeros(len(papers), dtype=bool)
    mask[rows[wanted]] = True
    kept = papers.select(["title", "abstract", "category"]).filter(pa.array(mask))
    return pa.table(
        {
            "text": pc.binary_join_element_wise(kept["title"], kept["abstract"], "\n\n"),
            "archive": pa.array([archive_of(code) for code in kept["category"].to_pylist()], pa.string()),
            "split": pc.if_else(pa.array(splits[wanted] == 0), "train", "test"),
            "position": pa.array(positions[wanted]),
        }
    )


def write_outside(table: pa.Table, path: Path) -> None:
    """Writes an `outside_table`; no text repeats, so that a dictionary of them would only cost time."""
    pq.write_table(table, path, compression="lz4", use_dictionary=["archive", "split"])


def read_outside(path: Path) -> OutsidePapers:
    """The papers that a build left in its folder, in hash order."""
    table = pq.read_table(path)
    table = table.take(pa.array(np.argsort(np.asarray(table["position"]), kind="stable")))
    train, test = (table.filter(pc.equal(table["split"], name)) for name in ("train", "test"))
    archives = np.asarray(test["archive"].to_pylist(), dtype=object)
    return OutsidePapers(train["text"].to_pylist(), test["text"].to_pylist(), archives)
