"""arXiv identifiers, and the place of a paper between 0 and 1 that decides its split.

Standard library only: serving and release import this file too. Identifier schemes:
https://info.arxiv.org/help/arxiv_identifier.html.
"""

from __future__ import annotations

import hashlib
import re

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES

_ARCHIVES = sorted({code.partition(".")[0] for code in CATEGORY_NAMES}, key=lambda name: (-len(name), name))
# Old style: until March 2007, seven digits. New style: from April 2007, four digits after the point, five
# from January 2015.
_OLD = (
    rf"(?P<archive>{'|'.join(_ARCHIVES)})(?:\.[a-z-]+)?(?:[-/]|%2f)"
    r"(?P<old>(?:9[1-9]|0[0-7])(?:0[1-9]|1[0-2])[0-9]{3})"
)
_NEW = (
    r"(?P<new>(?:0[7-9]|1[0-4])(?:0[1-9]|1[0-2])\.[0-9]{4}|(?:1[5-9]|[2-8][0-9])(?:0[1-9]|1[0-2])\.[0-9]{5})"
)
_VERSION = r"(?:v(?P<version>[1-9][0-9]{0,3}))?"

CSV_ID_PATTERN = rf"^(?:{_OLD.replace('|%2f', '')}|(?:abs[-/])?{_NEW}){_VERSION}$"
"""The identifiers of the public file, for RE2 as for `re`: what a whole column is tried with first.

`parse_id` reads all of them in the same way. One of `old` and `new` matches.
"""

_SPELLINGS = re.compile(
    r"(?:oai:)?(?:(?:https?:)?//)?"
    r"(?:(?:[a-z0-9-]+\.)*arxiv\.org[:/](?:(?:abs|pdf|html|format|ps|e-print|src)/)?"
    r"|(?:(?:dx\.|www\.)?doi\.org/|doi:\s*)?10\.48550/arxiv\.)?"
    r"(?:arxiv:\s*)?"
    rf"(?:{_OLD}|(?:abs[-/])?{_NEW}){_VERSION}"
    r"(?:\.pdf)?/?(?:[?#]\S*)?(?:\s*\[[a-z.-]+\].*)?",
    re.ASCII | re.IGNORECASE,
)
_NUMBER_NOISE = 1e-7  # how far a number that was computed with may be from the identifier


def parse_id(identifier: str, *, numbers: bool = False) -> tuple[str, int | None]:
    """Splits an arXiv identifier into base id and version, None when it names none.

    Takes arXiv's spelling (`0901.4761`, `math.GT/0309136v2`, whose subject class is no part of the base id
    `math/0309136`), the CSV's (`abs-0901.4761v1`, `hep-th-9901001v1`), `arXiv:0901.4761v1 [cs.LG]`, addresses
    of the abstract, PDF or HTML page, and the DOI `10.48550/arXiv.0901.4761`.

    Args:
        identifier: white space around it does not count.
        numbers: also take a number that lost the zeros at its ends, as spreadsheets and data frames write
            identifiers (`901.476` is `0901.4760`), where exactly one identifier can have become it.

    Raises:
        ValueError: it is not an arXiv identifier.
    """
    text = identifier.strip()
    match = _SPELLINGS.fullmatch(text) or (numbers and _SPELLINGS.fullmatch(_from_number(text)))
    if not match:
        raise ValueError(f"not an arXiv identifier: {identifier!r}")
    base = match["new"] or f"{match['archive'].lower()}/{match['old']}"
    return base, int(match["version"]) if match["version"] else None


def _from_number(text: str) -> str:
    """The only identifier that a number can have been, "" when there is none: the month tells its digits."""
    if not re.fullmatch(
        r"[1-9][0-9]{2,3}\.[0-9]*[1-9]|[1-9]\.[0-9]+e\+?0?[23]", text, re.ASCII | re.IGNORECASE
    ):
        return ""
    number = float(text)
    digits = 4 if number < 1500 else 5
    written = f"{number:0{digits + 5}.{digits}f}"
    # No month has a paper of number zero.
    return written if number % 1 and abs(float(written) - number) < _NUMBER_NOISE else ""


def split_position(base: str, seed: int) -> float:
    """The fixed place of a paper in [0, 1): below 0.70 it trains, below 0.85 it validates, above it tests.

    The first 8 bytes of sha256(`"{seed}:{base}"`), read as a big-endian integer, over 2**64. It depends on
    nothing but the paper and the seed, so a paper keeps its split when the file grows or is reordered.
    """
    digest = hashlib.sha256(f"{seed}:{base}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
