"""arXiv's category taxonomy: codes, names, archives. Standard library only, so that serving can import it.

Source of codes and archives: https://arxiv.org/category_taxonomy. A name is the one that the public CSV
gives its category, so that a file without a code column can be mapped; the few categories which that file
does not hold carry arXiv's name with the archive in brackets where the bare name would be ambiguous.
"""

from __future__ import annotations

import importlib.resources
from functools import cache

ARCHIVES = ("cs", "econ", "eess", "math", "physics", "q-bio", "q-fin", "stat")
"""Labels of the config `archive`: arXiv's eight groups of archives."""

# Archives that arXiv counts to the physics group, besides `physics` itself.
_PHYSICS_ARCHIVES = (
    "astro-ph", "cond-mat", "gr-qc", "hep-ex", "hep-lat", "hep-ph", "hep-th",
    "math-ph", "nlin", "nucl-ex", "nucl-th", "quant-ph",
)  # fmt: skip

# Archives closed by 1998 and the category that took in each: https://arxiv.org/archive (subsumed archives).
SUBSUMED_ARCHIVES = {
    "acc-phys": "physics.acc-ph",
    "adap-org": "nlin.AO",
    "alg-geom": "math.AG",
    "ao-sci": "physics.ao-ph",
    "atom-ph": "physics.atom-ph",
    "bayes-an": "physics.data-an",
    "chao-dyn": "nlin.CD",
    "chem-ph": "physics.chem-ph",
    "cmp-lg": "cs.CL",
    "comp-gas": "nlin.CG",
    "dg-ga": "math.DG",
    "funct-an": "math.FA",
    "mtrl-th": "cond-mat.mtrl-sci",
    "patt-sol": "nlin.PS",
    "plasm-ph": "physics.plasm-ph",
    "q-alg": "math.QA",
    "solv-int": "nlin.SI",
    "supr-con": "cond-mat.supr-con",
}

_TABLE = importlib.resources.files("arxiv_cls.corpus").joinpath("taxonomy.tsv").read_text(encoding="utf-8")
CATEGORY_NAMES: dict[str, str] = dict(line.split("\t") for line in _TABLE.splitlines())
"""Category code to long name; both sides are unique."""

CATEGORY_NAMES |= {
    archive: f"{CATEGORY_NAMES[successor]} ({archive})" for archive, successor in SUBSUMED_ARCHIVES.items()
}


@cache
def name_to_code() -> dict[str, str]:
    """Long name to category code, the inverse of `CATEGORY_NAMES`."""
    return {name: code for code, name in CATEGORY_NAMES.items()}


def archive_of(code: str) -> str:
    """The label in `ARCHIVES` of a category code: `hep-th` is `physics`, `cs.LG` is `cs`.

    Raises:
        KeyError: the code is not in the taxonomy.
    """
    if code not in CATEGORY_NAMES:
        raise KeyError(code)
    archive = SUBSUMED_ARCHIVES.get(code, code).partition(".")[0]
    return "physics" if archive in _PHYSICS_ARCHIVES else archive
