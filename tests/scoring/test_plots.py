"""Every plot is written as a PNG, for few and many classes, and for the thin data of a tiny run."""

from __future__ import annotations

import numpy as np
import pytest

from arxiv_cls.scoring.plots import (
    plot_accuracy_by_year,
    plot_confusion_matrix,
    plot_reliability,
    plot_training_curve,
    wilson_interval,
)


def assert_png(path) -> None:
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert path.stat().st_size > 5_000


class TestPlots:
    """Files, and nothing raised on data at the edge."""

    @pytest.mark.parametrize("classes", [2, 40])
    def test_confusion_matrix(self, tmp_path, classes):
        """A class without papers has an empty row."""
        matrix = np.diag(np.arange(classes))
        plot_confusion_matrix(matrix, [f"cs.{n}" for n in range(classes)], tmp_path / "new" / "c.png")
        assert_png(tmp_path / "new" / "c.png")

    @pytest.mark.parametrize("papers", [1, 500])
    def test_reliability(self, tmp_path, papers):
        top = np.random.default_rng(0).uniform(0.5, 1, papers)
        plot_reliability(np.column_stack([top, 1 - top]), np.zeros(papers, dtype=int), tmp_path / "r.png")
        assert_png(tmp_path / "r.png")

    @pytest.mark.parametrize("years", [1, 30])
    def test_accuracy_by_year(self, tmp_path, years):
        slices = {
            str(1993 + n): {"n": 5, "accuracy": 0.8, "accuracy_interval": [0.4, 0.95]} for n in range(years)
        }
        plot_accuracy_by_year(slices, tmp_path / "y.png")
        assert_png(tmp_path / "y.png")

    @pytest.mark.parametrize(
        "history",
        [
            [],
            [{"loss": 1.0, "epoch": 0.5}, {"train_runtime": 3.0, "epoch": 1.0}],
            [
                {"loss": 1.0, "epoch": 1},
                {"eval_loss": 0.9, "eval_accuracy": 0.7, "eval_macro_f1": 0.6, "epoch": 1},
            ],
        ],
    )
    def test_training_curve(self, tmp_path, history):
        plot_training_curve(history, tmp_path / "t.png")
        assert_png(tmp_path / "t.png")


class TestWilson:
    """Interval of a share against scipy."""

    @pytest.mark.parametrize(("hits", "count"), [(0, 5), (5, 5), (3, 10), (700, 1000)])
    def test_scipy(self, hits, count):
        from scipy.stats import binomtest

        low, high = wilson_interval(np.array(hits), np.array(count))
        expected = binomtest(hits, count).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
