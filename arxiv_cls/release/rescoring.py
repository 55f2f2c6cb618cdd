"""Scores a released model, and the rules stored beside it, again on a split rebuilt from a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction_sets import set_members
from arxiv_cls.models.scope import load_scope
from arxiv_cls.scoring.model_data import data_options, file_sha256
from arxiv_cls.scoring.scored_papers import ScoredPapers, score_papers


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
    from arxiv_cls.scoring.scope_fitting import PAPERS_A_SIDE, auroc, caught_by_archive, outside_papers

    rule = load_scope(model_dir)
    if rule is None:
        return {}
    inside = rule.scores(list(split.corpus.splits["test"]["text"][:PAPERS_A_SIDE]))
    papers = outside_papers(split.corpus)
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
