"""The papers that an export is measured on: the validation split of the model, or the rows of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UserError


@dataclass(frozen=True)
class MeasuredPapers:
    """n papers and where they come from.

    Attributes:
        texts: n texts.
        labels: (n,) true columns of the model; None where they are not known.
        source: for the record: `texts` in words, and the sha256 of the data.
    """

    texts: list[str]
    labels: np.ndarray | None
    source: dict[str, Any]

    def __len__(self) -> int:
        return len(self.texts)


def validation_papers(model_dir: Path, data: str | Path | None, limit: int | None) -> MeasuredPapers:
    """Papers of the model's own validation split, in hash order, which is chance.

    Args:
        model_dir: the model, with its `recipe.yaml`.
        data: the CSV file; None for the path that the recipe names.
        limit: at most so many papers; None for all.

    Raises:
        UserError: recipe or data are missing, or model and data have other labels.
    """
    from arxiv_cls.release.manifest import model_labels
    from arxiv_cls.scoring.model_data import load_corpus

    corpus, _ = load_corpus(model_dir, data)
    labels = model_labels(model_dir)
    if set(corpus.labels) != set(labels):
        raise UserError(
            f"{model_dir} knows the labels {', '.join(labels)}, its data {', '.join(corpus.labels)}"
        )
    split = corpus.splits["validation"]
    split = split.select(range(min(limit or len(split), len(split))))
    column_of = np.asarray([labels.index(name) for name in corpus.labels])
    return MeasuredPapers(
        list(split["text"]),
        column_of[np.asarray(split["label"])],
        {"texts": "validation split", "data_sha256": corpus.data.sha256},
    )


def csv_papers(model_dir: Path, csv: str | Path, limit: int | None) -> MeasuredPapers:
    """The rows of a file whose category is one of the model's labels, in the order of the file.

    Raises:
        UserError: the file cannot be read, or no row has a label of the model.
    """
    from arxiv_cls.corpus.papers import read_papers
    from arxiv_cls.release.manifest import model_labels
    from arxiv_cls.scoring.csv_evaluation import REQUIRED, true_columns

    papers = read_papers(csv, required=REQUIRED)
    columns = true_columns(papers.table["category"].to_pylist(), model_labels(model_dir))
    rows = np.flatnonzero(columns >= 0)[:limit]
    if not len(rows):
        raise UserError(f"{csv}: none of its {papers.rows_read:,} rows has a label of the model")
    table = papers.table.select(["title", "abstract"]).take(rows)
    pairs = zip(table["title"].to_pylist(), table["abstract"].to_pylist(), strict=True)
    texts = [f"{title}\n\n{abstract}" for title, abstract in pairs]
    return MeasuredPapers(
        texts, columns[rows], {"texts": "rows of a file", "data_sha256": papers.version.sha256}
    )


def example_papers() -> MeasuredPapers:
    """The example papers of the card: enough to see a broken graph, too few for more."""
    from arxiv_cls.release.card_examples import EXAMPLE_PAPERS

    return MeasuredPapers([paper.text for paper in EXAMPLE_PAPERS], None, {"texts": "example papers"})
