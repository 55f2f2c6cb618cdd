"""Papers together with the scores that a model gave them: what every later step of scoring works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.record.writing import staged


@dataclass(frozen=True)
class ScoredPapers:
    """One model's scores of n papers.

    Attributes:
        label_names: the k categories, in the order of the columns of `probabilities`.
        arxiv_ids: (n,) base ids.
        labels: (n,) int64, true category as a column number.
        probabilities: (n, k) float64, rows add up to 1.
        published: (n,) datetime64[D], NaT where it is not known.
        words: (n,) int64, words of the text (title and abstract).
    """

    label_names: list[str]
    arxiv_ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    published: np.ndarray
    words: np.ndarray

    @property
    def years(self) -> np.ndarray:
        """(n,) int64 year of publication; 0 where it is not known."""
        years = self.published.astype("datetime64[Y]").astype(np.int64) + 1970
        return np.where(np.isnat(self.published), 0, years)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """(n,) column number of the highest score."""
        return self.probabilities.argmax(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """(n,) whether the highest score is the true category's."""
        return self.predicted == self.labels


def word_counts(texts: list[str]) -> np.ndarray:
    """(n,) number of words, divided at white space."""
    return np.fromiter((len(text.split()) for text in texts), dtype=np.int64, count=len(texts))


def score_papers(
    predictor: Any, papers: Any, label_names: list[str], *, progress: bool = False
) -> ScoredPapers:
    """Scores one split.

    Args:
        predictor: any `Predictor` whose labels are those of the split, in any order.
        papers: a `datasets.Dataset` of the corpus (text, label, arxiv_id, published).
        label_names: the corpus's category codes, in the order of its `label` feature.
        progress: show a bar.

    Raises:
        UserError: when model and corpus have different labels, or the split has no papers.
    """
    if set(predictor.labels) != set(label_names):
        only_model = sorted(set(predictor.labels) - set(label_names))
        only_corpus = sorted(set(label_names) - set(predictor.labels))
        raise UserError(
            f"model and data differ in labels: only the model has {only_model}, only the data {only_corpus}",
            hint="evaluate with the data the model was trained on, or score a file with --csv",
        )
    if len(papers) == 0:
        raise UserError("the split has no papers", hint="use a larger file or a larger data.max_samples")
    column_of = [predictor.labels.index(name) for name in label_names]
    texts = list(papers["text"])
    return ScoredPapers(
        label_names=list(predictor.labels),
        arxiv_ids=np.asarray(papers["arxiv_id"], dtype=object),
        labels=np.asarray(column_of)[np.asarray(papers["label"])],
        probabilities=np.asarray(predictor.predict_proba(texts, progress=progress), dtype=np.float64),
        published=np.asarray(papers["published"], dtype="datetime64[D]"),
        words=word_counts(texts),
    )


def write_predictions(scored: ScoredPapers, path: Path) -> None:
    """Writes one row per paper: arxiv_id, label, predicted, score and a column per category.

    A reader never sees half a file: it is written beside and moved into place.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = np.asarray(scored.label_names, dtype=object)
    table = pa.table(
        {
            "arxiv_id": pa.array(scored.arxiv_ids, pa.string()),
            "label": pa.array(names[scored.labels], pa.string()),
            "predicted": pa.array(names[scored.predicted], pa.string()),
            "score": scored.probabilities.max(axis=1),
            **{name: scored.probabilities[:, column] for column, name in enumerate(scored.label_names)},
        }
    )
    with staged(path) as partial:
        pq.write_table(table, partial, compression="zstd")


@dataclass(frozen=True)
class Predictions:
    """What `eval/predictions.parquet` holds; arrays as in `ScoredPapers`."""

    label_names: list[str]
    arxiv_ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


def read_predictions(path: Path) -> Predictions:
    """Reads a file of `write_predictions`.

    Raises:
        UserError: when it is missing or has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing", hint="run `arxiv-cls evaluate` on the model first") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}", hint="run `arxiv-cls evaluate` again") from None
    fixed = ["arxiv_id", "label", "predicted", "score"]
    if table.column_names[:4] != fixed or table.num_rows == 0:
        raise UserError(f"{path} is no table of predictions: its columns are {table.column_names}")
    names = table.column_names[4:]
    number_of = {name: number for number, name in enumerate(names)}
    unknown = set(table["label"].to_pylist()) - set(names)
    if unknown or not all(pa.types.is_floating(table.schema.field(name).type) for name in names):
        raise UserError(
            f"{path} is no table of predictions: expected a column of scores for each label",
            hint="run `arxiv-cls evaluate` again",
        )
    return Predictions(
        label_names=names,
        arxiv_ids=np.asarray(table["arxiv_id"].to_pylist(), dtype=object),
        labels=np.asarray([number_of[name] for name in table["label"].to_pylist()]),
        probabilities=np.column_stack([table[name].to_numpy() for name in names]),
    )
