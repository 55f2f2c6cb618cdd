"""A predictor that is right four times in five, and a model directory around it on the synthetic sample."""

from __future__ import annotations

from types import SimpleNamespace

import datasets
import pytest
from factories import SAMPLE, FixedPredictor


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
