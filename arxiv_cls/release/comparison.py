"""Scores a released model, and the rules stored beside it, again on a split rebuilt from a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import load_scope, set_members
from arxiv_cls.record.checksums import file_sha256
from arxiv_cls.record.manifest import PREDICTIONS
from arxiv_cls.record.model_directory import Evidence, read_evidence
from arxiv_cls.release.gate_checks import listed
from arxiv_cls.scoring.intervals import Difference, paired_bootstrap
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.scoring.scored_papers import (
    Predictions,
    ScoredPapers,
    data_options,
    read_predictions,
    score_papers,
    training_papers,
)


@dataclass(frozen=True)
class RescoredSplit:
    """A model's scores of a test split, with what the split was rebuilt from.

    Attributes:
        scored: the papers with their scores.
        corpus: the `Corpus`.
        options: the arguments of `build_corpus`, with `config`.
    """

    scored: ScoredPapers
    corpus: Any
    options: dict[str, Any]


def check_data_version(csv: Path, record: Mapping[str, Any]) -> None:
    """Makes sure that a CSV file is the data version of a record.

    Args:
        csv: the file.
        record: `data` of a `run.json`, with `sha256` and `md5`.

    Raises:
        UserError: when the file is missing or is another version; says how to get the right one.
    """
    how = (
        f"get the file with md5 {record.get('md5')}: check out data/raw/arxiv.csv.dvc of the commit that "
        "names it and run `make data`, or name the file with --csv"
    )
    if not csv.is_file():
        raise UserError(f"{csv} is not there", hint=how)
    found = file_sha256(csv)
    if found != record.get("sha256"):
        raise UserError(
            f"{csv} is not the data of this release: its sha256 is {found[:12]}, "
            f"the release names {str(record.get('sha256'))[:12]}",
            hint=how,
        )


def score_test_split(
    model_dir: Path, *, recipe_dir: Path | None = None, csv: str | Path | None = None, progress: bool = False
) -> RescoredSplit:
    """A model's scores on the test split that a recipe describes.

    Args:
        model_dir: the model.
        recipe_dir: the model directory whose recipe names the split; None for the model's own.
        csv: the data file, where it is not at the path that the recipe names.
        progress: show a bar.

    Raises:
        UserError: when model, recipe or data cannot be had or do not fit together.
    """
    from arxiv_cls.corpus import build_corpus
    from arxiv_cls.models.predictor import load_predictor

    options = {"config": "top5"} | data_options(recipe_dir or model_dir)
    if csv is not None:
        options["csv"] = str(csv)
    corpus = build_corpus(**options)
    scored = score_papers(load_predictor(model_dir), corpus.splits["test"], corpus.labels, progress=progress)
    return RescoredSplit(scored, corpus, options)


def remeasure_prediction_sets(record: Mapping[str, Any], scored: ScoredPapers) -> dict[str, Any]:
    """Coverage and mean size of the recorded thresholds on the papers, in the form of the record."""
    levels = {}
    for level, part in record["levels"].items():
        members = set_members(scored.probabilities, part["threshold"])
        levels[level] = {
            "coverage": float(members[np.arange(len(scored)), scored.labels].mean()),
            "mean_size": float(members.sum(axis=1).mean()),
        }
    return {"levels": levels}


def remeasure_scope(model_dir: Path, split: RescoredSplit) -> dict[str, Any]:
    """What the recorded out-of-scope rule does on the test papers inside and outside the labels.

    Raises:
        UserError: when the rule or the data cannot be read.
    """
    from arxiv_cls.scoring.decision_rules import PAPERS_A_SIDE, auroc, caught_by_archive, outside_papers

    rule = load_scope(model_dir)
    if rule is None:
        return {}
    inside = rule.scores(list(split.corpus.splits["test"]["text"][:PAPERS_A_SIDE]))
    papers = outside_papers(split.corpus.labels, split.options)
    outside = rule.scores(papers.test)
    area, low, high = auroc(inside, outside)
    return {
        "auroc": area,
        "auroc_interval": [low, high],
        "in_scope_kept": float((inside >= rule.threshold).mean()),
        "out_of_scope_caught": float((outside < rule.threshold).mean()),
        "out_of_scope_papers": len(outside),
        "caught_by_archive": caught_by_archive(outside < rule.threshold, papers.test_archives),
    }


@dataclass(frozen=True)
class Comparison:
    """The release against the candidate on the same papers.

    Attributes:
        version: the release's.
        papers: how many papers both were scored on.
        left_out: test papers of the candidate that the release was, or can have been, trained on.
        before: the release's metrics on them.
        after: the candidate's.
        differences: candidate less release, with 95% intervals from a paired bootstrap.
        impossible: why the two cannot be compared; empty where they can.
        found: of what keeps them apart, what the candidate has.
        wanted: what the release has.
    """

    version: str
    papers: int = 0
    left_out: int = 0
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    impossible: str = ""
    found: str = ""
    wanted: str = ""


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
    scored again on the candidate's test split, less the papers that it was trained on, which it would know
    by heart (there are some where the two were split by other seeds, or one of them by time). What cannot be
    compared, because the release is none of this project, its labels are others or the data is not there, is
    told in the result: the person who releases may decide to go on.

    Args:
        candidate: records of an evaluated model.
        release_dir: the files of the release.
        version: the release's, for messages.
        csv: data to score the release again with, when that is needed; None for the candidate's own.

    Raises:
        UserError: when the candidate's predictions are missing or unreadable.
    """
    new = read_predictions(candidate.model_dir / PREDICTIONS)
    try:
        released = read_evidence(release_dir)
        labels = released.labels
        recorded = (release_dir / PREDICTIONS).is_file()
        old: Predictions | ScoredPapers | None = (
            read_predictions(release_dir / PREDICTIONS) if recorded else None
        )
    except UserError as error:
        reason = f"{version} is no release of this project that can be read: {_without(error, release_dir)}"
        return Comparison(version, impossible=reason, found="a release", wanted="a release to compare with")
    if set(labels) != set(candidate.labels):
        return Comparison(
            version,
            impossible=f"its categories are not those of {version}: its users would be surprised",
            found=listed(candidate.labels),
            wanted=listed(labels),
        )
    same = old is not None and set(old.arxiv_ids) == set(new.arxiv_ids)
    known = np.zeros(len(new.labels), dtype=bool)
    if old is None or not same:
        shared = 0 if old is None else len(set(old.arxiv_ids) & set(new.arxiv_ids))
        tested = "no recorded papers" if old is None else f"{len(old.labels):,} papers of {version}"
        found = f"{len(new.labels):,} test papers, {shared:,} of them shared"
        path = Path(csv or (candidate.recipe.get("data") or {}).get("csv", ""))
        if not path.is_file():
            reason = (
                f"{version} was tested on other papers, and {path}, to score it again with, is not there: "
                "name the file with --csv FILE (with make CSV=FILE), or get it with `make data`"
            )
            return Comparison(version, impossible=reason, found=found, wanted=tested)
        try:
            old = score_test_split(
                release_dir, recipe_dir=candidate.model_dir, csv=path, progress=True
            ).scored
            known = _known_papers(release_dir, old, new.arxiv_ids, path)
        except UserError as error:
            reason = f"{version} was tested on other papers, and cannot be scored again: "
            reason += _without(error, release_dir)
            return Comparison(version, impossible=reason, found=found, wanted=tested)
    return _paired(new, old, version, known)


