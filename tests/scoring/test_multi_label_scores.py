"""Multi-label figures: against scikit-learn, with papers drawn twice, and what is fitted on validation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics as sk

from arxiv_cls.errors import UserError
from arxiv_cls.scoring.comparison import compare_predictions, comparison_table
from arxiv_cls.scoring.intervals import intervals_of
from arxiv_cls.scoring.multi_label import (
    METRICS,
    MultiLabelResampler,
    calibrate,
    compute_metrics,
    fit_thresholds,
    ranking_precisions,
)
from arxiv_cls.scoring.scored_papers import ScoredPapers, read_predictions, write_predictions

NAMES = ["a", "b", "c"]


def listed_and_scores(papers: int = 300, seed: int = 0, digits: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Labels, one at least, and scores that know something of them; few digits make many ties."""
    generator = np.random.default_rng(seed)
    listed = generator.random((papers, 3)) < [0.5, 0.3, 0.1]
    listed[np.arange(papers), generator.integers(0, 3, papers)] = True
    return listed, expit(3 * listed - 1.5 + generator.normal(size=listed.shape)).round(digits)


def by_scikit_learn(listed: np.ndarray, scores: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    """The same figures from scikit-learn."""
    given = scores >= thresholds
    per_label = zip(listed.T, scores.T, strict=True)
    precisions = {
        f"average_precision/{name}": sk.average_precision_score(*pair)
        for name, pair in zip(NAMES, per_label, strict=True)
    }
    return precisions | {
        "macro_f1": sk.f1_score(listed, given, average="macro"),
        "micro_f1": sk.f1_score(listed, given, average="micro"),
        "lrap": sk.label_ranking_average_precision_score(listed, scores),
        "subset_accuracy": sk.accuracy_score(listed, given),
        "macro_average_precision": np.mean(list(precisions.values())),
        "log_loss": np.mean([sk.log_loss(*pair) for pair in zip(listed.T, scores.T, strict=True)]),
    }


class TestMetrics:
    """Figures of a split."""

    def test_as_scikit_learn(self):
        """Also where scores are equal."""
        listed, scores = listed_and_scores()
        thresholds = np.array([0.5, 0.6, 0.3])
        expected = by_scikit_learn(listed, scores, thresholds)
        found = compute_metrics(listed, scores, thresholds, NAMES)
        assert {name: found[name] for name in METRICS} == pytest.approx({k: expected[k] for k in METRICS})
        for name in NAMES:
            assert found["per_class"][name]["average_precision"] == pytest.approx(
                expected[f"average_precision/{name}"]
            )

    def test_a_drawn_paper_counts_as_often_as_it_was_drawn(self):
        """A resample by weights is the file with its papers repeated."""
        listed, scores = listed_and_scores(60)
        thresholds = np.array([0.5, 0.6, 0.3])
        weights = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60))
        found = MultiLabelResampler(listed, scores, thresholds, NAMES)._metrics(weights[None])
        rows = np.repeat(np.arange(60), weights)
        expected = by_scikit_learn(listed[rows], scores[rows], thresholds)
        assert {name: found[name][0] for name in expected} == pytest.approx(expected)

    def test_a_label_that_no_paper_has(self):
        """Without an average precision, and left out of the means."""
        listed, scores = listed_and_scores()
        listed, scores = listed[listed[:, :2].any(axis=1)], scores[listed[:, :2].any(axis=1)]
        listed[:, 2], scores[:, 2] = False, 0.1
        found = compute_metrics(listed, scores, np.full(3, 0.5), NAMES)
        two = compute_metrics(listed[:, :2], scores[:, :2], np.full(2, 0.5), NAMES[:2])
        assert found["per_class"]["c"]["average_precision"] is None
        assert [found[name] for name in ("macro_f1", "macro_average_precision")] == pytest.approx(
            [two[name] for name in ("macro_f1", "macro_average_precision")]
        )
        intervals = intervals_of(MultiLabelResampler(listed, scores, np.full(3, 0.5), NAMES), resamples=50)
        assert "average_precision/c" not in intervals
        assert np.isfinite(list(intervals.values())).all()

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda listed, scores: (listed, scores[:, :2]), "shapes"),
            (lambda listed, scores: (listed, scores * 5), "outside 0 to 1"),
            (lambda listed, scores: (listed & False, scores), "none of the labels"),
        ],
    )
    def test_refused(self, change, problem):
        """What is no table of scores."""
        with pytest.raises(ValueError, match=problem):
            compute_metrics(*change(*listed_and_scores()), np.full(3, 0.5), NAMES)


