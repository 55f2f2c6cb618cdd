"""Which int8 candidate is taken: limits, speed and closeness, with engines whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from arxiv_cls.export import quantization
from arxiv_cls.export.quantization import (
    Agreement,
    Candidate,
    agreement,
    choose,
    in_float32,
    limits,
    within_limits,
)

PER_TENSOR = Candidate(per_channel=False, reduce_range=False)
PER_CHANNEL = Candidate(per_channel=True, reduce_range=False)
PAPERS = 200
LABELS = np.arange(PAPERS) % 5
REFERENCE = np.eye(5)[LABELS] * 0.5 + 0.1


LAYER = {"query": (4, 4), "scores": (), "out": (4, 4), "up": (4, 16), "down": (16, 4)}
PRODUCTS = {f"{layer}.{name}": shape for layer in range(6) for name, shape in LAYER.items()}


def compared(**changes) -> Agreement:
    """An agreement within every limit, but for the changes."""
    fields = {"papers": 1000, "equal_labels": 0.995, "max_difference": 0.1, "mean_difference": 0.01}
    fields |= {"accuracy": 0.8, "accuracy_fall": 0.001}
    return Agreement(**(fields | changes))


class TestAgreement:
    """The figures by hand."""

    def test_by_hand(self):
        """Four papers, one label changed from right to wrong."""
        reference = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
        found = np.array([[0.8, 0.2], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
        said = agreement(found, reference, np.array([0, 1, 0, 0]))
        assert (said.papers, said.equal_labels) == (4, 0.75)
        assert said.max_difference == pytest.approx(0.2)
        assert said.mean_difference == pytest.approx((0.1 + 0.2) * 2 / 8)
        assert (said.accuracy, said.accuracy_fall) == (0.5, 0.25)
        assert agreement(found, reference, None).accuracy is None

    def test_multi_label_by_hand(self):
        """Three labels given by fp32, two of them by int8, one of these right; the papers have two."""
        reference, found = np.array([[0.9, 0.6], [0.1, 0.7]]), np.array([[0.9, 0.4], [0.1, 0.7]])
        true = np.array([[True, False], [True, False]])
        said = agreement(found, reference, true, np.array([0.5, 0.5]))
        assert said.equal_labels == pytest.approx(2 * 2 / (3 + 2))
        assert said.accuracy == pytest.approx(2 * 1 / (2 + 2))
        assert said.accuracy_fall == pytest.approx(2 * 1 / (3 + 2) - 0.5)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({}, True),
            ({"equal_labels": 0.989}, False),
            ({"accuracy_fall": 0.0021}, False),
            ({"accuracy_fall": -0.01}, True),
            ({"max_difference": 0.6}, False),
            ({"papers": 50, "equal_labels": 0.98, "accuracy_fall": 0.02}, True),
            ({"papers": 50, "equal_labels": 0.96}, False),
        ],
    )
    def test_limits(self, changes, expected):
        """99% of the labels and 0.2 points; on few papers one paper is allowed, of 50 that is 2%."""
        assert within_limits(compared(**changes)) is expected
        assert limits(50) == pytest.approx({"least_equal_labels": 0.98, "largest_accuracy_fall": 0.02})


class Engine:
    """Gives the reference with a number of labels changed from some paper on."""

    def __init__(self, wrong: slice, shift: float) -> None:
        self.wrong, self.shift = wrong, shift

    def probabilities(self, ids, tokens_per_batch, on_batch=lambda rows: None):
        """Right answers, but for the wrong ones."""
        found = REFERENCE[ids].copy()
        wrong = np.isin(ids, np.arange(PAPERS)[self.wrong])
        found[wrong] = np.roll(found[wrong], 1, axis=1)
        found[:, 0] += self.shift
        return found


class TestChoice:
    """Which file is left at the target."""

    def chosen(
        self,
        monkeypatch,
        tmp_path: Path,
        engines: dict[Candidate, Engine],
        seconds: list[float],
        labels=LABELS,
    ):
        """Runs the search; each candidate takes the seconds given for its measurement."""
        monkeypatch.setattr(quantization, "CANDIDATES", tuple(engines))
        monkeypatch.setattr(quantization, "quantize", lambda source, target, c: target.write_text(str(c)))
        clock = iter([moment for part in seconds for moment in (0.0, part)])
        monkeypatch.setattr(quantization.time, "process_time", lambda: next(clock))
        by_name = {str(candidate): engine for candidate, engine in engines.items()}
        ids = np.arange(PAPERS)
        return choose(
            tmp_path / "model.onnx",
            tmp_path / "int8",
            lambda file: by_name[file.read_text()],
            ids,
            REFERENCE,
            labels,
            search_papers=50,
        )

    @pytest.mark.parametrize(
        ("per_tensor", "shift", "seconds", "expected"),
        [
            # 5% slower and closer to fp32 wins; half as slow again is not about as fast.
            (slice(0), 0.05, [1.0, 1.05], PER_CHANNEL),
            (slice(0), 0.05, [1.0, 1.5], PER_TENSOR),
            # Good on the first 50 papers, wrong on ten later ones: a slower one is tried where it was closer.
            (slice(100, 110), 0.05, [1.0, 1.5], PER_CHANNEL),
            (slice(100, 110), 0.01, [1.0, 1.5], None),
        ],
    )
    def test_choice(self, monkeypatch, tmp_path, per_tensor, shift, seconds, expected):
        """Speed first, closeness among those as fast, and the limits on all papers."""
        engines = {PER_TENSOR: Engine(per_tensor, shift), PER_CHANNEL: Engine(slice(0), 0.06 - shift)}
        candidate, kept, records = self.chosen(monkeypatch, tmp_path, engines, seconds)
        assert candidate == expected
        assert [record["papers"] for record in records] == [50, 50]
        assert records[1]["milliseconds_per_paper"] == pytest.approx(1000 * seconds[1] / 50)
        if expected is not None:
            assert kept.papers == PAPERS
            assert (tmp_path / "int8").read_text() == str(expected)

    def test_what_is_wanted_by_none(self, monkeypatch, tmp_path):
        """With 99% of the labels, and the others farther away, a candidate is taken all the same."""
        engines = {PER_TENSOR: Engine(slice(100, 102), 0.0), PER_CHANNEL: Engine(slice(0), 0.05)}
        # Of these two papers the answers that differ are the right ones: no accuracy is lost.
        labels = np.where(np.isin(np.arange(PAPERS), [100, 101]), (LABELS + 1) % 5, LABELS)
        candidate, kept, _ = self.chosen(monkeypatch, tmp_path, engines, [1.0, 1.5], labels)
        assert (candidate, kept.equal_labels) == (PER_TENSOR, 0.99)
        assert (tmp_path / "int8").read_text() == str(PER_TENSOR)

    def test_none_within_the_limits(self, monkeypatch, tmp_path):
        """No file, and the measurements are still on record."""
        engines = {PER_TENSOR: Engine(slice(0, 10), 0.0), PER_CHANNEL: Engine(slice(100, 110), 0.0)}
        candidate, kept, records = self.chosen(monkeypatch, tmp_path, engines, [1.0, 1.0])
        assert (candidate, kept, len(records)) == (None, None, 2)
        assert not (tmp_path / "int8").exists()


@pytest.mark.parametrize(
    ("which", "expected"),
    [("", []), ("early down", [0, 1, 2]), ("down", range(6))],
)
def test_products_that_stay_in_float32(which, expected):
    """Products of attention itself have no weight and are not asked about."""
    assert in_float32(PRODUCTS, which) == [f"{layer}.down" for layer in expected]
