"""The label sets: which categories a config has, and which label a paper gets."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_cls.corpus.taxonomy import ARCHIVES, CATEGORY_NAMES, TOP5, archive_of
from arxiv_cls.errors import UserError

CONFIGS = {
    "top5": "cs.AI, cs.CL, cs.CV, cs.LG and stat.ML",
    "top10": "the ten most frequent categories of the file",
    "top20": "the twenty most frequent categories of the file",
    "archive": "arXiv's eight groups of archives",
    "all": "every category with at least 100 papers in the file",
}
"""Name of each config and what its labels are."""

MINIMUM_PAPERS = 100  # of a category in the config `all`


def label_names(config: str, categories: pa.ChunkedArray) -> list[str]:
    """The labels of a config, in the order of their indices.

    Args:
        config: one of `CONFIGS`.
        categories: category code of every paper of the file, versions merged.

    Raises:
        UserError: fewer than two categories qualify.
    """
    if config == "top5":
        return list(TOP5)
    if config == "archive":
        return list(ARCHIVES)
    counted = pc.value_counts(categories).to_pylist()
    # Ties go by code, so that the order of rows does not matter.
    counted.sort(key=lambda entry: (-entry["counts"], entry["values"]))
    if config == "all":
        names = [entry["values"] for entry in counted if entry["counts"] >= MINIMUM_PAPERS]
    else:
        names = [entry["values"] for entry in counted[: int(config.removeprefix("top"))]]
    if len(names) < 2:
        raise UserError(
            f"config {config!r}: the file has {len(names)} categories for it, a classifier needs two",
            "take a larger file, or the config top5",
        )
    return sorted(names)


def label_indices(config: str, names: list[str], categories: pa.ChunkedArray) -> np.ndarray:
    """Index into `names` of each paper: int64 array of shape (papers,), -1 outside the config."""
    if config == "archive":
        known = list(CATEGORY_NAMES)
        archives = pa.array([archive_of(code) for code in known])
        categories = pc.take(archives, pc.index_in(categories, pa.array(known)))
    indices = pc.index_in(categories, pa.array(names, type=pa.string()))
    return np.asarray(pc.fill_null(indices, -1)).astype(np.int64)
