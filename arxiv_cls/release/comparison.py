"""Holds a candidate against the release that is on the Hub now, on the same test papers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.release.evidence import Evidence, read_evidence
from arxiv_cls.release.manifest import PREDICTIONS
from arxiv_cls.release.rescoring import score_test_split
from arxiv_cls.scoring.bootstrap import Difference, paired_bootstrap
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.scoring.scored_papers import Predictions, ScoredPapers, read_predictions


@dataclass(frozen=True)
class Comparison:
    """The release against the candidate on the same papers.

    Attributes:
        version: the release's.
        labels: the release's categories.
        papers: how many papers both were scored on.
        before: the release's metrics on them.
        after: the candidate's.
        differences: candidate less release, with 95% intervals from a paired bootstrap.
        impossible: why the two cannot be compared; empty where they can.
    """

    version: str
    labels: list[str]
    papers: int = 0
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    impossible: str = ""


def _rescored(model_dir: Path, candidate: Evidence, csv: str | Path | None) -> ScoredPapers:
    """The release's scores on the candidate's test split, measured now."""
    path = Path(csv or (candidate.recipe.get("data") or {}).get("csv", ""))
    if not path.is_file():
        raise UserError(
            "the release on the Hub was tested on other papers, and there is no data to score it again with",
            hint=f"name the file with --csv ({path} is not there), or get it with `make data`",
        )
    return score_test_split(model_dir, recipe_dir=candidate.model_dir, csv=path, progress=True).scored


def _aligned(predictions: Predictions | ScoredPapers, ids: np.ndarray, labels: list[str]) -> np.ndarray:
    """The probabilities, rows in the order of `ids` and columns in the order of `labels`."""
    row_of = {arxiv_id: row for row, arxiv_id in enumerate(predictions.arxiv_ids)}
    rows = [row_of[arxiv_id] for arxiv_id in ids]
    columns = [predictions.label_names.index(label) for label in labels]
    return predictions.probabilities[rows][:, columns]


def compare_with_release(
    candidate: Evidence, release_dir: Path, version: str, *, csv: str | Path | None = None
) -> Comparison:
    """Compares a candidate with a downloaded release.

    The predictions recorded with both are paired when they are of the same papers; otherwise the release is
    scored again on the candidate's test split.

    Args:
        candidate: records of an evaluated model.
        release_dir: the files of the release.
        version: the release's, for messages.
        csv: data to score the release again with, when that is needed; None for the candidate's own.

    Raises:
        UserError: when predictions are missing or unreadable, or the data to score again is not there.
    """
    released = read_evidence(release_dir)
    if set(released.labels) != set(candidate.labels):
        return Comparison(
            version,
            released.labels,
            impossible=f"its categories are not those of {version}: its users would be surprised",
        )
    new = read_predictions(candidate.model_dir / PREDICTIONS)
    recorded = (release_dir / PREDICTIONS).is_file()
    old: Predictions | ScoredPapers | None = read_predictions(release_dir / PREDICTIONS) if recorded else None
    if old is None or set(old.arxiv_ids) != set(new.arxiv_ids):
        old = _rescored(release_dir, candidate, csv)
    old_ids = set(old.arxiv_ids)
    common = np.asarray([arxiv_id in old_ids for arxiv_id in new.arxiv_ids])
    if not common.any():
        return Comparison(version, released.labels, impossible=f"no test paper in common with {version}")
    labels, after = new.labels[common], new.probabilities[common]
    before = _aligned(old, new.arxiv_ids[common], new.label_names)
    return Comparison(
        version,
        released.labels,
        papers=int(common.sum()),
        before=compute_metrics(labels, before, new.label_names),
        after=compute_metrics(labels, after, new.label_names),
        differences=paired_bootstrap(labels, before, after),
    )
