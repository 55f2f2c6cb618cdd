"""Every plot is a PNG, for few and many classes and for the thin data of a tiny run; the map of papers."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.errors import UserError, run_main
from arxiv_cls.scoring import plots
from arxiv_cls.scoring.plots import legend_groups, project_embeddings, visualize_model

NOTHING_YET = [{"loss": 1.0, "epoch": 0.5}, {"train_runtime": 3.0, "epoch": 1.0}]
ONE_EPOCH = [
    {"loss": 1.0, "epoch": 1},
    {"eval_loss": 0.9, "eval_accuracy": 0.7, "eval_macro_f1": 0.6, "epoch": 1},
]
NEEDS_UMAP = [
    pytest.mark.slow,  # its first call compiles for half a minute
    pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed"),
]
YEAR = {"n": 5, "accuracy": 0.8, "accuracy_interval": [0.4, 0.95]}


def shares(papers: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and answers that are all right."""
    return np.random.default_rng(0).uniform(0.5, 1, papers), np.ones(papers, dtype=bool)


@pytest.mark.parametrize(
    ("plot", "arguments"),
    [
        # A class without papers has an empty row.
        *((plots.plot_confusion_matrix, (np.arange(1, n), np.arange(n - 1), ["cs"] * n)) for n in (2, 40)),
        *((plots.plot_reliability, shares(papers)) for papers in (1, 500)),
        *((plots.plot_accuracy_by_year, (dict.fromkeys(map(str, range(n)), YEAR),)) for n in (1, 30)),
        *((plots.plot_terms, ({f"cs.{n}": [("$x", 1.0)] * 20 for n in range(count)},)) for count in (1, 5)),
        (plots.plot_out_of_scope, (np.array([0.9]), np.array([0.1]), 0.5)),
        *((plots.plot_training_curve, (history,)) for history in ([], NOTHING_YET, ONE_EPOCH)),
    ],
)  # fmt: skip
def test_plot_is_a_picture(plot, arguments, tmp_path):
    """Also for data at the edge; the folder is made."""
    plot(*arguments, tmp_path / "new" / "plot.png")
    content = (tmp_path / "new" / "plot.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(content) > 5_000


@pytest.mark.parametrize("method", ["tsne", pytest.param("umap", marks=NEEDS_UMAP)])
def test_groups_that_are_apart_stay_apart(method):
    """Nearest neighbours on the plane are of the same cloud; the same input gives the same map."""
    clouds = np.random.default_rng(0).normal(size=(60, 80))
    clouds[30:] += 6
    points = project_embeddings(clouds, method)
    assert points.shape == (60, 2)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag([np.inf] * 60)
    assert ((distances.argmin(axis=1) >= 30) == (np.arange(60) >= 30)).all()
    assert (project_embeddings(clouds, method) == points).all()


def test_legend():
    """Few labels have their long names; many are grouped by archive."""
    names, groups = legend_groups(["cs.CL", "stat.ML"])
    assert names[0] == "cs.CL  Computation and Language"
    assert groups.tolist() == [0, 1]
    labels = [code for code in CATEGORY_NAMES if code.startswith(("cs.", "math."))][:60]
    names, groups = legend_groups(labels)
    assert names == ["cs", "math"]
    assert [names[group] for group in groups] == [label.partition(".")[0] for label in labels]


class TestVisualize:
    """`arxiv-cls visualize MODEL`."""

    def test_files(self, model, tmp_path):
        """A baseline also has its terms."""
        lines = visualize_model(model.home, max_papers=40)
        assert lines == [str(model.home / "eval" / "embeddings.png")]
        assert (model.home / "eval" / "embeddings.png").stat().st_size > 10_000
        assert json.loads((model.home / "eval" / "embeddings.json").read_text())["papers"] == 40
        model.predictor.top_terms = lambda label, n: [(f"word of {label}", 2.0), ("model", 1.0)]
        lines = visualize_model(model.home, max_papers=10, out=tmp_path / "out", split="train")
        assert "cs.CL: word of cs.CL, model" in lines
        record = json.loads((tmp_path / "out" / "terms.json").read_text())
        assert record["terms"]["cs.AI"] == {"word of cs.AI": 2.0, "model": 1.0}
        assert (tmp_path / "out" / "embeddings.png").is_file()

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            # The card calls the map in `eval/` a map of test papers.
            ({"split": "train"}, "map of the test split, .*\n.*--out"),
            ({"split": "train", "out": "eval/"}, "map of the test split, .*\n.*--out"),
            ({"max_papers": 4}, "shows nothing"),
            ({"model": "user/name"}, "not a local directory\n.*--out"),
        ],
    )
    def test_refused(self, model, options, why):
        options = {"model": model.home} | options
        options |= {"out": f"{model.home}/{options['out']}"} if "out" in options else {}
        with pytest.raises(UserError, match=why):
            visualize_model(**options)
        assert not (model.home / "eval").exists()

    def test_missing_package(self, monkeypatch, capsys):
        """The extra that brings it is named."""
        monkeypatch.setitem(sys.modules, "umap", None)
        with pytest.raises(SystemExit):
            run_main(lambda words: project_embeddings(np.zeros((10, 3)), "umap"))
        assert "arxiv_cls[umap]" in capsys.readouterr().err
