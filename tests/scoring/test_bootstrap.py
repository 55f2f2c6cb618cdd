"""Bootstrap against one resample at a time through scikit-learn and `compute_metrics`."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax

from arxiv_cls.scoring import intervals as bootstrap
from arxiv_cls.scoring.intervals import (
    Resampler,
    bootstrap_intervals,
    mcnemar,
    paired_bootstrap,
    resample_weights,
)
from arxiv_cls.scoring.metrics import SCALAR_METRICS, compute_metrics

NAMES = ["a", "b", "c", "d"]


def scores(seed: int, papers: int = 150, skill: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels (the same for all seeds) and probabilities."""
    labels = np.random.default_rng(0).integers(0, 4, papers)
    logits = np.random.default_rng(seed).normal(size=(papers, 4))
    logits[np.arange(papers), labels] += skill
    return labels, softmax(logits, axis=1)


class TestAgainstSlowReference:
    """Each resample, expanded to its rows, gives the same metrics the slow way."""

    @pytest.mark.parametrize("decimals", [12, 1])
    def test_every_metric_of_every_resample(self, decimals):
        """With one decimal many scores tie, as they do in small files."""
        labels, probabilities = scores(1)
        probabilities = np.round(probabilities, decimals)
        probabilities[:, 0] += 1 - probabilities.sum(axis=1)
        probabilities = np.abs(probabilities)
        fast = Resampler(labels, probabilities, NAMES).drawn(seed=3, resamples=25)
        weights = np.concatenate(list(resample_weights(len(labels), 25, seed=3)))
        for number, row in enumerate(weights):
            rows = np.repeat(np.arange(len(labels)), row)
            slow = compute_metrics(labels[rows], probabilities[rows], NAMES)
            for name in SCALAR_METRICS:
                assert fast[name][number] == pytest.approx(slow[name], abs=1e-12), name
            for name in NAMES:
                assert fast[f"f1/{name}"][number] == pytest.approx(slow["per_class"][name]["f1"], abs=1e-12)


class TestWeights:
    """Resamples are multinomial draws, the same for the same seed."""

    def test_blocks_do_not_change_them(self, monkeypatch):
        whole = np.concatenate(list(resample_weights(40, 30, seed=9)))
        monkeypatch.setattr(bootstrap, "_CELLS_AT_A_TIME", 130)
        assert (np.concatenate(list(resample_weights(40, 30, seed=9))) == whole).all()

    def test_mean_and_variance(self):
        """A multinomial weight of n draws over n papers has mean 1 and variance 1 - 1/n."""
        weights = np.concatenate(list(resample_weights(200, 2000)))
        assert weights.mean() == 1
        assert weights.var() == pytest.approx(1 - 1 / 200, rel=0.02)


class TestIntervals:
    """Percentile intervals around the measured value."""

    def test_width_of_accuracy_is_the_binomial_one(self):
        labels, probabilities = scores(1, papers=2000)
        low, high = bootstrap_intervals(labels, probabilities)["accuracy"]
        accuracy = compute_metrics(labels, probabilities, NAMES)["accuracy"]
        expected = 2 * stats.norm.ppf(0.975) * np.sqrt(accuracy * (1 - accuracy) / 2000)
        assert high - low == pytest.approx(expected, rel=0.12)


class TestPaired:
    """Differences on the same papers."""

    def test_a_model_against_itself(self):
        labels, probabilities = scores(1)
        found = paired_bootstrap(labels, probabilities, probabilities, NAMES)
        assert all(tuple(value)[:3] == (0, 0, 0) and value.p_value == 1 for value in found.values())

    def test_equals_the_difference_of_two_runs(self):
        labels, a = scores(1)
        _, b = scores(2, skill=2.5)
        found = paired_bootstrap(labels, a, b, seed=4)["macro_f1"]
        one, two = (Resampler(labels, given).drawn(seed=4)["macro_f1"] for given in (a, b))
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(two - one, [0.025, 0.975])))
        assert found.low < found.difference < found.high

    def test_a_better_model_is_seen(self):
        labels, a = scores(1, papers=600)
        _, b = scores(2, papers=600, skill=3.0)
        found = paired_bootstrap(labels, a, b)
        assert found["accuracy"].low > 0
        assert found["accuracy"].p_value < 0.01
        assert found["log_loss"].high < 0


class TestMcNemar:
    """The exact binomial test on the papers where two models disagree."""

    def test_by_hand(self):
        """Nine against one of ten: 2 * (1 + 10) / 1024."""
        a = np.array([True] * 9 + [False] + [True] * 5)
        b = np.array([False] * 9 + [True] + [True] * 5)
        assert mcnemar(a, b) == (9, 1, pytest.approx(2 * 11 / 1024))

    def test_never_apart(self):
        both = np.array([True, False])
        assert mcnemar(both, both) == (0, 0, 1.0)
