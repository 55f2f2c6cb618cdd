"""Calibration error against a slow reference, its chance floor, the temperature."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from arxiv_cls.scoring.calibration import (
    calibrate,
    chance_calibration_errors,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
)


def slow_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Papers dealt into bins one by one; a paper whose score equals the last one's joins its bin."""
    papers = sorted(
        (max(row), float(list(row).index(max(row)) == label))
        for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
    )
    bins = min(bins, len(papers))
    wanted = [number * len(papers) // bins for number in range(bins)]
    groups: list[list[tuple[float, float]]] = []
    for position, (score, correct) in enumerate(papers):
        tied = position > 0 and papers[position - 1][0] == score
        run = position
        while run + 1 < len(papers) and papers[run + 1][0] == score:
            run += 1
        if position == 0 or (not tied and any(position <= cut <= run for cut in wanted)):
            groups.append([])
        groups[-1].append((score, correct))
    error = 0.0
    for group in groups:
        error += abs(sum(correct - score for score, correct in group)) / len(papers)
    return error


def calibrated(seed: int, papers: int, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, probabilities and labels drawn from these probabilities."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(papers, 5)) * spread
    probabilities = softmax(logits, axis=1)
    labels = (probabilities.cumsum(axis=1) > generator.random((papers, 1))).argmax(axis=1)
    return logits, probabilities, labels


class TestExpectedCalibrationError:
    """Fifteen bins of equal mass."""

    @pytest.mark.parametrize(("papers", "decimals"), [(1, 9), (7, 9), (16, 9), (333, 9), (200, 1), (201, 1)])
    def test_slow_reference(self, papers, decimals):
        """With one decimal many scores tie."""
        _, probabilities, labels = calibrated(papers, papers)
        probabilities = np.round(probabilities, decimals)
        expected = slow_calibration_error(probabilities, labels)
        assert expected_calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-12)

    def test_by_hand(self):
        """Two papers at 0.9, one right; two at 0.6, both right; two bins: (0.8 + 0.8) / 4."""
        top = np.array([0.9, 0.6, 0.9, 0.6])
        probabilities = np.column_stack([top, 1 - top])
        labels = np.array([0, 0, 1, 0])
        assert expected_calibration_error(probabilities, labels, bins=2) == pytest.approx(0.4)

    def test_bins_are_equal_and_ascending(self):
        _, probabilities, labels = calibrated(3, 3324)
        found = reliability_bins(probabilities, labels)
        assert len(found.papers) == 15
        assert set(found.papers.tolist()) <= {221, 222}
        assert (np.diff(found.confidence) > 0).all()
        assert found.accuracy @ found.papers / 3324 == pytest.approx(
            (probabilities.argmax(1) == labels).mean()
        )


class TestChanceFloor:
    """What a perfectly calibrated model of that size shows."""

    def test_agrees_with_labels_drawn_one_by_one(self):
        """The mean over simulations equals the mean error over label sets drawn from all k scores."""
        _, probabilities, _ = calibrated(0, 300)
        generator = np.random.default_rng(5)
        slow = []
        for _ in range(400):
            labels = [generator.choice(5, p=row) for row in probabilities[:300]]
            slow.append(expected_calibration_error(probabilities, np.array(labels)))
        fast = chance_calibration_errors(probabilities, simulations=2000)
        standard_error = np.hypot(np.std(slow) / 20, np.std(fast) / np.sqrt(2000))
        assert abs(np.mean(slow) - fast.mean()) < 4 * standard_error

    def test_blocks_do_not_change_it(self, monkeypatch):
        from arxiv_cls.scoring import calibration

        _, probabilities, _ = calibrated(0, 100)
        whole = chance_calibration_errors(probabilities, simulations=20)
        monkeypatch.setattr(calibration, "_SIMULATED_CELLS_AT_A_TIME", 300)
        assert (chance_calibration_errors(probabilities, simulations=20) == whole).all()


class TestTemperature:
    """One number that minimises the log-loss."""

    @pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 8.0])
    def test_finds_the_temperature_that_made_the_labels(self, temperature):
        logits, _, labels = calibrated(1, 8000)
        assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.06)

    def test_no_other_temperature_is_better(self):
        logits, _, labels = calibrated(2, 500)
        logits = logits * 3

        def log_loss(temperature: float) -> float:
            return -np.log(softmax(logits / temperature, axis=1)[np.arange(500), labels]).mean()

        fitted = fit_temperature(logits, labels)
        assert all(log_loss(fitted) <= log_loss(t) for t in np.geomspace(0.05, 40, 400))

    def test_argmax_stays_and_error_falls(self):
        logits, _, labels = calibrated(4, 3000)
        logits = logits * 4
        scaled = softmax(logits / fit_temperature(logits, labels), axis=1)
        assert (scaled.argmax(axis=1) == logits.argmax(axis=1)).all()
        before = expected_calibration_error(softmax(logits, axis=1), labels)
        assert expected_calibration_error(scaled, labels) < before / 3

    @pytest.mark.parametrize(
        ("papers", "sharpened", "expected"), [(3000, 4.0, 4.0), (50, 4.0, 2.0), (99, 0.5, 0.5), (1, 1.0, 1.0)]
    )
    def test_few_papers_move_it_towards_one(self, papers, sharpened, expected, caplog):
        """On fewer than 100 papers the fitted T counts with its share, and the record says so."""
        logits, _, labels = calibrated(6, papers)
        record, probabilities = calibrate(logits * sharpened, labels)
        fitted = fit_temperature(logits * sharpened, labels)
        assert record["temperature"] == pytest.approx(expected, rel=0.35)
        if papers == 3000:
            assert record["temperature"] == fitted
            assert "note" not in record
            assert not caplog.text
        else:
            assert record["note"] in caplog.text
        assert np.allclose(probabilities, softmax(logits * sharpened / record["temperature"], axis=1))

    @pytest.mark.parametrize("scale", [1.0, -1.0], ids=["never wrong", "always wrong"])
    def test_a_bound_is_not_taken(self, scale, caplog):
        """Papers that are told apart without an error would make every score 0 or 1."""
        record, _ = calibrate(scale * np.eye(5)[np.arange(200) % 5], np.arange(200) % 5)
        assert record["temperature"] == 1.0
        assert "ended at its bound" in record["note"]
        assert record["note"] in caplog.text

    @pytest.mark.parametrize("logits", [np.zeros((0, 3)), np.full((2, 3), np.inf), np.zeros((3, 3))])
    def test_refuses(self, logits):
        with pytest.raises(ValueError, match="logit"):
            fit_temperature(logits, np.zeros(min(len(logits), 2), dtype=int))
