"""Small baselines for tests: a made-up corpus of two topics and a half, fitted in under a second."""

from __future__ import annotations

import numpy as np

from arxiv_cls.models.tfidf import TfidfModel
from arxiv_cls.recipe import TfidfModelConfig, TfidfTrainerConfig
from arxiv_cls.training.tfidf_fit import Fitted, Split, fit_tfidf

LABELS = ["cs.AI", "cs.CL", "cs.CV"]
_WORDS = {
    0: ["planning", "agent", "logic", "search"],
    1: ["language", "parsing", "word", "translation"],
    2: ["image", "pixel", "segmentation", "camera"],
}
_COMMON = ["method", "results", "paper", "model", "data", "novel"]


def make_split(count: int, seed: int, label_count: int = 3) -> Split:
    """`count` papers, some of them with words of another label's."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % label_count
    texts = []
    for label in labels:
        own = _WORDS[int(label)] + _WORDS[int(generator.integers(label_count))]
        words = list(generator.choice(own + 3 * _COMMON, size=24))
        texts.append(" ".join(words[:4]) + "\n\n" + " ".join(words[4:]))
    return Split(texts, labels)


def fit_small(
    classifier: str = "xgboost", seed: int = 3, labels: list[str] = LABELS, **model: object
) -> Fitted:
    """A model of 120 papers and at most 12 boosting rounds."""
    config = TfidfModelConfig(classifier=classifier, folds=3, components=4, components_min_df=3, **model)
    return fit_tfidf(
        make_split(120, 0),
        make_split(60, 1),
        labels,
        config,
        TfidfTrainerConfig(num_train_epochs=12, seed=seed),
        threads=1,
        on_round=lambda losses: None,
    )


def small_model(classifier: str = "xgboost") -> TfidfModel:
    """The model of `fit_small`."""
    return fit_small(classifier).model
