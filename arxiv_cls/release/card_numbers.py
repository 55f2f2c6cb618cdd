"""Numbers as a card shows them; each knows the field of the record that it comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from arxiv_cls.errors import UserError


class Shown(str):
    """A text on a card together with the name of its field, such as `metrics.macro_f1`.

    A plain `str` for the template; `card_check` uses the name to say which number was changed.
    """

    field: str

    def __new__(cls, field: str, text: str) -> Shown:
        shown = super().__new__(cls, text)
        shown.field = field
        return shown


def number(field: str, value: float | int | None, digits: int = 3) -> Shown:
    """A number with a fixed count of decimals.

    Raises:
        UserError: when the record has no finite number there: a card with a hole in it is not written.
    """
    if value is None or not math.isfinite(value):
        raise UserError(
            f"the card needs {field}, and the record holds {value}",
            hint="run `arxiv-cls evaluate` on the model again",
        )
    return Shown(field, f"{value:.{digits}f}")


def count(field: str, value: int | None) -> Shown:
    """A whole number with thousands separators.

    Raises:
        UserError: when the record has none.
    """
    if value is None:
        raise UserError(f"the card needs {field}, and the record has none")
    return Shown(field, f"{value:,}")


def interval(field: str, ends: Sequence[float], digits: int = 3) -> Shown:
    """An interval as `0.770 to 0.798`.

    Raises:
        UserError: when an end is not a finite number.
    """
    low, high = (number(field, end, digits) for end in ends)
    return Shown(field, f"{low} to {high}")


def duration(field: str, seconds: float | None) -> Shown:
    """A duration in the unit that a person would use.

    Raises:
        UserError: when the record has none.
    """
    number(field, seconds)
    assert seconds is not None
    if seconds < 10:
        return Shown(field, f"{seconds:.1f} seconds")
    if seconds < 120:
        return Shown(field, f"{seconds:.0f} seconds")
    if seconds < 7200:
        return Shown(field, f"{seconds / 60:.0f} minutes")
    return Shown(field, f"{seconds / 3600:.1f} hours")


def gigabytes(field: str, size: int | None) -> Shown:
    """A size in GB (10^9 bytes), or MB below one.

    Raises:
        UserError: when the record has none.
    """
    number(field, size)
    assert size is not None
    return Shown(field, f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB")
