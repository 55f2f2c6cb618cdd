"""The synthetic sample: a few hundred invented papers in the exact shape of the real CSV.

    arxiv-cls data sample data/sample/arxiv_sample.csv

It has the quirks of the real file (both id styles, m/d/yy dates, author lists as Python literals, quoted
fields with commas and doubled quotes) and the ones a builder must survive (several versions of a paper, the
same text under two ids, near-duplicates). A share of the labels is wrong on purpose and neighbouring
categories share words, so a good classifier of the five default categories lands near 0.85 and not at 1.00.
"""

from __future__ import annotations

import csv
import datetime
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from arxiv_cls.corpus.sample_vocabulary import (
    BODIES,
    CLOSINGS,
    OPENINGS,
    SAMPLE_CATEGORIES,
    SHARED_TERMS,
    SURNAMES,
    TITLES,
)
from arxiv_cls.errors import UserError
from arxiv_cls.record.files import write_atomically

HEADER = (
    "id", "title", "category", "category_code", "published_date", "updated_date",
    "authors", "first_author", "summary", "summary_word_count",
)  # fmt: skip
DEFAULT_PAPERS, DEFAULT_SEED = 840, 42
MINIMUM_PAPERS = 50

LABEL_NOISE = 0.07  # share of papers filed under a neighbouring category
NEW_VERSIONS = 0.05  # share of papers that come in two or three versions
EXACT_DUPLICATES, NEAR_DUPLICATES = 0.012, 0.012  # shares of papers that repeat another's text
FIRST_NEW_STYLE = datetime.date(2007, 4, 1)  # arXiv changed its identifiers in April 2007
LAST_DAY = datetime.date(2020, 12, 28)

T = TypeVar("T")


@dataclass(frozen=True)
class _Paper:
    """One row to be: everything but the derived columns."""

    identifier: str  # as in the file, without the version
    version: int
    code: str
    title: str
    sentences: tuple[str, ...]
    published: datetime.date
    updated: datetime.date
    authors: tuple[str, ...]


