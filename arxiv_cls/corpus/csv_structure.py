"""Where the records of a CSV begin and end, to the byte, and which of them are damaged.

`pyarrow.csv` reads fast but is lenient: an unterminated quote swallows the rows behind it without a word, and
with threads it cannot say where a bad row was. The scan here looks at the positions of quotes, line breaks
and commas only (whole arrays, no loop per row), so it can both vouch for a clean file in a fraction of the
reading time and name the physical line of every damaged row.

Rules (RFC 4180): a quote opens a field only at the field's beginning, a doubled quote inside is a quote, a
closing quote is followed by a comma or a line end. A quote in the middle of an unquoted field is text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

QUOTE, COMMA, LINE_FEED, CARRIAGE_RETURN = 34, 44, 10, 13

UNTERMINATED = "unterminated quote"
AFTER_QUOTE = "text after a closing quote"
STRAY_RETURN = "carriage return inside a row"
WRONG_COLUMNS = "wrong number of columns"

_CHUNK = 1 << 22  # bytes compared at once: bounds the memory of the scan
_WINDOW = 1 << 14  # quotes verified at once: bounds the work that is done again after a damaged row


@dataclass(frozen=True)
class Damage:
    """A stretch of bytes that is no row of the table: `data[start:stop]`, whole physical lines."""

    start: int
    stop: int
    at: int  # the byte to blame; its line is the one reported
    reason: str


@dataclass
class Structure:
    """Positions of a file's quotes that open or close, and its damaged stretches, both ascending."""

    quotes: np.ndarray  # int64, (n,): even entries open, odd entries close
    damages: list[Damage] = field(default_factory=list)


def positions(bytes_: np.ndarray, value: int, start: int = 0) -> np.ndarray:
    """Offsets, from `start` on, of the bytes equal to `value`: int64 array."""
    found = [
        np.flatnonzero(bytes_[offset : offset + _CHUNK] == value) + offset
        for offset in range(start, len(bytes_), _CHUNK)
    ]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def unquoted_positions(bytes_: np.ndarray, value: int, start: int, quotes: np.ndarray) -> np.ndarray:
    """As `positions`, without the bytes inside quoted fields; `quotes` as in `Structure`."""
    found, carried = [], 0
    for offset in range(start, len(bytes_), _CHUNK):
        chunk = bytes_[offset : offset + _CHUNK]
        low, high = np.searchsorted(quotes, (offset, offset + len(chunk)))
        inside = np.zeros(len(chunk), dtype=np.uint8)
        inside[quotes[low:high] - offset] = 1
        inside[0] ^= carried
        np.bitwise_xor.accumulate(inside, out=inside)
        carried = inside[-1]
        found.append(np.flatnonzero((chunk == value) & (inside == 0)) + offset)
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def line_break_of(data: bytes) -> int:
    """The byte that ends a line: a line feed, or a carriage return in a file that has no line feed."""
    return CARRIAGE_RETURN if LINE_FEED not in data and CARRIAGE_RETURN in data else LINE_FEED


def scan_quotes(data: bytes, start: int) -> Structure:
    """Verifies every quote behind the header; a row with a wrong one becomes a damage and is stepped over.

    After a damaged row the scan goes on at the next physical line, so one missing quote costs one row and
    not the rest of the file.

    Args:
        data: the whole file.
        start: offset of the first byte behind the header.
    """
    bytes_ = np.frombuffer(data, dtype=np.uint8)
    line_break = bytes([line_break_of(data)])
    quotes = positions(bytes_, QUOTE, start)
    verified, count = np.empty(len(quotes), dtype=np.int64), 0
    damages: list[Damage] = []
    floor, at = start, 0  # no record begins before `floor`; `at` is the next quote to look at
    while at < len(quotes):
        window = quotes[at : at + _WINDOW]
        wrong = _first_wrong(bytes_, window, int(verified[count - 1]) if count else -2, floor)
        verified[count : count + wrong] = window[:wrong]
        count += wrong
        if wrong == len(window) and wrong % 2 == 0:
            at += wrong
            continue
        if wrong % 2 == 0:  # a quote in the middle of an unquoted field: text
            at += wrong + 1
            continue
        opened = _field_opening(verified, count - 1)
        begin = _record_start(data, line_break, verified[: count - 1], opened, floor)
        end = data.find(line_break, opened)
        end = len(data) if end < 0 else end + 1
        closed = int(window[wrong]) if wrong < len(window) else len(data)
        damages.append(Damage(begin, end, opened, UNTERMINATED if closed >= end else AFTER_QUOTE))
        count = int(np.searchsorted(verified[:count], begin))
        floor, at = end, int(np.searchsorted(quotes, end))
    return Structure(verified[:count].copy(), damages)


