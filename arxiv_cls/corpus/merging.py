"""Several versions of one paper are one paper: its newest version counts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def keep_newest_versions(papers: pa.Table) -> tuple[pa.Table, int]:
    """Leaves one row per base id, the one with the highest version.

    The same version twice goes by its date, then by its text, never by the order of rows.

    Args:
        papers: table with the columns arxiv_id, version, published, title, abstract, category.

    Returns:
        The table without the older rows, in the order it came in, and how many rows were merged away.
    """
    encoded = papers["arxiv_id"].combine_chunks().dictionary_encode()
    groups = np.asarray(encoded.indices)
    repeated = np.bincount(groups, minlength=1)[groups] > 1 if len(groups) else np.empty(0, dtype=bool)
    if not repeated.any():
        return papers, 0
    rows = np.flatnonzero(repeated)
    fields = papers.select(["version", "published", "title", "abstract", "category"]).take(pa.array(rows))
    keys = list(zip(*(column.to_pylist() for column in fields.columns), strict=True))
    newest: dict[int, tuple[tuple, int]] = {}
    for row, group, key in zip(rows.tolist(), groups[rows].tolist(), keys, strict=True):
        if group not in newest or key > newest[group][0]:
            newest[group] = (key, row)
    keep = ~repeated
    keep[[row for _, row in newest.values()]] = True
    return papers.filter(pa.array(keep)), int(len(keep) - keep.sum())
