"""The tests of drift: their arithmetic beside scipy's, and what they say of synthetic shifts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from monitoring.conftest import LABELS, MIX, Traffic, lines_of
from scipy.stats import chi2_contingency, fisher_exact, ks_2samp

from arxiv_cls.monitoring.accuracy import AccuracyEstimate, fit_bcts
from arxiv_cls.monitoring.drift import (
    DriftTest,
    chi_square_p,
    fisher_p,
    ks_distance,
    ks_p,
    verdict_of,
    worst,
)
from arxiv_cls.monitoring.log_reader import LogReader
from arxiv_cls.monitoring.windows import severity_of, to_rows
from arxiv_cls.scoring.reference import FEATURES, Reference, load_references


@pytest.fixture
def reference(released) -> Reference:
    """That of the model."""
    return load_references(released)[False, "baseline"]


@pytest.fixture
def rows_of(write_log):
    """Traffic as the request log gives it."""
    return lambda traffic: to_rows(list(LogReader(str(write_log(lines_of(traffic))), LABELS)))


class TestArithmetic:
    """Each test against scipy's own."""

    @pytest.mark.parametrize("decimals", [6, 0])
    def test_kolmogorov_smirnov(self, decimals):
        """Distance and p-value are those of `ks_2samp`, with ties and without."""
        generator = np.random.default_rng(0)
        before = np.sort(generator.normal(0, 1, 900).round(decimals))
        now = np.sort(generator.normal(0.2, 1.2, 210).round(decimals))
        expected = ks_2samp(now, before, method="asymp")
        distance = ks_distance(before, now)
        assert distance == pytest.approx(expected.statistic)
        assert ks_p(distance, 210, 900) == pytest.approx(expected.pvalue)

    def test_constant_column(self):
        """No variation is no change: p = 1, where others have NaN."""
        distance = ks_distance(np.zeros(50), np.zeros(20))
        assert (distance, ks_p(distance, 20, 50)) == (0.0, 1.0)
        assert ks_distance(np.zeros(0), np.zeros(20)) == 0.0
        assert ks_p(0.0, 20, 0) == 1.0

    def test_chi_square(self):
        """Two samples, both random; classes that are rare in the window are one."""
        now, before = np.array([120, 90, 60, 30, 0]), np.array([900, 900, 900, 300, 0])
        expected = chi2_contingency([now[:4], before[:4]], correction=False).pvalue
        assert chi_square_p(now, before) == pytest.approx(expected)
        rare = np.array([140, 150, 4, 3, 3]), np.array([1500, 1400, 10, 12, 30])
        pooled = chi2_contingency([[140, 150, 10], [1500, 1400, 52]], correction=False).pvalue
        assert chi_square_p(*rare) == pytest.approx(pooled)
        assert chi_square_p(np.array([10, 0]), np.array([100, 0])) == 1.0

    def test_fisher(self):
        """One-sided: fewer than before is no alarm."""
        expected = fisher_exact([[20, 280], [40, 1460]], alternative="greater").pvalue
        assert fisher_p(20, 300, 40, 1500) == pytest.approx(expected)
        assert fisher_p(0, 300, 40, 1500) == 1.0

    @pytest.mark.parametrize(
        ("p", "before", "verdict"),
        [
            (0.0009, None, "alarm"),
            (0.01, None, "watch"),
            (0.01, 0.015, "alarm"),
            (0.01, 0.03, "watch"),
            (0.03, 0.01, "watch"),
            (0.06, 0.0001, "ok"),
        ],
    )
    def test_verdict(self, p, before, verdict):
        """Below 0.001, or below 0.02 twice running; one below 0.05 is for watching."""
        assert verdict_of(p, before) == verdict

    def test_worst_and_severity(self):
        """Of several verdicts; of none there is too little. By the drop of accuracy."""
        assert (worst(["ok", "alarm", "watch"]), worst(["too_few", "ok"])) == ("alarm", "ok")
        assert worst([]) == "too_few"
        assert [severity_of(drop) for drop in (0.1, 0.11, 0.21)] == ["low", "moderate", "high"]