def _first_wrong(bytes_: np.ndarray, window: np.ndarray, before: int, floor: int) -> int:
    """Index of the first quote of the window that breaks the rules, or the window's length.

    The window begins outside a quoted field. `before` is the last verified quote: a quote right behind it is
    the second half of a doubled one. A last quote without its partner counts as opening, hence as fine; the
    caller sees it by the odd length.
    """
    opening, closing = window[0::2], window[1::2]
    previous = bytes_[np.maximum(opening - 1, 0)]
    doubled = opening - 1 == np.concatenate(([before], closing))[: len(opening)]
    opens = (previous == COMMA) | (previous == LINE_FEED) | (previous == CARRIAGE_RETURN) | doubled
    opens |= opening == floor
    following = bytes_[np.minimum(closing + 1, len(bytes_) - 1)]
    closes = (following == COMMA) | (following == LINE_FEED) | (following == CARRIAGE_RETURN)
    closes |= (following == QUOTE) | (closing + 1 == len(bytes_))
    fine = np.ones(len(window), dtype=bool)
    fine[0::2], fine[1::2] = opens, closes
    return len(window) if fine.all() else int(np.argmin(fine))


def _field_opening(verified: np.ndarray, index: int) -> int:
    """Offset of the quote that opened the field in which quote `index` stands, over doubled quotes."""
    while index >= 2 and verified[index] - 1 == verified[index - 1]:
        index -= 2
    return int(verified[index])


def _record_start(data: bytes, line_break: bytes, verified: np.ndarray, offset: int, floor: int) -> int:
    """Offset of the first byte of the record that holds `offset`: behind the last unquoted line break."""
    end = offset
    while True:
        found = data.rfind(line_break, floor, end)
        if found < 0:
            return floor
        if np.searchsorted(verified, found) % 2 == 0:
            return found + 1
        end = found


@dataclass
class Records:
    """A file's records in order: bytes `starts[i]` to `stops[i]`, line break included; no blank lines."""

    starts: np.ndarray  # int64, (records,)
    stops: np.ndarray  # int64, (records,)
    columns: np.ndarray  # int64, (records,): fields of each record; 0 for a damaged stretch
    lines: np.ndarray  # int64, (records,): physical line, from 1, that a report should name
    reasons: dict[int, str]  # record number to reason, for the damaged ones


def find_records(data: bytes, start: int, first_line: int, structure: Structure) -> Records:
    """Cuts the file into records and counts their fields.

    Args:
        data: the whole file.
        start: offset of the first byte behind the header.
        first_line: physical line number of that byte, from 1.
        structure: what `scan_quotes` found.
    """
    bytes_ = np.frombuffer(data, dtype=np.uint8)
    line_break = line_break_of(data)
    breaks = positions(bytes_, line_break, start)
    damages = structure.damages
    damage_starts = np.array([d.start for d in damages], dtype=np.int64)
    damage_stops = np.array([d.stop for d in damages], dtype=np.int64)

    ends = unquoted_positions(bytes_, line_break, start, structure.quotes) + 1
    inside = np.searchsorted(damage_starts, ends - 1, side="right") > np.searchsorted(
        damage_stops, ends - 1, side="right"
    )
    stops = np.unique(np.concatenate((ends[~inside], damage_stops, [len(data)] if len(data) > start else [])))
    stops = stops.astype(np.int64)
    starts = np.concatenate(([start], stops[:-1])).astype(np.int64)[: len(stops)]

    length = stops - starts
    first = bytes_[starts] if len(starts) else np.empty(0, dtype=np.uint8)
    blank = (length == 1) & ((first == line_break) | (first == CARRIAGE_RETURN))
    blank |= (length == 2) & (first == CARRIAGE_RETURN) & (bytes_[np.maximum(stops - 1, 0)] == LINE_FEED)
    starts, stops = starts[~blank], stops[~blank]

    blamed = starts.copy()
    reasons: dict[int, str] = {}
    damaged = np.searchsorted(starts, damage_starts)
    for index, damage in zip(damaged.tolist(), damages, strict=True):
        blamed[index] = damage.at
        reasons[index] = damage.reason
    if line_break == LINE_FEED and CARRIAGE_RETURN in data:
        returns = positions(bytes_, CARRIAGE_RETURN, start)
        stray = returns[bytes_[np.minimum(returns + 1, len(bytes_) - 1)] != LINE_FEED]
        stray = stray[(np.searchsorted(structure.quotes, stray) % 2 == 0) & (stray + 1 < len(bytes_))]
        for index in (np.searchsorted(starts, stray, side="right") - 1).tolist():
            reasons.setdefault(index, STRAY_RETURN)

    commas = unquoted_positions(bytes_, COMMA, start, structure.quotes)
    columns = np.searchsorted(commas, stops) - np.searchsorted(commas, starts) + 1
    columns[list(reasons)] = 0
    return Records(starts, stops, columns, np.searchsorted(breaks, blamed) + first_line, reasons)
