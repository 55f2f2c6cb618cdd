"""Targets softened by a TF-IDF model: what a cheap model knows of the words, and where labels are in doubt.

Knowledge distillation (Hinton et al. 2015) from a teacher of another kind. On papers that it was fitted
on, a linear model is nearly always right and so would teach nothing but the label; each paper's target
comes from models fitted without the paper's fold.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from datasets import Dataset
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from arxiv_cls.models.hardware import available_cores
from arxiv_cls.models.tfidf import TermFeatures
from arxiv_cls.recipe import TfidfModelConfig
from arxiv_cls.training.tfidf_fit import combine_scores, out_of_fold_scores

logger = logging.getLogger(__name__)


def add_teacher(papers: Dataset, texts: Sequence[str], weight: float, seed: int) -> Dataset:
    """Adds the column `target` to the training papers: the label and the teacher's word, mixed.

    Args:
        papers: with `label` (a `ClassLabel`), in the order of `texts`.
        texts: title and abstract of each paper.
        weight: share of the teacher, 0 to 1; 0 returns the papers as they are.
        seed: of the folds and the teacher.

    Returns:
        The papers with `target`, (classes,) float32 that sum to 1.
    """
    if not weight:
        return papers
    labels = np.asarray(papers["label"][:])
    classes = papers.features["label"].num_classes
    logger.info("teacher: fits a TF-IDF model on the training papers, fold by fold")
    taught = out_of_fold_probabilities(texts, labels, classes, seed)
    logger.info(
        "teacher: %.4f of the labels right on papers it had not seen", (taught.argmax(1) == labels).mean()
    )
    targets = weight * taught + (1 - weight) * np.eye(classes)[labels]
    return papers.add_column("target", list(targets.astype(np.float32)))


def out_of_fold_probabilities(
    texts: Sequence[str], labels: np.ndarray, classes: int, seed: int
) -> np.ndarray:
    """Calibrated probabilities of a TF-IDF model for its own training papers, each without its own fold.

    Args:
        texts: n texts.
        labels: (n,) label numbers.
        classes: k.
        seed: of the folds and the models.

    Returns:
        (n, k) float64, rows sum to 1.
    """
    config = TfidfModelConfig()
    _, rows = TermFeatures.fit(
        texts, ngram_max=config.ngram_max, min_df=config.min_df, title_weight=config.title_weight
    )
    with threadpool_limits(1), ThreadPoolExecutor(available_cores()) as pool:
        scores = out_of_fold_scores(rows, labels, classes, config, seed, pool)
    coefficients, intercepts = combine_scores(scores, labels, classes)
    return softmax((scores @ coefficients + intercepts).astype(np.float64), axis=1)
