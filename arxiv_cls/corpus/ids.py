"""arXiv identifiers, and the place of a paper between 0 and 1 that decides its split.

Standard library only: serving and release import this file too. Identifier schemes:
https://info.arxiv.org/help/arxiv_identifier.html.
"""

from __future__ import annotations

import hashlib
import re

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES, SUBSUMED_ARCHIVES

_ARCHIVES = sorted(
    {code.partition(".")[0] for code in CATEGORY_NAMES} | set(SUBSUMED_ARCHIVES), key=lambda a: (-len(a), a)
)

# Written for both `re` and RE2 (no look-around, no back-references), since pyarrow applies it to a whole
# column. Old style: until March 2007, seven digits. New style: from April 2007, four digits after the
# point, five from January 2015. Exactly one of `old` and `new` matches; a version left out is version 1.
ID_PATTERN = (
    r"^(?:"
    rf"(?P<archive>{'|'.join(_ARCHIVES)})(?:\.[A-Za-z-]+)?[-/]"
    r"(?P<old>(?:9[1-9]|0[0-7])(?:0[1-9]|1[0-2])[0-9]{3})"
    r"|(?:abs[-/])?"
    r"(?P<new>(?:0[7-9]|1[0-4])(?:0[1-9]|1[0-2])\.[0-9]{4}|(?:1[5-9]|[2-8][0-9])(?:0[1-9]|1[0-2])\.[0-9]{5})"
    r")(?:v(?P<version>[1-9][0-9]{0,3}))?$"
)

_compiled = re.compile(ID_PATTERN, re.ASCII)


def parse_id(identifier: str) -> tuple[str, int]:
    """Splits an arXiv identifier into base id and version.

    Takes the CSV's spelling (`abs-0901.4761v1`, `hep-th-9901001v1`) and arXiv's own (`0901.4761`,
    `math.GT/0309136v2`, whose subject class is not part of the base id: `math/0309136`).

    Returns:
        The base id and the version (1 when it is not given).

    Raises:
        ValueError: it is not an arXiv identifier.
    """
    match = _compiled.match(identifier)
    # `$` also matches before a last line feed; an identifier has none.
    if match is None or identifier.endswith("\n"):
        raise ValueError(f"not an arXiv identifier: {identifier!r}")
    base = match["new"] or f"{match['archive']}/{match['old']}"
    return base, int(match["version"] or 1)


def base_id(identifier: str) -> str:
    """The identifier without its version, as arXiv writes it: `0901.4761`, `hep-th/9901001`.

    Raises:
        ValueError: it is not an arXiv identifier.
    """
    return parse_id(identifier)[0]


def split_position(base: str, seed: int) -> float:
    """The fixed place of a paper in [0, 1): below 0.70 it trains, below 0.85 it validates, above it tests.

    The first 8 bytes of sha256(`"{seed}:{base}"`), read as a big-endian integer, over 2**64. It depends on
    nothing but the paper and the seed, so a paper keeps its split when the file grows or is reordered.

    Args:
        base: base id, see `base_id`.
        seed: seed of the split.
    """
    digest = hashlib.sha256(f"{seed}:{base}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
