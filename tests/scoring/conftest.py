"""A predictor that is right four times in five, and a model directory around it on the synthetic sample."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "arxiv_sample.csv"
TOP5 = ["cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"]


class FixedPredictor:
    """Knows the true label of each text of the sample and errs on a fixed fifth of them."""

    kind = "tfidf"
    engine = "tfidf"

    def __init__(self, weights_path: Path, labels: list[str] = TOP5, salt: str = "") -> None:
        self.weights_path, self.labels, self.salt = weights_path, list(labels), salt
        self.directory = weights_path.parent
        self.largest_batch = 0
        with SAMPLE.open(newline="", encoding="utf-8") as file:
            self.truth = {
                f"{row['title'].strip()}\n\n{row['summary'].strip()}": row["category_code"]
                for row in csv.DictReader(file)
            }

    def predict_proba(self, texts, *, progress=False):
        """0.76 for one label, 0.06 for each other."""
        self.largest_batch = max(self.largest_batch, len(texts))
        columns = []
        for text in texts:
            draw = zlib.crc32((text + self.salt).encode())
            label = self.truth.get(text)
            column = self.labels.index(label) if label in self.labels else draw % len(self.labels)
            columns.append((column + (draw % 5 == 0)) % len(self.labels))
        rest = 0.3 / len(self.labels)
        return np.eye(len(self.labels))[columns] * 0.7 + rest

    def embed(self, texts, *, progress=False):
        """The probabilities with a little noise."""
        noise = np.random.default_rng(0).normal(scale=0.05, size=(len(texts), len(self.labels)))
        return (self.predict_proba(texts) + noise).astype(np.float32)


@pytest.fixture
def model(tmp_path, tmp_path_factory, monkeypatch):
    """A model directory with recipe and weights; `load_predictor` gives a `FixedPredictor` of it."""
    import arxiv_cls.models.predictor as predictors

    # One cache for all tests: it is keyed by the content of the sample.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")
    home = tmp_path / "model"
    home.mkdir()
    (home / "model.skops").write_bytes(b"weights")
    (home / "recipe.yaml").write_text(f"data:\n  config: top5\n  csv: {SAMPLE}\n  seed: 42\n")
    predictor = FixedPredictor(home / "model.skops")
    monkeypatch.setattr(predictors, "load_predictor", lambda model, engine=None: predictor)
    return SimpleNamespace(home=home, predictor=predictor, sample=SAMPLE)
