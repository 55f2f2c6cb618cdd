"""The metrics against scikit-learn, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from factories import scored_papers
from scipy.special import softmax
from sklearn import metrics as sk

from arxiv_cls.scoring.evaluation import evaluation_of, evaluation_table
from arxiv_cls.scoring.metrics import METRICS, Metric, arxiv_metric, compute_metrics, true_label_ranks

NAMES = ["a", "b", "c", "d", "e"]


def random_scores(seed: int, papers: int = 400, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of a model that is right more often than not."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(papers, classes))
    labels = generator.integers(0, classes, papers)
    logits[np.arange(papers), labels] += 1.0
    return labels, softmax(logits, axis=1)


class TestAgainstScikitLearn:
    """Every metric that scikit-learn has agrees with it to 1e-12."""

    @pytest.mark.parametrize("seed", range(2))
    def test_scalars(self, seed):
        labels, probabilities = random_scores(seed)
        found = compute_metrics(labels, probabilities, NAMES)
        predicted = probabilities.argmax(axis=1)
        everything = list(range(5))
        expected = {
            "accuracy": sk.accuracy_score(labels, predicted),
            "macro_f1": sk.f1_score(labels, predicted, average="macro"),
            "micro_f1": sk.f1_score(labels, predicted, average="micro"),
            "weighted_f1": sk.f1_score(labels, predicted, average="weighted"),
            "top_2_accuracy": sk.top_k_accuracy_score(labels, probabilities, k=2, labels=everything),
            "top_3_accuracy": sk.top_k_accuracy_score(labels, probabilities, k=3, labels=everything),
            "log_loss": sk.log_loss(labels, probabilities, labels=everything),
            "brier_score": sk.brier_score_loss(labels, probabilities, labels=everything),
        }
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-12), name

    @pytest.mark.parametrize("seed", range(2))
    def test_per_class(self, seed):
        labels, probabilities = random_scores(seed)
        found = compute_metrics(labels, probabilities, NAMES)["per_class"]
        columns = sk.precision_recall_fscore_support(labels, probabilities.argmax(axis=1))
        for index, name in enumerate(NAMES):
            ours = [found[name][key] for key in ("precision", "recall", "f1", "support")]
            assert ours == pytest.approx([column[index] for column in columns], abs=1e-12)

    def test_classes_that_do_not_occur(self):
        """A class in neither labels nor predictions is left out of macro-F1; one never predicted counts 0."""
        labels = np.array([0, 0, 1, 2])
        probabilities = np.eye(5)[[0, 0, 0, 0]]
        found = compute_metrics(labels, probabilities, NAMES)
        predicted = probabilities.argmax(axis=1)
        macro = sk.f1_score(labels, predicted, average="macro", zero_division=0)
        assert found["macro_f1"] == pytest.approx(macro, abs=1e-12)
        assert found["per_class"]["b"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}

    def test_sure_and_wrong_has_a_finite_log_loss(self):
        labels = np.array([0, 1])
        probabilities = np.eye(2)[[1, 1]]
        expected = sk.log_loss(labels, probabilities)
        assert compute_metrics(labels, probabilities, ["a", "b"])["log_loss"] == pytest.approx(expected)


def test_top_k_of_a_model_that_knows_nothing():
    """Equal probabilities are decided as argmax decides them."""
    found = compute_metrics(np.array([0, 1, 2, 3]), np.full((4, 4), 0.25), list("abcd"))
    assert (found["accuracy"], found["top_2_accuracy"], found["top_3_accuracy"]) == (0.25, 0.5, 0.75)


class TestRefusals:
    """Arrays that are no labels and probabilities raise, each with its reason."""

    @pytest.mark.parametrize(
        ("labels", "probabilities", "names", "reason"),
        [
            ([0], [[2.0, -1.0]], ["a", "b"], "negative"),
            ([0], [[3.0, 1.0]], ["a", "b"], "logits"),
            ([0], [[float("nan"), 1.0]], ["a", "b"], "finite"),
            ([2], [[0.5, 0.5]], ["a", "b"], "outside"),
            ([0], [[0.5, 0.5]], ["a"], "label names"),
            ([], np.zeros((0, 2)), ["a", "b"], "n > 0"),
            ([0, 1], [[0.5, 0.5]], ["a", "b"], "not"),
        ],
    )
    def test_bad_arrays(self, labels, probabilities, names, reason):
        with pytest.raises(ValueError, match=reason):
            compute_metrics(np.array(labels, dtype=int), np.array(probabilities), names)


def test_metric_of_evaluate():
    """The `evaluate.Metric` returns the same figures, with no network."""
    labels, probabilities = random_scores(1, papers=50)
    found = arxiv_metric(NAMES).compute(predictions=probabilities, references=labels)
    assert found == compute_metrics(labels, probabilities, NAMES)


def test_new_metric_is_one_line(monkeypatch):
    """A line in the table gives the figure, its interval and its line in the report."""
    mean_rank = Metric("Mean rank", "mean rank of the right label", False, of_papers=true_label_ranks)
    monkeypatch.setitem(METRICS, "mean_rank", mean_rank)
    scored = scored_papers(0.8)
    found = evaluation_of(scored, resamples=20)
    expected = true_label_ranks(scored.labels, scored.probabilities).mean()
    assert found["metrics"]["mean_rank"] == pytest.approx(expected)
    low, high = found["intervals"]["mean_rank"]
    assert low <= expected <= high
    assert f"mean_rank {expected:.4f}" in " ".join(evaluation_table(found | {"split": "test"}).split())
