"""Scores every usable row of a CSV file, in batches, with a word about papers that the model has seen."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.record.checksums import file_sha256
from arxiv_cls.scoring.evaluation import (
    SCHEMA_VERSION,
    evaluation_of,
    hand_over,
    library_versions,
    refuse_own_folder,
)
from arxiv_cls.scoring.model_data import data_record
from arxiv_cls.scoring.scored_papers import ScoredPapers, word_counts
from arxiv_cls.scoring.seen_papers import SeenPapers, seen_papers

logger = logging.getLogger(__name__)

ROWS_AT_A_TIME = 4096
# A row needs a text to be scored and a category to be right or wrong; id and date are used where given.
REQUIRED = ("title", "abstract", "category")
NAMED_AT_MOST = 5


@dataclass(frozen=True)
class RowCounts:
    """What became of the rows of a file."""

    read: int
    rejected: dict[str, int]  # rows that cannot be used, by reason
    other_labels: dict[str, int]  # rows whose category the model does not have, by category
    scored: int


def true_columns(categories: list[str], label_names: list[str]) -> np.ndarray:
    """The model's column of each category, -1 where it has none.

    A model whose labels are archives (`cs`, `physics`) gets the archive of the category.
    """
    from arxiv_cls.corpus.taxonomy import archive_of

    column_of = {name: column for column, name in enumerate(label_names)}
    known = {
        category: column_of.get(category, column_of.get(archive_of(category), -1))
        for category in set(categories)
    }
    return np.fromiter((known[category] for category in categories), dtype=np.int64, count=len(categories))


def score_csv(
    predictor: Any, csv: str | Path, *, progress: bool = False
) -> tuple[ScoredPapers, RowCounts, Any]:
    """Scores the rows of a file whose category is one of the model's labels.

    Versions of a paper are rows of their own here: the file is scored as it stands. Beside the file's own
    text only one batch of texts is held, so a file of 136,000 rows stays far below 2 GB.

    Args:
        predictor: any `Predictor`.
        csv: a file in the schema of the data, in either export's column names.
        progress: show a bar.

    Returns:
        The scored rows (no date and id "" where the file gives none), the counts, and
        the file's `DataVersion`.

    Raises:
        UserError: when the file cannot be read or no row has a label of the model.
    """
    from tqdm import tqdm

    from arxiv_cls.corpus.papers import read_papers

    papers = read_papers(csv, required=REQUIRED)
    categories = papers.table["category"].to_pylist()
    columns = true_columns(categories, predictor.labels)
    rows = np.flatnonzero(columns >= 0)
    unknown, counts = np.unique(
        np.asarray(categories, dtype=object)[columns < 0].astype(str), return_counts=True
    )
    order = np.lexsort((unknown, -counts))
    found = RowCounts(
        read=papers.rows_read,
        rejected=papers.rejected_by_reason(),
        other_labels={str(unknown[place]): int(counts[place]) for place in order},
        scored=len(rows),
    )
    if len(rows) == 0:
        raise UserError(
            f"{csv}: none of its {papers.rows_read:,} rows has a label of the model",
            hint=f"the model knows {', '.join(predictor.labels[:20])}",
        )
    # Only the rows to score, and only the columns that scoring needs, stay in memory.
    table = papers.table.select(["arxiv_id", "title", "abstract", "published"]).take(rows)
    version = papers.version
    del papers, categories
    probabilities = np.empty((len(rows), len(predictor.labels)))
    words = np.empty(len(rows), dtype=np.int64)
    with tqdm(total=len(rows), desc="scoring", unit=" papers", disable=not progress) as bar:
        for first in range(0, len(rows), ROWS_AT_A_TIME):
            part = table.slice(first, ROWS_AT_A_TIME)
            pairs = zip(part["title"].to_pylist(), part["abstract"].to_pylist(), strict=True)
            texts = [f"{title}\n\n{abstract}" for title, abstract in pairs]
            probabilities[first : first + len(texts)] = predictor.predict_proba(texts)
            words[first : first + len(texts)] = word_counts(texts)
            bar.update(len(texts))
    scored = ScoredPapers(
        label_names=list(predictor.labels),
        arxiv_ids=np.asarray([name or "" for name in table["arxiv_id"].to_pylist()], dtype=object),
        labels=columns[rows],
        probabilities=probabilities,
        published=np.asarray(table["published"].to_pylist(), dtype="datetime64[D]"),
        words=words,
    )
    return scored, found, version


def evaluate_csv(
    model: str | Path,
    csv: str | Path,
    *,
    out: str | Path | None = None,
    engine: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Evaluates a model on a file; see `evaluate_model`.

    Args:
        model: directory or Hub id.
        csv: the file.
        out: folder to write to; None writes nothing. The `eval/` folder of the model keeps its test split.
        engine: what computes a transformer; None for torch.
        progress: show a bar.

    Returns:
        What `evaluate_model` returns, with `split` null and `csv`: {rows_read, rows_scored, rejected,
        other_labels, in_training_split, in_training_split_exact}; the last two are null when the model has
        no recipe, and the number is an upper bound unless the last is true.

    Raises:
        UserError: when model or file cannot be used, or `out` is the model's own `eval/`.
    """
    from arxiv_cls.models.predictor import load_predictor

    refuse_own_folder(model, out)
    predictor = load_predictor(model, engine=engine)
    model_dir = Path(predictor.directory)
    scored, counts, version = score_csv(predictor, csv, progress=progress)
    seen = seen_papers(model_dir, scored.arxiv_ids, scored.published, csv)
    evaluation = {
        "schema_version": SCHEMA_VERSION,
        "kind": predictor.kind,
        "engine": predictor.engine,
        "labels": list(predictor.labels),
        "split": None,
        "data": data_record(version, {"csv": str(csv), "config": None, "split": None, "seed": None}),
        "data_sha256": version.sha256,
        "weights_sha256": file_sha256(Path(predictor.weights_path)),
        **evaluation_of(scored),
        "csv": {
            "rows_read": counts.read,
            "rows_scored": counts.scored,
            "rejected": counts.rejected,
            "other_labels": counts.other_labels,
            "in_training_split": None if seen is None else seen.count,
            "in_training_split_exact": None if seen is None else seen.exact,
        },
        "versions": library_versions(),
    }
    _warn(counts, seen)
    hand_over(evaluation, scored, None if out is None else Path(out))
    return evaluation


def _warn(counts: RowCounts, seen: SeenPapers | None) -> None:
    if seen is None:
        logger.warning("the model has no recipe.yaml: whether it was trained on these papers is not known")
    elif seen.count:
        logger.warning(
            "%s%s of the %s scored papers belong to the model's own training split: the figures %s too good",
            "" if seen.exact else "up to ",
            f"{seen.count:,}",
            f"{counts.scored:,}",
            "are" if seen.exact else "may be",
        )
    if counts.rejected:
        rows = f"{sum(counts.rejected.values()):,}"
        logger.warning("%s rows cannot be used: %s", rows, _counted(counts.rejected))
    if counts.other_labels:
        logger.warning(
            "%s rows have a label that the model does not have (%s): not scored",
            f"{sum(counts.other_labels.values()):,}",
            _counted(counts.other_labels),
        )


def _counted(counts: dict[str, int]) -> str:
    """The first few names with their numbers, and how many more names there are."""
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:NAMED_AT_MOST])
    more = len(counts) - NAMED_AT_MOST
    return f"{shown} and {more} more" if more > 0 else shown