class TestGroups:
    """Which group sees which shift."""

    def test_quiet(self, reference, rows_of):
        """Papers like those of the reference; without in_scope there is a group less."""
        rows = rows_of(Traffic(300, 5))
        found = DriftTest(reference)(rows)
        assert found.p > 0.05
        assert set(found.groups) == {"scores", "labels", "text", "unusual", "scope"}
        unknown = replace(reference, rows=replace(reference.rows, in_scope=np.full(2000, np.nan)))
        without = DriftTest(unknown)(rows)
        assert set(without.groups) == found.groups.keys() - {"scope"}
        assert without.out_of_scope is None

    @pytest.mark.parametrize(
        ("change", "group", "column", "direction"),
        [
            ({"mix": (0.1, 0.1, 0.5, 0.2, 0.1)}, "labels", "cs.CV", "up"),
            ({"words": 60}, "text", "words", "down"),
            ({"words": 300}, "unusual", "words", "up"),
            ({"outside": 0.3}, "scope", None, None),
        ],
    )
    def test_alarm(self, reference, rows_of, change, group, column, direction):
        """The group's p-value is small, and the column that changed has its direction."""
        test, rows = DriftTest(reference), rows_of(Traffic(300, 5, **change))
        found = test(rows)
        assert found.p < 0.001
        assert found.groups[group] < 0.001
        if column:
            (described,) = [entry for entry in test.describe(rows) if entry["column"] == column]
            assert described["direction"] == direction
            assert described["p"] < 0.001

    def test_false_alarms(self, reference, rows_of):
        """Of 200 quiet windows 5% may have p < 0.05: below 0.001 are 1% at most."""
        test, generator = DriftTest(reference), np.random.default_rng(3)
        pool = rows_of(Traffic(3000, 9))
        p = [test(pool.take(generator.choice(len(pool), 300, replace=False))).p for _ in range(200)]
        assert sum(value < 0.05 for value in p) <= 14
        assert sum(value < 0.001 for value in p) <= 2

    def test_truncated_rows_have_no_tokens_per_word(self, reference):
        """Their tokens say nothing of the text."""
        features = reference.rows.features
        cut = np.isnan(features[:, FEATURES.index("tokens_per_word")])
        assert 0 < cut.sum() < 100
        assert (features[cut, FEATURES.index("words")] > 150).all()


class TestAccuracy:
    """The estimate without labels."""

    def test_recalibration(self):
        """Scores that are too sure by a known temperature and bias are put right."""
        generator = np.random.default_rng(2)
        scores = generator.dirichlet(np.full(4, 0.5), 6000)
        truth = (scores.cumsum(axis=1) < generator.random((6000, 1))).sum(axis=1).clip(0, 3)
        bias = np.array([0.5, -0.5, 0.2, -0.2])
        logits = 2 * (np.log(np.maximum(scores, 1e-7)) - bias)
        sure = np.exp(logits - logits.max(axis=1, keepdims=True))
        temperature, found = fit_bcts(sure / sure.sum(axis=1, keepdims=True), truth)
        assert temperature == pytest.approx(2.0, abs=0.15)
        assert found == pytest.approx(bias, abs=0.12)

    @pytest.mark.parametrize("mix", [MIX, (0.3, 0.1, 0.1, 0.4, 0.1)])
    def test_estimate(self, reference, rows_of, mix):
        """Within three points of the truth, inside the interval; out-of-scope rows are not counted."""
        estimate = AccuracyEstimate(reference)
        traffic = Traffic(3000, 12, mix=mix, outside=0.2)
        found = estimate(rows_of(traffic))
        inside = traffic.in_scope
        truth = (traffic.scores.argmax(axis=1) == traffic.truth)[inside].mean()
        assert found["accuracy"] == pytest.approx(truth, abs=0.03)
        assert found["low"] < truth < found["high"]
        assert found["rows"] == inside.sum()
        assert found["out_of_scope"] == pytest.approx(1 - inside.mean())

    def test_label_mix(self, reference, rows_of):
        """Expectation maximisation finds the true shares better than counting answers."""
        estimate = AccuracyEstimate(reference)
        mix = (0.3, 0.1, 0.1, 0.4, 0.1)
        traffic = Traffic(1000, 12, mix=mix)
        truth = np.bincount(traffic.truth, minlength=5) / 1000
        assert np.abs(estimate.label_mix(rows_of(traffic)) - truth).max() < 0.06

    def test_too_few(self, reference, rows_of):
        """Nothing is said of 20 rows."""
        estimate = AccuracyEstimate(reference)
        rows = rows_of(Traffic(20, 3))
        assert estimate(rows) is None
        assert estimate.label_mix(rows) is None
