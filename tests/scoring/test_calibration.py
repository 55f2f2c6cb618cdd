"""Calibration error against a slow reference, its chance floor, the temperature."""

from __future__ import annotations

import json

import numpy as np
import pytest
from factories import make_model_dir
from scipy.special import softmax

from arxiv_cls.release.card import render_model_card
from arxiv_cls.scoring import calibration
from arxiv_cls.scoring.calibration import (
    calibrate,
    chance_calibration_errors,
    expected_calibration_error,
    fit_temperature,
)


def slow_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Papers dealt into 15 bins one by one; a paper whose score equals the last one's joins its bin."""
    papers = sorted(
        (max(row), float(list(row).index(max(row)) == label))
        for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
    )
    bins = min(15, len(papers))
    wanted = [number * len(papers) // bins for number in range(bins)]
    groups: list[list[float]] = []
    for position, (score, correct) in enumerate(papers):
        tied = position > 0 and papers[position - 1][0] == score
        run = position
        while run + 1 < len(papers) and papers[run + 1][0] == score:
            run += 1
        if position == 0 or (not tied and any(position <= cut <= run for cut in wanted)):
            groups.append([])
        groups[-1].append(correct - score)
    return sum(abs(sum(group)) for group in groups) / len(papers)


def calibrated(seed: int, papers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, probabilities and labels drawn from these probabilities."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(papers, 5)) * 2
    probabilities = softmax(logits, axis=1)
    labels = (probabilities.cumsum(axis=1) > generator.random((papers, 1))).argmax(axis=1)
    return logits, probabilities, labels


@pytest.mark.parametrize(("papers", "decimals"), [(1, 9), (7, 9), (16, 9), (333, 9), (200, 1), (201, 1)])
def test_error_against_the_slow_reference(papers, decimals):
    """With one decimal many scores tie."""
    _, probabilities, labels = calibrated(papers, papers)
    probabilities = np.round(probabilities, decimals)
    expected = slow_calibration_error(probabilities, labels)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-12)


def test_error_by_hand():
    """Two papers at 0.9, one right; two at 0.6, both right; two bins: (0.8 + 0.8) / 4."""
    top = np.array([0.9, 0.6, 0.9, 0.6])
    found = expected_calibration_error(np.column_stack([top, 1 - top]), np.array([0, 0, 1, 0]), bins=2)
    assert found == pytest.approx(0.4)


def test_chance(monkeypatch):
    """The error of labels drawn from the scores themselves, against drawing whole labels one by one."""
    _, probabilities, _ = calibrated(0, 300)
    generator = np.random.default_rng(5)
    slow = []
    for _ in range(400):
        labels = [generator.choice(5, p=row) for row in probabilities]
        slow.append(expected_calibration_error(probabilities, np.array(labels)))
    fast = chance_calibration_errors(probabilities, simulations=2000)
    standard_error = np.hypot(np.std(slow) / 20, np.std(fast) / np.sqrt(2000))
    assert abs(np.mean(slow) - fast.mean()) < 4 * standard_error
    monkeypatch.setattr(calibration, "_SIMULATED_CELLS_AT_A_TIME", 7000)
    assert (chance_calibration_errors(probabilities, simulations=2000) == fast).all()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 8.0])
def test_temperature_that_made_the_labels(temperature):
    """It is found, and no other gives a lower log-loss or another label."""
    logits, _, labels = calibrated(1, 8000)
    logits = logits * temperature
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(temperature, rel=0.06)

    def log_loss(of: float) -> float:
        return -np.log(softmax(logits / of, axis=1)[np.arange(8000), labels]).mean()

    assert all(log_loss(fitted) <= log_loss(other) for other in np.geomspace(0.1, 40, 50))


@pytest.mark.parametrize(
    ("papers", "sharpened", "expected"), [(3000, 4.0, 4.0), (50, 4.0, 2.0), (99, 0.5, 0.5), (1, 1.0, 1.0)]
)
def test_few_papers_move_it_towards_one(papers, sharpened, expected, caplog):
    """On fewer than 100 papers the fitted T counts with its share, and the record says so.

    On enough the error of a model that is four times too sure falls, and no label changes.
    """
    logits, _, labels = calibrated(6, papers)
    record, probabilities = calibrate(logits * sharpened, labels)
    assert record["temperature"] == pytest.approx(expected, rel=0.35)
    assert ("note" in record) == (papers < 3000)
    assert record.get("note", "") in caplog.text
    if papers == 3000:
        assert record["temperature"] == fit_temperature(logits * sharpened, labels)
        assert (probabilities.argmax(axis=1) == logits.argmax(axis=1)).all()
        after = record["expected_calibration_error_after"]
        assert after == expected_calibration_error(probabilities, labels)
        assert after < record["expected_calibration_error_before"] / 3
    assert np.allclose(probabilities, softmax(logits * sharpened / record["temperature"], axis=1))


@pytest.mark.parametrize("scale", [1.0, -1.0], ids=["never wrong", "always wrong"])
def test_a_bound_is_not_taken(scale, caplog, tmp_path):
    """Papers that are told apart without an error would make every score 0 or 1: log and card say so."""
    record, _ = calibrate(scale * np.eye(5)[np.arange(200) % 5], np.arange(200) % 5)
    assert record["temperature"] == 1.0
    assert "ended at its bound" in record["note"]
    assert record["note"] in caplog.text
    model = make_model_dir(tmp_path / "model")
    run = json.loads((model / "run.json").read_text())
    (model / "run.json").write_text(json.dumps(run | {"calibration": record}))
    assert "one temperature, 1.000: " in (card := render_model_card(model))
    assert record["note"] in card


@pytest.mark.parametrize("logits", [np.zeros((0, 3)), np.full((2, 3), np.inf), np.zeros((3, 3))])
def test_refused(logits):
    """Nothing to fit on, infinite logits, another number of labels."""
    with pytest.raises(ValueError, match="logit"):
        fit_temperature(logits, np.zeros(min(len(logits), 2), dtype=int))