class _Draw:
    """Seeded draws, the same on every Python: only `random()` is promised to be, so the rest is ours."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random.random()

    def integer(self, low: int, high: int) -> int:
        """An integer of low..high, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def one(self, items: Sequence[T]) -> T:
        return items[self.integer(0, len(items) - 1)]

    def several(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items, in the order they were drawn."""
        pool = list(items)
        return [pool.pop(self.integer(0, len(pool) - 1)) for _ in range(min(count, len(pool)))]


def sample_csv_bytes(papers: int = DEFAULT_PAPERS, seed: int = DEFAULT_SEED, crlf: bool = False) -> bytes:
    """The sample as the bytes of a CSV file.

    Args:
        papers: number of different papers; versions and duplicates come on top (about 8% more rows).
        seed: of the generator; the same seed gives the same bytes on every Python and platform.
        crlf: end lines as Windows (and the public Kaggle file) does.

    Raises:
        UserError: when `papers` is too small for every category to be there.
    """
    if papers < MINIMUM_PAPERS:
        raise UserError(f"a sample of {papers} papers is too small", f"pass at least {MINIMUM_PAPERS}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n" if crlf else "\n")
    writer.writerow(HEADER)
    writer.writerows(_row(paper) for paper in _generate(papers, _Draw(seed)))
    return text.getvalue().encode("utf-8")


def write_sample(
    path: Path, papers: int = DEFAULT_PAPERS, seed: int = DEFAULT_SEED, crlf: bool = False
) -> int:
    """Writes the sample to `path`, whole or not at all, and returns its number of bytes.

    Raises:
        UserError: when `papers` is too small or the file cannot be written.
    """
    content = sample_csv_bytes(papers, seed, crlf)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}", "name a file in a folder you can write"
        ) from None
    return len(content)


def _generate(count: int, draw: _Draw) -> list[_Paper]:
    """All rows, ordered by date as in the real file."""
    shares = {code: category.papers for code, category in SAMPLE_CATEGORIES.items()}
    total = sum(shares.values())
    used: set[str] = set()
    papers: list[_Paper] = []
    for code, share in shares.items():
        for _ in range(max(2, round(count * share / total))):
            papers.append(_paper(code, draw, used))
    for paper in draw.several(papers, round(count * EXACT_DUPLICATES)):
        papers.append(_repeat(paper, draw, used))
    for paper in draw.several(papers, round(count * NEAR_DUPLICATES)):
        changed = _sentences(paper.code, draw, 1)
        papers.append(replace(_repeat(paper, draw, used), sentences=paper.sentences + changed))
    for paper in draw.several(papers, round(count * NEW_VERSIONS)):
        for version in range(2, draw.integer(2, 3) + 1):
            paper = replace(
                paper,
                version=version,
                updated=min(paper.updated + datetime.timedelta(days=draw.integer(20, 300)), LAST_DAY),
                sentences=paper.sentences + _sentences(paper.code, draw, 1),
            )
            papers.append(paper)
    return sorted(papers, key=lambda paper: (paper.published, paper.identifier, paper.version))


def _paper(code: str, draw: _Draw, used: set[str]) -> _Paper:
    neighbours = SAMPLE_CATEGORIES[code].borrows_from
    published = _date(code, draw)
    count = draw.integer(4, 6)
    # How much a paper speaks its own field's language varies from paper to paper.
    purity = draw.between(0.2, 0.65)
    sentences = _sentences(code, draw, count, purity)
    title = _fill(draw.one(TITLES), code, draw, purity)
    filed_under = draw.one(neighbours) if draw.chance(LABEL_NOISE) else code
    return _Paper(
        identifier=_identifier(filed_under, published, draw, used),
        version=1,
        code=filed_under,
        title=title,
        sentences=sentences,
        published=published,
        updated=published if draw.chance(0.7) else published + datetime.timedelta(days=draw.integer(1, 200)),
        authors=tuple(f"Synthetic {name}" for name in draw.several(SURNAMES, draw.integer(1, 4))),
    )


def _repeat(paper: _Paper, draw: _Draw, used: set[str]) -> _Paper:
    """The same text submitted again as a paper of its own."""
    published = _date(paper.code, draw)
    return replace(
        paper,
        identifier=_identifier(paper.code, published, draw, used),
        published=published,
        updated=published,
    )


def _date(code: str, draw: _Draw) -> datetime.date:
    """A day from the category's first year on; the square root makes later years fuller, as in arXiv."""
    first = datetime.date(SAMPLE_CATEGORIES[code].first_year, 1, 1)
    days = (datetime.date(2020, 1, 1) - first).days
    return first + datetime.timedelta(days=int(days * draw.between(0, 1) ** 0.5))


def _identifier(code: str, published: datetime.date, draw: _Draw, used: set[str]) -> str:
    """An unused id of the style of its day, from the end of the numbering that real papers do not reach."""
    month = f"{published.year % 100:02d}{published.month:02d}"
    while True:
        if published < FIRST_NEW_STYLE:
            # stat and eess had no archive of their own then.
            archive = {"stat": "math", "eess": "cs"}.get(code.split(".")[0], code.split(".")[0])
            identifier = f"{archive}-{month}{draw.integer(900, 999)}"
        elif published.year < 2015:
            identifier = f"abs-{month}.{draw.integer(9700, 9999)}"
        else:
            identifier = f"abs-{month}.{draw.integer(90000, 99999)}"
        if identifier not in used:
            used.add(identifier)
            return identifier


def _sentences(code: str, draw: _Draw, bodies: int, purity: float = 0.4) -> tuple[str, ...]:
    frames = [draw.one(OPENINGS), *draw.several(BODIES, bodies), draw.one(CLOSINGS)]
    frames = frames if bodies > 1 else frames[1:2]
    return tuple(_fill(frame, code, draw, purity) for frame in frames)


def _fill(frame: str, code: str, draw: _Draw, purity: float) -> str:
    first = _term(code, draw, purity)
    second = _term(code, draw, purity)
    while second == first:
        second = _term(code, draw, purity)
    sentence = frame.format(a=first, b=second, n=draw.integer(2, 30))
    return sentence[0].upper() + sentence[1:]


def _term(code: str, draw: _Draw, purity: float) -> str:
    """A term of the category, of a neighbour, or one that anybody uses."""
    if draw.chance(purity):
        return draw.one(SAMPLE_CATEGORIES[code].terms)
    if draw.chance(0.3):
        return draw.one(SAMPLE_CATEGORIES[draw.one(SAMPLE_CATEGORIES[code].borrows_from)].terms)
    return draw.one(SHARED_TERMS)


def _row(paper: _Paper) -> list[str]:
    summary = " ".join(paper.sentences)
    return [
        f"{paper.identifier}v{paper.version}",
        paper.title,
        SAMPLE_CATEGORIES[paper.code].name,
        paper.code,
        _short_date(paper.published),
        _short_date(paper.updated),
        repr(list(paper.authors)),
        repr(paper.authors[0]),
        summary,
        str(len(summary.split())),
    ]


def _short_date(day: datetime.date) -> str:
    return f"{day.month}/{day.day}/{day.year % 100:02d}"
