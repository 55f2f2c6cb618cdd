"""arXiv's category taxonomy: codes, names, archives. Standard library only, so that serving can import it.

Source of codes and archives: https://arxiv.org/category_taxonomy. A name is the one that the public CSV
gives its category, so that a file without a code column can be mapped; the few categories which that file
does not hold carry arXiv's name with the archive in brackets where the bare name would be ambiguous.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Collection
from functools import lru_cache

ARCHIVES = ("cs", "econ", "eess", "math", "physics", "q-bio", "q-fin", "stat")
"""Labels of the config `archive`: arXiv's eight groups of archives."""

# Archives that arXiv counts to the physics group, besides `physics` itself.
_PHYSICS_ARCHIVES = (
    "astro-ph", "cond-mat", "gr-qc", "hep-ex", "hep-lat", "hep-ph", "hep-th",
    "math-ph", "nlin", "nucl-ex", "nucl-th", "quant-ph",
)  # fmt: skip

_TABLE = importlib.resources.files("arxiv_cls.corpus").joinpath("taxonomy.tsv").read_text(encoding="utf-8")
_ROWS = [line.split("\t") for line in _TABLE.splitlines()]
CATEGORY_NAMES: dict[str, str] = {code: name for code, name, *_ in _ROWS}
"""Category code to long name; both sides are unique."""
SUBSUMED_ARCHIVES: dict[str, str] = {row[0]: row[2] for row in _ROWS if len(row) == 3}
"""Archives closed by 1998, and the category that took in each: https://arxiv.org/archive."""

_LOWERED = {code.casefold(): code for code in CATEGORY_NAMES}
_CODES = {name.casefold(): code for code, name in CATEGORY_NAMES.items()} | _LOWERED
# Names that arXiv gives to two categories: the public file adds the archive in brackets to one of the two.
_TOLD_APART = {
    name.casefold(): bare
    for code, name in CATEGORY_NAMES.items()
    if code not in SUBSUMED_ARCHIVES
    and name.endswith(")")
    and (bare := name.partition(" (")[0].casefold()) in _CODES
}
_TWO_CODES = {bare: f"{_CODES[bare]} or {_CODES[name]}" for name, bare in _TOLD_APART.items()}


def category_code(text: str) -> str | None:
    """The code that a cell means: a code, the first of a list of codes, or a long name; None when unknown.

    What stands behind the first code need not be one. `Name (code)` is read too. For a name of two categories
    see `ambiguous_names`.
    """
    if code := _CODES.get(text.casefold()):
        return code
    words = _words(text)
    if words[0] in _LOWERED or all(word in _CODES for word in words):
        return _CODES[words[0]]
    bracketed = re.search(r"\(([a-z-]+(?:\.[a-z-]+)?)\)", text.casefold())
    return _CODES.get(bracketed[1]) if bracketed else None


def _words(text: str) -> list[str]:
    return re.split(r"[\s,;|'\"\[\]]+", text.casefold().strip("[]'\" ,;|"))


@lru_cache(maxsize=1 << 16)
def category_codes(text: str) -> tuple[str, ...]:
    """All codes of a list of them, in its order, without repetitions and those that arXiv does not have.

    A cell that is no list gives the code that `category_code` reads in it, if any.
    """
    words = _words(text)
    if text.casefold() in _CODES or words[0] not in _CODES:
        return (code,) if (code := category_code(text)) else ()
    return tuple(dict.fromkeys(_CODES[word] for word in words if word in _CODES))


def ambiguous_names(cells: Collection[str]) -> dict[str, str]:
    """Those of a file's category cells that arXiv gives to two categories, with the two codes.

    None where any cell has a name that only the public file uses, since that tells the two apart.
    """
    lowered = {cell: cell.casefold() for cell in cells}
    if not _TOLD_APART.keys().isdisjoint(lowered.values()):
        return {}
    return {cell: _TWO_CODES[name] for cell, name in lowered.items() if name in _TWO_CODES}


def archive_of(code: str) -> str:
    """The label in `ARCHIVES` of a category code: `hep-th` is `physics`, `cs.LG` is `cs`.

    Raises:
        KeyError: the code is not in the taxonomy.
    """
    if code not in CATEGORY_NAMES:
        raise KeyError(code)
    archive = SUBSUMED_ARCHIVES.get(code, code).partition(".")[0]
    return "physics" if archive in _PHYSICS_ARCHIVES else archive
