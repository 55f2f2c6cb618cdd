"""Scores a released model again on a split that is rebuilt from a recipe and a data version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arxiv_cls.errors import UserError
from arxiv_cls.scoring.model_data import data_options, file_sha256
from arxiv_cls.scoring.scored_papers import ScoredPapers, score_papers


def check_data_version(csv: Path, record: dict[str, Any]) -> None:
    """Makes sure that a CSV file is the data version of a record.

    Args:
        csv: the file.
        record: `data` of a `run.json`, with `sha256`, `md5` and `rows`.

    Raises:
        UserError: when the file is missing or is another version; says how to get the right one.
    """
    md5 = record.get("md5")
    how = (
        f"get the file with md5 {md5}: check out data/raw/arxiv.csv.dvc of the commit that names it and run "
        "`make data`, or name the file with --csv"
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
) -> ScoredPapers:
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

    options = data_options(recipe_dir or model_dir)
    if csv is not None:
        options["csv"] = str(csv)
    corpus = build_corpus(options.pop("config", "top5"), **options)
    return score_papers(load_predictor(model_dir), corpus.splits["test"], corpus.labels, progress=progress)
