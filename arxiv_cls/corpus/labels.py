"""The labels of a label set, and which of them each paper gets; the sets are in `arxiv_cls/label_sets.py`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_cls.corpus.taxonomy import ARCHIVES, CATEGORY_NAMES, archive_of
from arxiv_cls.errors import UserError
from arxiv_cls.label_sets import DEFAULT_LABEL_SET, LABEL_SETS


def label_names(config: str, categories: pa.ChunkedArray) -> list[str]:
    """The labels of a config, in the order of their indices.

    Args:
        config: a key of `LABEL_SETS`.
        categories: category code of every paper of the file, versions merged.

    Raises:
        UserError: fewer than two categories qualify.
    """
    chosen = LABEL_SETS[config]
    if chosen.labels or chosen.archives:
        return list(chosen.labels or ARCHIVES)
    counted = pc.value_counts(categories).to_pylist()
    # Ties go by code, so that the order of rows does not matter.
    counted.sort(key=lambda entry: (-entry["counts"], entry["values"]))
    names = [entry["values"] for entry in counted if entry["counts"] >= chosen.minimum_papers]
    names = names[: chosen.most_frequent]
    if len(names) < 2:
        raise UserError(
            f"config {config!r}: the file has {len(names)} categories for it, a classifier needs two",
            f"take a larger file, or the config {DEFAULT_LABEL_SET}",
        )
    return sorted(names)


def label_indices(config: str, names: list[str], categories: pa.ChunkedArray) -> np.ndarray:
    """Index into `names` of each paper: int64 array of shape (papers,), -1 outside the config."""
    if LABEL_SETS[config].archives:
        known = list(CATEGORY_NAMES)
        archives = pa.array([archive_of(code) for code in known])
        categories = pc.take(archives, pc.index_in(categories, pa.array(known)))
    indices = pc.index_in(categories, pa.array(names, type=pa.string()))
    return np.asarray(pc.fill_null(indices, -1)).astype(np.int64)
