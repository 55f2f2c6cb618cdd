"""How many papers of a file a model was trained on: exactly where that can be known, else at most."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.record.checksums import file_sha256
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.scoring.model_data import DEFAULT_CSV, data_options


@dataclass(frozen=True)
class SeenPapers:
    """Papers of a file that are in a model's training split.

    Attributes:
        count: how many; an upper bound unless `exact`.
        exact: the training data is at hand, so that each paper could be looked up in it.
    """

    count: int
    exact: bool


def trained_on(
    arxiv_ids: np.ndarray,
    published: np.ndarray,
    options: dict[str, Any],
    newest: np.datetime64 | None = None,
) -> np.ndarray:
    """Which papers the training split of a recipe's data group can hold.

    Recomputed from the rule, without the training file: by the hash of the id, or by the date for
    `split: time`. The rule knows nothing of what the file held: it also takes in papers that came later,
    unless `newest` excludes them, and with `max_samples` only the first papers in hash order were used.

    Args:
        arxiv_ids: (n,) base ids, "" where unknown (counted as not trained on).
        published: (n,) datetime64[D], NaT where unknown (counted as not trained on in a split by time).
        options: as `data_options` returns them.
        newest: when the newest training paper was published; None where that is not known.
    """
    from arxiv_cls.corpus.splits import parse_time_boundaries, split_by_paper, split_by_time, split_positions

    possible = arxiv_ids != ""
    if newest is not None:
        possible &= np.isnat(published) | (published <= newest)
    if options.get("split", "paper") == "time":
        numbers = split_by_time(published, parse_time_boundaries(options.get("time_boundaries")))
        return possible & ~np.isnat(published) & (numbers == 0)
    return possible & (split_by_paper(split_positions(arxiv_ids, options.get("seed", 42))) == 0)


def training_papers(
    model_dir: Path, arxiv_ids: np.ndarray, published: np.ndarray, csv: str | Path
) -> tuple[np.ndarray, bool] | None:
    """Which papers a model was trained on.

    Args:
        model_dir: the model's files.
        arxiv_ids: (n,) base ids, "" where unknown.
        published: (n,) datetime64[D], NaT where unknown.
        csv: the file they come from; it may be the one the model was trained on.

    Returns:
        (n,) bool, and whether that is exact: the training data is at hand and each paper was looked up in
        it. Else it marks every paper that can have been one. None when the model has no recipe, so that
        nothing is known of its splits.

    Raises:
        UserError: when the recipe cannot be read, or the training data is there and cannot be built.
    """
    if not (model_dir / "recipe.yaml").is_file():
        return None
    options = data_options(model_dir)
    data = (read_model_file(model_dir, "run.json") or {}).get("data") or {}
    for path in (Path(options.get("csv", DEFAULT_CSV)), Path(csv)):
        if path.is_file() and file_sha256(path) == data.get("sha256"):
            ids = _training_ids(options | {"csv": str(path)})
            return np.fromiter((name in ids for name in arxiv_ids), bool, len(arxiv_ids)), True
    newest = data.get("newest_training_paper")
    return trained_on(arxiv_ids, published, options, np.datetime64(newest, "D") if newest else None), False


def seen_papers(
    model_dir: Path, arxiv_ids: np.ndarray, published: np.ndarray, csv: str | Path
) -> SeenPapers | None:
    """How many papers a model was trained on; arguments and errors as of `training_papers`.

    Returns:
        The count; None when nothing is known of the model's splits.
    """
    found = training_papers(model_dir, arxiv_ids, published, csv)
    return None if found is None else SeenPapers(int(found[0].sum()), exact=found[1])


def _training_ids(options: dict[str, Any]) -> set[str]:
    from arxiv_cls.corpus import build_corpus

    return set(build_corpus(**options).splits["train"]["arxiv_id"][:])