def _known_papers(release_dir: Path, scored: ScoredPapers, arxiv_ids: np.ndarray, csv: Path) -> np.ndarray:
    """Which of the candidate's test papers, (n,) in the order of `arxiv_ids`, taught the release."""
    found = training_papers(release_dir, scored.arxiv_ids, scored.published, csv)
    taught = set() if found is None else set(scored.arxiv_ids[found[0]])
    return np.fromiter((name in taught for name in arxiv_ids), bool, len(arxiv_ids))


def _without(error: UserError, folder: Path) -> str:
    """The message of an error less the place of the download, which says nothing to the reader of a card."""
    return error.message.replace(f"{folder}/", "").replace(str(folder), "it")


def _paired(new: Predictions, old: Predictions | ScoredPapers, version: str, known: np.ndarray) -> Comparison:
    old_ids = set(old.arxiv_ids)
    common = np.asarray([arxiv_id in old_ids for arxiv_id in new.arxiv_ids]) & ~known
    if not common.any():
        why = f"no test paper in common with {version}"
        if known.any():
            why += f", less those that it was trained on ({int(known.sum()):,} of {len(known):,})"
        return Comparison(
            version,
            impossible=why,
            found=f"{len(new.labels):,} test papers",
            wanted=f"{len(old.labels):,} papers of {version}",
        )
    labels, after = new.labels[common], new.probabilities[common]
    before = _aligned(old, new.arxiv_ids[common], new.label_names)
    return Comparison(
        version,
        papers=int(common.sum()),
        left_out=int(known.sum()),
        before=compute_metrics(labels, before, new.label_names),
        after=compute_metrics(labels, after, new.label_names),
        differences=paired_bootstrap(labels, before, after),
    )
