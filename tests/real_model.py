"""The real model that parity is proven on, its exports, and what `pipeline()` says of real test papers.

It is `outputs/minilm` where that was trained, else the model that lies beside the checkout. The papers that
the export is measured on and those that the tests ask about are different ones, all of the test split.
"""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TRAINED = (ROOT / "outputs" / "minilm", ROOT.parent / "shared" / "models" / "minilm-top5")
PAPERS = 500
# Enough to tell 99% from 98%: the choice has to hold on the papers that are asked about.
EXPORT_PAPERS, SEARCH_PAPERS = 2000, 100
FP32_TOLERANCE = 1e-4
INT8_EQUAL_LABELS = 0.99
# What belongs to one training on one machine; the export writes its own beside the weights.
LEFT_BEHIND = ("onnx", "recipe.yaml", "run.json", "handler.py", "requirements.txt", "eval")


@dataclass(frozen=True)
class RealModel:
    """A trained transformer with its exports, and n test papers that its export was not measured on.

    Attributes:
        directory: the model directory, with `onnx/`.
        papers: n pairs of title and abstract.
        categories: true label of each paper.
        expected: {label: score} that `pipeline()` gives each paper, highest score first.
        unseen: texts of all test papers that the export was not measured on, those n first.
    """

    directory: Path
    papers: list[tuple[str, str]]
    categories: list[str]
    expected: list[dict[str, float]]
    unseen: list[str]

    @property
    def texts(self) -> list[str]:
        """Title, blank line, abstract."""
        return [f"{title}\n\n{abstract}" for title, abstract in self.papers]

    @property
    def labels(self) -> list[str]:
        """The label with the highest score of `pipeline()` for each paper."""
        return [next(iter(scores)) for scores in self.expected]


def trained_model() -> Path | None:
    """The first real model that is whole; None when there is none."""
    return next((path for path in TRAINED if (path / "model.safetensors").is_file()), None)


def export_real_model(source: Path, real_csv: Path, folder: Path) -> RealModel:
    """Copies a model, exports the copy, and asks `pipeline()` about `PAPERS` papers.

    Args:
        source: a directory of `trained_model`.
        real_csv: the real data.
        folder: an empty directory.
    """
    from transformers import pipeline

    from arxiv_cls.corpus import build_corpus
    from arxiv_cls.export.onnx_export import export_model

    directory = folder / source.name
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    corpus = build_corpus("top5", csv=str(real_csv))
    rows = corpus.splits["test"].to_list()
    asked, measured = rows[:PAPERS], rows[PAPERS : PAPERS + EXPORT_PAPERS]
    unseen = [row["text"] for row in asked + rows[PAPERS + EXPORT_PAPERS :]]
    _write_csv(folder / "measured.csv", measured, corpus.labels)
    export_model(directory, csv=folder / "measured.csv", search_papers=SEARCH_PAPERS)
    classify = pipeline(
        "text-classification", model=str(directory), truncation=True, top_k=None, device="cpu"
    )
    # Papers of like length pad each other little.
    by_length = sorted(range(PAPERS), key=lambda at: len(asked[at]["text"]))
    said = classify([asked[at]["text"] for at in by_length], batch_size=16)
    answers = dict(zip(by_length, said, strict=True))
    return RealModel(
        directory,
        [(row["title"], row["abstract"]) for row in asked],
        [corpus.labels[row["label"]] for row in asked],
        [{one["label"]: one["score"] for one in answers[at]} for at in range(PAPERS)],
        unseen,
    )


def _write_csv(path: Path, rows: list[dict[str, Any]], labels: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", "summary", "category_code"])
        writer.writerows(
            [row["arxiv_id"], row["title"], row["abstract"], labels[row["label"]]] for row in rows
        )