def scored(names: list[str], listed: np.ndarray, scores: np.ndarray) -> ScoredPapers:
    """Papers `0`, `1`, ... with thresholds that fall from label to label."""
    return ScoredPapers(
        label_names=names,
        arxiv_ids=np.array([str(number) for number in range(len(listed))], dtype=object),
        labels=listed.argmax(axis=1),
        probabilities=scores,
        published=np.full(len(listed), np.datetime64("2015-03-01")),
        words=np.full(len(listed), 120),
        listed=listed,
        thresholds=np.array([0.6, 0.5, 0.3])[: len(names)],
    )


class TestFiles:
    """What is written of the scores and read again."""

    def test_predictions(self, tmp_path):
        """With all labels of a paper and the thresholds."""
        one = scored(NAMES, *listed_and_scores(50))
        write_predictions(one, tmp_path / "predictions.parquet")
        again = read_predictions(tmp_path / "predictions.parquet")
        assert again.label_names == NAMES
        for name in ("probabilities", "listed", "thresholds", "labels"):
            assert (getattr(again, name) == getattr(one, name)).all()

    def test_comparison(self):
        """Paired, whatever the order of the labels; a model that gives one label is another task."""
        listed, scores = listed_and_scores(100)
        better = np.where(listed, 0.9, 0.1)
        a = scored(NAMES, listed, scores)
        turned = scored(NAMES[::-1], listed[:, ::-1], better[:, ::-1])
        found = compare_predictions(a, turned)
        assert (found["papers"], found["relabelled"]) == (100, 0)
        assert found["metrics"]["macro_f1"]["b"] == found["metrics"]["subset_accuracy"]["b"] == 1
        line = found["metrics"]["lrap"]
        assert line["difference"] == pytest.approx(1 - ranking_precisions(listed, scores).mean())
        assert 0 < line["low"] < line["difference"] < line["high"]
        assert "McNemar" not in comparison_table({"a": "one", "b": "other", **found})
        single = replace(a, thresholds=None)
        with pytest.raises(UserError, match="multi-label, the other gives one label"):
            compare_predictions(a, single)


class TestFitting:
    """Calibration and thresholds."""

    def test_calibration_recovers_what_was_distorted(self):
        """Scale and shift of each label, up to what 20,000 papers tell."""
        generator = np.random.default_rng(0)
        logits = generator.normal(size=(20_000, 3)) * 2 - 1
        listed = generator.random(logits.shape) < expit(logits)
        distorted = (logits - [0.5, 0, -1]) / [2, 1, 0.5]
        record, fitted, scores = calibrate(distorted, listed)
        np.testing.assert_allclose(fitted.scale, [2, 1, 0.5], rtol=0.05)
        np.testing.assert_allclose(fitted.shift, [0.5, 0, -1], atol=0.1)
        np.testing.assert_allclose(scores, expit(distorted * fitted.scale + fitted.shift))
        assert record["expected_calibration_error_after"] < record["expected_calibration_error_before"]
        assert calibrate(distorted, listed, shifted=False)[1].shift.tolist() == [0, 0, 0]

    def test_labels_that_tell_nothing_stay(self):
        """No paper has it, all have it, or the logit is the wrong way round; one told apart stays finite."""
        logits = np.random.default_rng(0).normal(size=(200, 4))
        listed = np.stack([logits[:, 0] > 9, logits[:, 1] > -9, logits[:, 2] < 0, logits[:, 3] > 0], axis=1)
        fitted = calibrate(logits, listed)[1]
        assert fitted.scale[:3].tolist() == [1, 1, 1]
        assert fitted.shift[:3].tolist() == [0, 0, 0]
        assert 1 < fitted.scale[3] < np.inf

    @pytest.mark.parametrize("digits", [1, 8])
    def test_no_other_threshold_has_a_higher_f1(self, digits):
        """Whatever the ties; a label without a paper has 0.5."""
        listed, scores = listed_and_scores(200, digits=digits)
        listed = np.column_stack([listed, np.zeros(200, dtype=bool)])
        scores = np.column_stack([scores, scores[:, 0]])
        found = fit_thresholds(listed, scores)
        assert found[3] == 0.5
        for column in range(3):
            own = [scores[:, column] >= least for least in (found[column], *np.unique(scores[:, column]))]
            reached = [sk.f1_score(listed[:, column], given) for given in own]
            assert reached[0] == max(reached)
            assert found[column] not in scores[:, column]
