"""The label sets that `data.config` names: a new one is one entry here. Any `top<N>` is one too.

Standard library only and below the recipes, which check the name; `corpus/splits.py` applies the rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelSet:
    """How the labels are chosen: given ones, archives, or those categories of the file that qualify."""

    description: str
    labels: tuple[str, ...] = ()  # the same for every file, so that models of different files can be compared
    archives: bool = False  # a paper's label is its category's group of archives
    most_frequent: int | None = None  # categories at most
    minimum_papers: int = 1  # of a category


LABEL_SETS = {
    "top5": LabelSet(
        "cs.AI, cs.CL, cs.CV, cs.LG, stat.ML", labels=("cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML")
    ),
    "top10": LabelSet("the ten most frequent categories", most_frequent=10),
    "top20": LabelSet("the twenty most frequent categories", most_frequent=20),
    "archive": LabelSet("the eight archives", archives=True),
    "all": LabelSet("every category with at least 100 papers", minimum_papers=100),
}
DEFAULT_LABEL_SET = "top5"
OWN_LABELS = "own"
"""What stands in records for the label set of `data.labels`."""
KNOWN_LABEL_SETS = f"{', '.join(LABEL_SETS)}, or top<N> with N of 2 or more"


def label_set(config: str, labels: Sequence[str] | None = None) -> LabelSet:
    """The label set of a name or, where labels are given, of these.

    Raises:
        ValueError: there is none of this name.
    """
    if labels:
        return LabelSet(", ".join(sorted(labels)), labels=tuple(sorted(labels)))
    if config in LABEL_SETS:
        return LABEL_SETS[config]
    if match := re.fullmatch(r"top([2-9]|[1-9][0-9]{1,3})", config, re.ASCII):
        return LabelSet(f"the {match[1]} most frequent categories", most_frequent=int(match[1]))
    raise ValueError(f"{config!r} is none of {KNOWN_LABEL_SETS}")
