"""Which split a paper is in: by its hash (`split: paper`) or by its date (`split: time`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date

import numpy as np

from arxiv_cls.corpus.ids import split_position
from arxiv_cls.errors import UserError

SPLITS = ("train", "validation", "test")
"""Names of the splits; a split's index in this tuple is its number in the arrays below."""

VALIDATION_FROM = 0.70
TEST_FROM = 0.85

# `top5` of the published file (1993 to 2019): 70.0 % lies before the first date, 15.1 % between the two and
# 14.9 % from the second on. Fixed, so that a longer file does not move papers from one split to another.
DEFAULT_TIME_BOUNDARIES = ("2018-07-15", "2019-02-15")


def split_positions(base_ids: Iterable[str], seed: int) -> np.ndarray:
    """`split_position` of each paper: float64 of shape (papers,), values in [0, 1)."""
    return np.fromiter((split_position(base, seed) for base in base_ids), dtype=np.float64)


def split_by_paper(positions: np.ndarray) -> np.ndarray:
    """Numbers of the splits (indices into `SPLITS`) from hash positions.

    Args:
        positions: float array of shape (papers,) from `split_positions`.

    Returns:
        int8 array of shape (papers,).
    """
    return ((positions >= VALIDATION_FROM).astype(np.int8) + (positions >= TEST_FROM)).astype(np.int8)


def split_by_time(published: np.ndarray, boundaries: tuple[date, date]) -> np.ndarray:
    """Numbers of the splits from dates: train before the first boundary, test from the second on.

    Args:
        published: datetime64[D] array of shape (papers,).
        boundaries: first day of validation and first day of test.

    Returns:
        int8 array of shape (papers,).
    """
    from_validation, from_test = (np.datetime64(day, "D") for day in boundaries)
    return ((published >= from_validation).astype(np.int8) + (published >= from_test)).astype(np.int8)


def parse_time_boundaries(boundaries: Sequence[str | date] | None) -> tuple[date, date]:
    """Checks `[first day of validation, first day of test]`; None gives `DEFAULT_TIME_BOUNDARIES`.

    Raises:
        UserError: not two ISO dates in ascending order.
    """
    hint = f"give two ISO dates in ascending order, for example {list(DEFAULT_TIME_BOUNDARIES)}"
    given = DEFAULT_TIME_BOUNDARIES if boundaries is None else boundaries
    if isinstance(given, str) or len(given) != 2:
        raise UserError(f"data.time_boundaries: {given!r} are not two dates", hint)
    try:
        first, second = (date.fromisoformat(str(day)) for day in given)
    except ValueError as error:
        raise UserError(f"data.time_boundaries: {list(map(str, given))!r}: {error}", hint) from error
    if first >= second:
        raise UserError(f"data.time_boundaries: {first} is not before {second}", hint)
    return first, second
