"""Tests of arxiv_cls/training/tfidf_fit.py: folds, calibration, odd label sets."""

from __future__ import annotations

import numpy as np
import pytest

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import TfidfModelConfig, TfidfTrainerConfig
from arxiv_cls.training.tfidf_fit import Split, _assign_folds, fit_tfidf


def papers(count: int, labels: list[int], seed: int = 0) -> Split:
    """Papers of which half the words tell the label."""
    generator = np.random.default_rng(seed)
    numbers = np.array(labels)[np.arange(count) % len(labels)]
    words = [f"common{i}" for i in range(6)]
    texts = [
        " ".join(
            generator.choice([*words, f"topic{n}", f"theme{n}", f"topic{generator.integers(3)}"], size=12)
        )
        for n in numbers
    ]
    return Split(texts, numbers)


def fit(train: Split, validation: Split, labels: list[str], seed: int = 1, **model):
    """Fits with at most 10 boosting rounds; returns the result and the rounds reported."""
    rounds: list[dict[str, float]] = []
    config = TfidfModelConfig(**{"folds": 3, "components": 3, "components_min_df": 2} | model)
    trainer = TfidfTrainerConfig(num_train_epochs=10, seed=seed)
    return fit_tfidf(train, validation, labels, config, trainer, 1, rounds.append), rounds


class TestFolds:
    """Which training papers a linear model does not see."""

    def test_labels_are_spread_evenly(self):
        """No label has two papers more in one fold than in another; sizes differ by one at most."""
        labels = np.repeat([0, 1, 2], [50, 7, 3])
        folds = _assign_folds(labels, 5, seed=0)
        for label in range(3):
            counts = np.bincount(folds[labels == label], minlength=5)
            assert counts.max() - counts.min() <= 1
        sizes = np.bincount(folds, minlength=5)
        assert sizes.max() - sizes.min() <= 1

    def test_the_seed_decides(self):
        """The same seed gives the same folds, another one others."""
        labels = np.arange(60) % 3
        assert np.array_equal(_assign_folds(labels, 5, 1), _assign_folds(labels, 5, 1))
        assert not np.array_equal(_assign_folds(labels, 5, 1), _assign_folds(labels, 5, 2))


class TestFit:
    """The whole fit."""

    @pytest.mark.parametrize("classifier", ["xgboost", "linear"])
    def test_learns_and_is_deterministic(self, classifier):
        """Far better than chance; twice the same seed gives the same probabilities."""
        train, validation = papers(150, [0, 1, 2]), papers(60, [0, 1, 2], seed=9)
        fitted, rounds = fit(train, validation, ["a", "b", "c"], classifier=classifier)
        again, _ = fit(train, validation, ["a", "b", "c"], classifier=classifier)
        assert (fitted.validation_probabilities.argmax(1) == validation.labels).mean() > 0.7
        assert np.array_equal(fitted.validation_probabilities, again.validation_probabilities)
        assert bool(rounds) == (classifier == "xgboost")
        assert fitted.rounds <= len(rounds)

    def test_reported_losses_are_those_of_the_model(self):
        """The lowest validation loss reported is the log-loss of the kept trees before the temperature."""
        train, validation = papers(150, [0, 1, 2]), papers(60, [0, 1, 2], seed=9)
        fitted, rounds = fit(train, validation, ["a", "b", "c"])
        logits = fitted.model.logits(fitted.model.terms.transform(validation.texts))
        logits -= logits.max(1, keepdims=True)
        log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        loss = -log_probabilities[np.arange(60), validation.labels].mean()
        assert loss == pytest.approx(min(entry["eval_loss"] for entry in rounds), abs=1e-5)

    @pytest.mark.parametrize("classifier", ["xgboost", "linear"])
    def test_two_labels(self, classifier):
        """Two labels, where scikit-learn keeps one row of weights, come out the right way round."""
        train, validation = papers(100, [0, 1]), papers(40, [0, 1], seed=9)
        fitted, _ = fit(train, validation, ["a", "b"], classifier=classifier)
        assert (fitted.validation_probabilities.argmax(1) == validation.labels).mean() > 0.7

    @pytest.mark.parametrize("classifier", ["xgboost", "linear"])
    def test_labels_without_training_papers(self, classifier):
        """A label of the set that has no training paper gets a small probability, the others stay right."""
        train, validation = papers(100, [0, 2]), papers(40, [0, 2], seed=9)
        fitted, _ = fit(train, validation, ["a", "b", "c"], classifier=classifier)
        assert (fitted.validation_probabilities.argmax(1) == validation.labels).mean() > 0.7
        assert 0 < fitted.validation_probabilities[:, 1].max() < 0.2

    def test_a_label_rarer_than_the_folds(self):
        """One single paper of a label does not stop the fit."""
        train = papers(100, [0, 1])
        train = Split([*train.texts, "topic2 theme2 topic2"], np.append(train.labels, 2))
        fitted, _ = fit(train, papers(40, [0, 1], seed=9), ["a", "b", "c"])
        assert np.isfinite(fitted.validation_probabilities).all()

    def test_nothing_to_learn_from(self):
        """One label, or no term twice, is an error for a person."""
        with pytest.raises(UserError, match="one label"):
            fit(papers(20, [1]), papers(8, [1]), ["a", "b"])
        with pytest.raises(UserError, match="no term occurs in 2"):
            fit(Split(["one", "two", "three"], np.array([0, 1, 0])), papers(8, [0, 1]), ["a", "b"])

    def test_calibration_record(self):
        """The record holds the temperature that the model carries."""
        fitted, _ = fit(papers(150, [0, 1, 2]), papers(60, [0, 1, 2], seed=9), ["a", "b", "c"])
        assert fitted.calibration["temperature"] == fitted.model.temperature > 0
        assert 0 <= fitted.calibration["expected_calibration_error_after"] <= 1
