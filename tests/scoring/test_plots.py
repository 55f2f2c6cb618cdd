"""Every plot is written as a PNG, for few and many classes, and for the thin data of a tiny run."""

from __future__ import annotations

import numpy as np
import pytest

from arxiv_cls.scoring import plots

NOTHING_YET = [{"loss": 1.0, "epoch": 0.5}, {"train_runtime": 3.0, "epoch": 1.0}]
ONE_EPOCH = [
    {"loss": 1.0, "epoch": 1},
    {"eval_loss": 0.9, "eval_accuracy": 0.7, "eval_macro_f1": 0.6, "epoch": 1},
]


def shares(papers: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of two classes, and labels that are all the first."""
    top = np.random.default_rng(0).uniform(0.5, 1, papers)
    return np.column_stack([top, 1 - top]), np.zeros(papers, dtype=int)


def years(count: int) -> tuple[dict]:
    """Slices by year."""
    part = {"n": 5, "accuracy": 0.8, "accuracy_interval": [0.4, 0.95]}
    return ({str(1993 + number): part for number in range(count)},)


@pytest.mark.parametrize(
    ("plot", "arguments"),
    [
        # A class without papers has an empty row.
        *(
            (plots.plot_confusion_matrix, (np.diag(np.arange(n)), [f"cs.{i}" for i in range(n)]))
            for n in (2, 40)
        ),
        *((plots.plot_reliability, shares(papers)) for papers in (1, 500)),
        *((plots.plot_accuracy_by_year, years(count)) for count in (1, 30)),
        (plots.plot_out_of_scope, (np.array([0.9]), np.array([0.1]), 0.5)),
        *((plots.plot_training_curve, (history,)) for history in ([], NOTHING_YET, ONE_EPOCH)),
    ],
)
def test_plot_is_a_picture(plot, arguments, tmp_path):
    """Also for data at the edge; the folder is made."""
    plot(*arguments, tmp_path / "new" / "plot.png")
    content = (tmp_path / "new" / "plot.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(content) > 5_000
