"""Which label each paper gets, and which split: by its hash (`split: paper`) or its date (`split: time`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_cls.corpus.ids import split_position
from arxiv_cls.corpus.taxonomy import ARCHIVES, CATEGORY_NAMES, archive_of
from arxiv_cls.errors import UserError
from arxiv_cls.label_sets import DEFAULT_LABEL_SET, label_set

SPLITS = ("train", "validation", "test")
"""Names of the splits; a split's index in this tuple is its number in the arrays below."""

DEFAULT_RATIOS = (0.70, 0.15, 0.15)
# `top5` of the published file (1993 to 2019): 70.0 % lies before the first date, 15.1 % between the two and
# 14.9 % from the second on. Fixed, so that a longer file does not move papers from one split to another.
DEFAULT_TIME_BOUNDARIES = ("2018-07-15", "2019-02-15")


def split_positions(base_ids: Iterable[str], seed: int) -> np.ndarray:
    """`split_position` of each paper: float64 of shape (papers,), values in [0, 1)."""
    return np.fromiter((split_position(base, seed) for base in base_ids), dtype=np.float64)


def split_by_paper(positions: np.ndarray, ratios: Sequence[float] | None = None) -> np.ndarray:
    """Numbers of the splits, int8 of shape (papers,), from `split_positions` and the splits' shares."""
    train, validation, _ = ratios or DEFAULT_RATIOS
    # Rounded: 0.70 + 0.15 is not 0.85 in binary.
    test_from = round(train + validation, 9)
    return ((positions >= train).astype(np.int8) + (positions >= test_from)).astype(np.int8)


def split_by_time(published: np.ndarray, boundaries: tuple[date, date]) -> np.ndarray:
    """Numbers of the splits, int8 of shape (papers,), from dates, datetime64[D] of that shape.

    A boundary, first day of validation or of test, belongs to the later split.
    """
    from_validation, from_test = (np.datetime64(day, "D") for day in boundaries)
    return ((published >= from_validation).astype(np.int8) + (published >= from_test)).astype(np.int8)


def parse_time_boundaries(boundaries: Sequence[str | date] | None) -> tuple[date, date]:
    """Checks `[first day of validation, first day of test]`; None gives `DEFAULT_TIME_BOUNDARIES`.

    Raises:
        UserError: not two ISO dates in ascending order.
    """
    given = DEFAULT_TIME_BOUNDARIES if boundaries is None else boundaries
    try:
        first, second = (date.fromisoformat(str(day)) for day in given)
        if first >= second:
            raise ValueError(f"{first} is not before {second}")
    except ValueError as error:
        raise UserError(
            f"data.time_boundaries: {given!r}: {error}",
            f"give two ISO dates in ascending order, for example {list(DEFAULT_TIME_BOUNDARIES)}",
        ) from None
    return first, second


def label_names(
    config: str, categories: pa.ChunkedArray | None, own: Sequence[str] | None = None
) -> list[str]:
    """The labels of a label set in the order of their indices.

    Args:
        config, own: as of `label_set`.
        categories: category code of every paper of the file, versions merged; None where it does not matter.

    Raises:
        UserError: fewer categories qualify than the label set has, or than two.
    """
    chosen = label_set(config, own)
    if chosen.labels or chosen.archives:
        return list(chosen.labels or ARCHIVES)
    counted = pc.value_counts(categories).to_pylist()
    # Ties go by code, so that the order of rows does not matter.
    counted.sort(key=lambda entry: (-entry["counts"], entry["values"]))
    names = [entry["values"] for entry in counted if entry["counts"] >= chosen.minimum_papers]
    names = names[: chosen.most_frequent]
    if len(names) < (needed := chosen.most_frequent or 2):
        raise UserError(
            f"config {config!r}: the file has {len(names)} categories for it, it needs {needed}",
            f"take a larger file, or the config {DEFAULT_LABEL_SET}",
        )
    return sorted(names)


def label_indices(names: list[str], categories: pa.ChunkedArray) -> np.ndarray:
    """Index into `names` of each paper: int64 array of shape (papers,), -1 outside the label set."""
    if set(names) == set(ARCHIVES):
        known = list(CATEGORY_NAMES)
        archives = pa.array([archive_of(code) for code in known])
        categories = pc.take(archives, pc.index_in(categories, pa.array(known)))
    indices = pc.index_in(categories, pa.array(names, type=pa.string()))
    return np.asarray(pc.fill_null(indices, -1)).astype(np.int64)


def label_matrix(lists: Sequence[Sequence[int]], label_count: int) -> np.ndarray:
    """Lists of label indices as a bool array of shape (papers, labels)."""
    matrix = np.zeros((len(lists), label_count), dtype=bool)
    for paper, labels in enumerate(lists):
        matrix[paper, labels] = True
    return matrix


def listed_labels(names: list[str], categories: pa.ChunkedArray) -> tuple[np.ndarray, pa.ListArray]:
    """Labels of each paper for `task: multi_label`, from the lists of all categories of the papers.

    Returns:
        The index of the first category that the label set has, int64 of shape (papers,), -1 without one: the
        primary category's, where the set has it. And all indices of each paper, ascending, as lists of int64.
    """
    count = len(categories)
    papers = np.repeat(np.arange(count), np.asarray(pc.fill_null(pc.list_value_length(categories), 0)))
    labels = label_indices(names, pc.list_flatten(categories))
    papers, labels = papers[labels >= 0], labels[labels >= 0]
    first = np.full(count, -1, dtype=np.int64)
    first[papers[::-1]] = labels[::-1]  # of several the one that is assigned last stays
    papers, labels = np.divmod(np.unique(papers * len(names) + labels), len(names))
    ends = np.concatenate([[0], np.bincount(papers, minlength=count).cumsum()])
    return first, pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(labels))
