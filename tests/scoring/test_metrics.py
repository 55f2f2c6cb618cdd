"""The metrics against scikit-learn, their bootstrap against one resample at a time, and what they refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from factories import scored_papers
from scipy import stats
from scipy.special import softmax
from sklearn import metrics as sk

from arxiv_cls.scoring import intervals
from arxiv_cls.scoring.evaluation import evaluation_of, evaluation_table
from arxiv_cls.scoring.intervals import (
    Resampler,
    bootstrap_intervals,
    mcnemar,
    paired_bootstrap,
    resample_weights,
)
from arxiv_cls.scoring.metrics import METRICS, Metric, arxiv_metric, compute_metrics, true_label_ranks

NAMES = ["a", "b", "c", "d", "e"]


def scores(seed: int, papers: int = 150, skill: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels (the same for all seeds) and probabilities of a model that is right more often than not."""
    labels = np.random.default_rng(0).integers(0, 5, papers)
    logits = np.random.default_rng(seed).normal(size=(papers, 5))
    logits[np.arange(papers), labels] += skill
    return labels, softmax(logits, axis=1)


@pytest.mark.parametrize("seed", range(2))
def test_scikit_learn(seed):
    """Every metric that scikit-learn has agrees with it to 1e-12."""
    labels, probabilities = scores(seed, papers=400)
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
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    columns = sk.precision_recall_fscore_support(labels, predicted)
    ours = [list(of.values()) for of in found["per_class"].values()]
    assert np.allclose(ours, np.transpose(columns), rtol=0, atol=1e-12)
    # As a metric of the library `evaluate`, with no network.
    assert arxiv_metric(NAMES).compute(predictions=probabilities, references=labels) == found


