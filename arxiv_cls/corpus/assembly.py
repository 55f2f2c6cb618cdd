"""From the checked papers of a file to labelled splits: versions merged, duplicates dropped, all counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_cls.corpus.duplicates import find_duplicates
from arxiv_cls.corpus.labels import label_indices, label_names
from arxiv_cls.corpus.merging import keep_newest_versions
from arxiv_cls.corpus.near_duplicates import THRESHOLD, search
from arxiv_cls.corpus.papers import Papers
from arxiv_cls.corpus.report import BuildReport, DroppedDuplicate
from arxiv_cls.corpus.splits import (
    SPLITS,
    parse_time_boundaries,
    split_by_paper,
    split_by_time,
    split_positions,
)
from arxiv_cls.errors import UserError

if TYPE_CHECKING:
    from arxiv_cls.corpus.builder import ArxivConfig


def build_splits(papers: Papers, config: ArxivConfig) -> tuple[dict[str, pa.Table], BuildReport]:
    """The build without its files. Empties `papers.table`, so that a large file is not held twice.

    Returns:
        Split name to table (columns of the features, label int64; in hash order, smallest first), and the
        report.

    Raises:
        UserError: a split would be empty.
    """
    merged, merged_away = keep_newest_versions(papers.table)
    names = label_names(config.name, merged["category"])
    labels = label_indices(config.name, names, merged["category"])
    inside = labels >= 0
    outside = len(merged) - int(inside.sum())
    # Only the columns and rows that go on: the table of the whole file is let go of. In one chunk, since
    # taking rows from many is several times slower.
    merged = merged.select(["title", "abstract", "arxiv_id", "published"]).filter(pa.array(inside))
    merged = merged.combine_chunks()
    labels, papers.table = labels[inside], papers.table.slice(0, 0)
    base_ids = merged["arxiv_id"].to_pylist()
    positions = split_positions(base_ids, config.seed)
    if config.split == "paper":
        splits = split_by_paper(positions)
    else:
        published = np.asarray(merged["published"]).astype("datetime64[D]")
        splits = split_by_time(published, parse_time_boundaries(config.time_boundaries))

    duplicates = find_duplicates(merged["title"], merged["abstract"], base_ids, splits)
    keep = np.ones(len(merged), dtype=bool)
    keep[[duplicate.dropped for duplicate in duplicates]] = False

    near_duplicates = []
    if config.near_duplicates == "drop":
        near_duplicates = _drop_near_duplicates(merged, base_ids, splits, keep)

    order = np.lexsort((np.asarray(base_ids, dtype=object), positions))
    tables, counts, left_out = {}, {}, 0
    for number, split in enumerate(SPLITS):
        rows = order[(splits[order] == number) & keep[order]]
        if config.max_samples:
            limit = config.max_samples if split == "train" else config.max_samples // 4
            left_out += max(0, len(rows) - limit)
            rows = rows[:limit]
        if len(rows) == 0:
            raise UserError(
                f"no paper is in the split {split!r} of {config.name} ({len(base_ids):,} papers in all)",
                "take a larger file, another data.config or other data.time_boundaries",
            )
        tables[split] = _features(merged.take(pa.array(rows)), labels[rows])
        counted = np.bincount(labels[rows], minlength=len(names)).tolist()
        counts[split] = dict(zip(names, counted, strict=True))
    report = BuildReport(
        config=config.name,
        split=config.split,
        seed=config.seed,
        time_boundaries=list(config.time_boundaries) or None,
        rows_read=papers.rows_read,
        rejected=len(papers.rejects),
        rejected_by_reason=papers.rejected_by_reason(),
        rejects_file=None,
        merged=merged_away,
        outside_config=outside,
        duplicates=[
            DroppedDuplicate(
                base_ids[d.dropped], SPLITS[splits[d.dropped]], base_ids[d.kept], SPLITS[splits[d.kept]]
            )
            for d in duplicates
        ],
        left_out=left_out,
        splits=counts,
        near_duplicates=near_duplicates,
    )
    return tables, report


def _drop_near_duplicates(
    papers: pa.Table, base_ids: list[str], splits: np.ndarray, keep: np.ndarray
) -> list[DroppedDuplicate]:
    """Takes the copy that is further from the test split out of `keep`, and says which and why."""
    places = np.flatnonzero(keep)
    kept = papers.select(["title", "abstract"]).take(pa.array(places))
    texts = pc.binary_join_element_wise(kept["title"], kept["abstract"], "\n\n").to_pylist()
    # Of several reasons to drop a paper the most similar one is told.
    pairs = sorted(search(texts, splits[places], THRESHOLD), key=lambda pair: pair[2])
    reasons = {int(places[first]): int(places[second]) for first, second, _ in pairs}
    keep[list(reasons)] = False
    return [
        DroppedDuplicate(base_ids[dropped], SPLITS[splits[dropped]], base_ids[same], SPLITS[splits[same]])
        for dropped, same in sorted(reasons.items())
    ]


def _features(papers: pa.Table, labels: np.ndarray) -> pa.Table:
    """The columns of the features, in their order."""
    return pa.table(
        {
            "text": pc.binary_join_element_wise(papers["title"], papers["abstract"], "\n\n"),
            "title": papers["title"],
            "abstract": papers["abstract"],
            "label": pa.array(labels, type=pa.int64()),
            "arxiv_id": papers["arxiv_id"],
            "published": papers["published"],
        }
    )
