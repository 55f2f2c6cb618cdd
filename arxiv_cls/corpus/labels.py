"""The label sets, and which label a paper gets. A new label set is one entry of `LABEL_SETS`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from arxiv_cls.corpus.taxonomy import ARCHIVES, CATEGORY_NAMES, TOP5, archive_of
from arxiv_cls.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True)
class LabelSet:
    """How the labels are chosen: given ones, or those categories of the file that qualify."""

    description: str
    labels: tuple[str, ...] = ()  # the same for every file
    archives: bool = False  # a paper's label is its category's archive
    most_frequent: int | None = None  # categories at most
    minimum_papers: int = 1  # of a category


LABEL_SETS = {
    "top5": LabelSet("cs.AI, cs.CL, cs.CV, cs.LG, stat.ML", labels=TOP5),
    "top10": LabelSet("the ten most frequent categories", most_frequent=10),
    "top20": LabelSet("the twenty most frequent categories", most_frequent=20),
    "archive": LabelSet("the eight archives", labels=ARCHIVES, archives=True),
    "all": LabelSet("every category with at least 100 papers", minimum_papers=100),
}
DEFAULT_LABEL_SET = "top5"


def label_set(config: str) -> LabelSet:
    """The label set of that name.

    Raises:
        UserError: there is none.
    """
    if config not in LABEL_SETS:
        raise UserError(f"data.config: {config!r} is unknown", f"one of {', '.join(LABEL_SETS)}")
    return LABEL_SETS[config]


def label_names(config: str, categories: pa.ChunkedArray) -> list[str]:
    """The labels of a config, in the order of their indices.

    Args:
        config: a key of `LABEL_SETS`.
        categories: category code of every paper of the file, versions merged.

    Raises:
        UserError: fewer than two categories qualify.
    """
    import pyarrow.compute as pc

    chosen = label_set(config)
    if chosen.labels:
        return list(chosen.labels)
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
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if label_set(config).archives:
        known = list(CATEGORY_NAMES)
        archives = pa.array([archive_of(code) for code in known])
        categories = pc.take(archives, pc.index_in(categories, pa.array(known)))
    indices = pc.index_in(categories, pa.array(names, type=pa.string()))
    return np.asarray(pc.fill_null(indices, -1)).astype(np.int64)