def test_edges():
    """Classes that do not occur or are never predicted, equal probabilities, certainty that is wrong."""
    labels, probabilities = np.array([0, 0, 1, 2]), np.eye(5)[[0, 0, 0, 0]]
    found = compute_metrics(labels, probabilities, NAMES)
    macro = sk.f1_score(labels, [0, 0, 0, 0], average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(macro, abs=1e-12)
    assert found["per_class"]["b"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert found["log_loss"] == pytest.approx(sk.log_loss(labels, probabilities[:, :3]))
    found = compute_metrics(np.array([0, 1, 2, 3]), np.full((4, 4), 0.25), list("abcd"))
    assert [found[name] for name in ("accuracy", "top_2_accuracy", "top_3_accuracy")] == [0.25, 0.5, 0.75]


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
def test_refused(labels, probabilities, names, reason):
    """Arrays that are no labels and probabilities, each with its reason."""
    with pytest.raises(ValueError, match=reason):
        compute_metrics(np.array(labels, dtype=int), np.array(probabilities), names)


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


@pytest.mark.parametrize("decimals", [12, 1])
def test_every_metric_of_every_resample(decimals):
    """Each resample, expanded to its rows, gives the same metrics; with one decimal many scores tie."""
    labels, probabilities = scores(1)
    probabilities = np.random.default_rng(0).multinomial(10**decimals, probabilities) / 10**decimals
    fast = Resampler(labels, probabilities, NAMES).drawn(seed=3, resamples=25)
    weights = np.concatenate(list(resample_weights(len(labels), 25, seed=3)))
    for number, row in enumerate(weights):
        rows = np.repeat(np.arange(len(labels)), row)
        slow = compute_metrics(labels[rows], probabilities[rows], NAMES)
        slow |= {f"f1/{name}": slow["per_class"][name]["f1"] for name in NAMES}
        found = {name: values[number] for name, values in fast.items()}
        assert found == pytest.approx({name: slow[name] for name in found}, abs=1e-12)


def test_weights(monkeypatch):
    """Multinomial draws of n over n papers: mean 1, variance 1 - 1/n; blocks do not change them."""
    weights = np.concatenate(list(resample_weights(200, 2000)))
    assert weights.mean() == 1
    assert weights.var() == pytest.approx(1 - 1 / 200, rel=0.02)
    monkeypatch.setattr(intervals, "_CELLS_AT_A_TIME", 1300)
    assert (np.concatenate(list(resample_weights(200, 2000))) == weights).all()


def test_width_of_accuracy_is_the_binomial_one():
    """Percentile intervals against the normal approximation."""
    labels, probabilities = scores(1, papers=2000)
    low, high = bootstrap_intervals(labels, probabilities)["accuracy"]
    accuracy = compute_metrics(labels, probabilities, NAMES)["accuracy"]
    expected = 2 * stats.norm.ppf(0.975) * np.sqrt(accuracy * (1 - accuracy) / 2000)
    assert high - low == pytest.approx(expected, rel=0.12)


def test_paired_bootstrap():
    """Differences on the same papers: of two runs, none against itself, a better model is seen."""
    labels, a = scores(1, papers=600)
    _, b = scores(2, papers=600, skill=3.0)
    found = paired_bootstrap(labels, a, b, NAMES)
    one, two = (Resampler(labels, given).drawn()["macro_f1"] for given in (a, b))
    ends = found["macro_f1"].low, found["macro_f1"].high
    assert ends == pytest.approx(tuple(np.quantile(two - one, [0.025, 0.975])))
    assert ends[0] < found["macro_f1"].difference < ends[1]
    assert found["accuracy"].low > 0 > found["log_loss"].high
    assert found["accuracy"].p_value < 0.01
    same = paired_bootstrap(labels, a, a, NAMES)
    assert all(tuple(value) == (0, 0, 0, 1) for value in same.values())


def test_mcnemar():
    """Nine against one of ten: 2 * (1 + 10) / 1024; models that are never apart."""
    a = np.array([True] * 9 + [False] + [True] * 5)
    b = np.array([False] * 9 + [True] + [True] * 5)
    assert mcnemar(a, b) == (9, 1, pytest.approx(2 * 11 / 1024))
    assert mcnemar(a, a) == (0, 0, 1.0)


LISTED = [
    # scores of a, b, c; label; all listed labels
    ([0.7, 0.2, 0.1], 0, [1, 0, 0]),  # right, one label
    ([0.2, 0.7, 0.1], 0, [1, 1, 0]),  # wrong, but listed
    ([0.1, 0.2, 0.7], 0, [1, 1, 0]),  # wrong, the second is listed
    ([0.1, 0.3, 0.6], 0, [1, 0, 0]),  # wrong, the third is right
]


def test_all_categories_of_a_paper():
    """By hand: two of four listed, one of two right, ranks 1, 1, 2, 3, one of three errors listed."""
    scores, labels, listed = (np.array(column) for column in zip(*LISTED, strict=True))
    scored = dataclasses.replace(
        scored_papers(0.8), label_names=["a", "b", "c"], labels=labels, probabilities=scores,
        listed=listed.astype(bool), published=np.full(4, np.datetime64("2015-01-01")), words=np.full(4, 120),
        arxiv_ids=np.array([""] * 4),
    )  # fmt: skip
    found = evaluation_of(scored, resamples=20)
    assert found["listed"]["metrics"] == pytest.approx(
        {"listed_accuracy": 2 / 4, "single_listed_accuracy": 1 / 2,
         "listed_reciprocal_rank": (1 + 1 + 1 / 2 + 1 / 3) / 4, "errors_listed": 1 / 3}
    )  # fmt: skip
    assert list(found["listed"]["papers"].values()) == [4, 2, 4, 3]
    assert all(0 <= low <= high <= 1 for low, high in found["listed"]["intervals"].values())
    assert "errors_listed 0.3333" in " ".join(evaluation_table(found | {"split": "test"}).split())
    assert "listed" not in evaluation_of(dataclasses.replace(scored, listed=None), resamples=20)
