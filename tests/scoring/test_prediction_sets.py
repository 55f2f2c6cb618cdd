"""Prediction sets: the right threshold by hand, and coverage on papers that were not used for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax

from arxiv_cls.models.prediction import load_set_threshold, prediction_set, set_members
from arxiv_cls.scoring.calibration import coverage_threshold
from arxiv_cls.scoring.evaluation import COVERAGES, fit_prediction_sets
from arxiv_cls.scoring.scored_papers import Predictions


def drawn(seed: int, papers: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the softmax of logits that the scores overstate twice over."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(papers, 6)) * 1.5
    labels = (softmax(logits, axis=1).cumsum(axis=1) > generator.random((papers, 1))).argmax(axis=1)
    return labels, softmax(2 * logits, axis=1)


def predictions(seed: int, papers: int) -> Predictions:
    """The same as a model's predictions."""
    return Predictions(list("abcdef"), np.full(papers, "", dtype=object), *drawn(seed, papers))


class TestThreshold:
    """The floor((n + 1)(1 - coverage))-th smallest score of a true label."""

    def test_by_hand(self):
        """Nine papers at 90%: (9 + 1) * 0.1 = 1, the smallest; at 80% the second; at 95% every label."""
        true = np.array([0.9, 0.3, 0.5, 0.7, 0.8, 0.6, 0.4, 0.95, 0.85])
        probabilities = np.column_stack([true, 1 - true])
        labels = np.zeros(9, dtype=int)
        assert coverage_threshold(labels, probabilities, 0.9) == 0.3
        assert coverage_threshold(labels, probabilities, 0.8) == 0.4
        assert coverage_threshold(labels, probabilities, 0.95) == 0.0

    @pytest.mark.parametrize("coverage", COVERAGES)
    def test_mean_coverage_is_the_one_asked_for(self, coverage):
        """Over many splits the coverage is between the wanted one and 1 / (n + 1) above it."""
        covered = []
        for seed in range(150):
            labels, probabilities = drawn(seed, 400)
            threshold = coverage_threshold(labels[:200], probabilities[:200], coverage)
            scores = probabilities[np.arange(200, 400), labels[200:]]
            covered.append((scores >= threshold).mean())
        error = np.std(covered) / np.sqrt(len(covered))
        assert coverage - 3 * error < np.mean(covered) < coverage + 1 / 201 + 3 * error


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.99, ["a"]), (0.36, ["a"]), (0.3, ["a", "c"]), (0.0, ["a", "c", "b"])]
)
def test_sets(threshold, expected):
    """A set is never empty, and the two ways to ask for one agree."""
    assert prediction_set({"b": 0.25, "a": 0.4, "c": 0.35}, threshold) == expected
    (members,) = set_members(np.array([[0.4, 0.25, 0.35]]), threshold)
    assert sorted(expected) == [label for label, is_in in zip("abc", members, strict=True) if is_in]


class TestRecord:
    """What `eval/prediction_sets.json` says."""

    def test_figures_are_of_the_test_split(self):
        record = fit_prediction_sets(predictions(0, 2000), predictions(1, 3000))
        assert (record["calibration_papers"], record["test_papers"]) == (2000, 3000)
        sizes = []
        for coverage in COVERAGES:
            level = record["levels"][str(coverage)]
            assert level["coverage"] == pytest.approx(coverage, abs=0.03)
            sizes.append(level["mean_size"])
        assert sizes == sorted(sizes)
        assert 1 <= sizes[0] < sizes[-1] <= 6


class TestLoading:
    """The threshold of the 90% sets, or what is wrong with the file."""

    def test_threshold(self, tmp_path):
        """None where there is no file; otherwise that of the level asked for."""
        assert load_set_threshold(tmp_path) is None
        (tmp_path / "eval").mkdir()
        record = fit_prediction_sets(predictions(0, 200), predictions(1, 100))
        (tmp_path / "eval" / "prediction_sets.json").write_text(json.dumps(record))
        assert load_set_threshold(tmp_path) == record["levels"]["0.9"]["threshold"]
        assert load_set_threshold(tmp_path, "0.95") == record["levels"]["0.95"]["threshold"]
        assert load_set_threshold(tmp_path, "0.5") is None
