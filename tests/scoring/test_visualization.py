"""The map of the embeddings and the terms of a baseline."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.errors import UserError
from arxiv_cls.scoring.plots import legend_groups, project_embeddings, visualize_model

NEEDS_UMAP = [
    pytest.mark.slow,  # its first call compiles for half a minute
    pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed"),
]
METHODS = ["tsne", pytest.param("umap", marks=NEEDS_UMAP)]


@pytest.mark.parametrize("method", METHODS)
def test_groups_that_are_apart_stay_apart(method):
    """Nearest neighbours on the plane are of the same cloud; the same input gives the same map."""
    clouds = np.random.default_rng(0).normal(size=(60, 80))
    clouds[30:] += 6
    points = project_embeddings(clouds, method)
    assert points.shape == (60, 2)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag([np.inf] * 60)
    assert ((distances.argmin(axis=1) >= 30) == (np.arange(60) >= 30)).all()
    assert (project_embeddings(clouds, method) == points).all()


class TestLegend:
    """Names that a person can read, also for the largest label set."""

    def test_few_labels_have_long_names(self):
        names, groups = legend_groups(["cs.CL", "stat.ML"])
        assert names[0] == "cs.CL  Computation and Language"
        assert groups.tolist() == [0, 1]

    def test_many_labels_are_grouped_by_archive(self):
        labels = [code for code in CATEGORY_NAMES if code.startswith(("cs.", "math."))][:60]
        assert len(labels) > 24
        names, groups = legend_groups(labels)
        assert names == ["cs", "math"]
        assert [names[group] for group in groups] == [label.partition(".")[0] for label in labels]


class TestVisualize:
    """`arxiv-cls visualize MODEL`."""

    @pytest.mark.parametrize("method", METHODS)
    def test_files(self, model, method):
        lines = visualize_model(model.home, method=method, max_papers=40)
        assert lines == [str(model.home / "eval" / "embeddings.png")]
        assert (model.home / "eval" / "embeddings.png").stat().st_size > 10_000

    def test_terms_of_a_baseline(self, model, tmp_path):
        model.predictor.top_terms = lambda label, n: [(f"word of {label}", 2.0), ("model", 1.0)]
        lines = visualize_model(model.home, max_papers=10, out=tmp_path / "out")
        assert "cs.CL: word of cs.CL, model" in lines
        record = json.loads((tmp_path / "out" / "terms.json").read_text())
        assert record["terms"]["cs.AI"] == {"word of cs.AI": 2.0, "model": 1.0}
        assert not (model.home / "eval").exists()

    def test_another_split_needs_another_folder(self, model, tmp_path):
        """The card calls the map in `eval/` a map of test papers."""
        for out in (None, model.home / "eval", f"{model.home}/eval/"):
            with pytest.raises(UserError, match="map of the test split") as refusal:
                visualize_model(model.home, split="train", max_papers=10, out=out)
            assert "--out" in str(refusal.value)
        assert not (model.home / "eval").exists()
        visualize_model(model.home, split="train", max_papers=10, out=tmp_path / "out")
        assert (tmp_path / "out" / "embeddings.png").is_file()

    def test_refusals(self, model):
        with pytest.raises(UserError, match="shows nothing"):
            visualize_model(model.home, max_papers=4)
        with pytest.raises(UserError, match="--out"):
            visualize_model("user/name")

    def test_umap_without_the_package(self, monkeypatch):
        """The message names the package and the extra that brings it."""
        monkeypatch.setitem(sys.modules, "umap", None)
        with pytest.raises(UserError, match="umap-learn") as refusal:
            project_embeddings(np.zeros((10, 3)), "umap")
        assert "EXTRAS=dev,umap" in str(refusal.value)
