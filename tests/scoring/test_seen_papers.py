"""`evaluate --csv` tells how many papers the model was trained on, and does not cry wolf over new ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from factories import paper, write_csv

from arxiv_cls.corpus import build_corpus
from arxiv_cls.record.run_record import data_record
from arxiv_cls.scoring.evaluation import evaluate_csv
from arxiv_cls.scoring.scored_papers import trained_on


@pytest.fixture
def new_papers(tmp_path):
    """Forty papers that no training file can have held: ids and dates of 2031."""
    common = {"category_code": "cs.AI", "published_date": "2031-01-02"}
    return write_csv(tmp_path / "new.csv", [paper(n, id=f"abs-3101.{n:05}v1", **common) for n in range(40)])


def record_run(model, **changes):
    """Writes the `run.json` of a training on the sample."""
    data = data_record(build_corpus("top5", csv=model.sample), {"config": "top5"}) | changes
    (model.home / "run.json").write_text(json.dumps({"data": data}))
    return data


class TestSeenPapers:
    """Papers of the model's own training split are counted by the rule of the split."""

    def test_count_and_warning(self, model, caplog):
        corpus = build_corpus("top5", csv=model.sample)
        found = evaluate_csv(model.home, model.sample)["csv"]
        # The build merges versions and drops duplicates; the file's rows are counted as they stand.
        assert found["in_training_split"] >= len(corpus.splits["train"])
        assert found["in_training_split"] < found["rows_scored"]
        assert found["in_training_split_exact"] is False
        expected = (
            f"up to {found['in_training_split']:,} of the {found['rows_scored']:,} scored papers belong"
        )
        assert f"{expected} to the model's own training split: the figures may be too good" in caplog.text

    def test_exact_where_the_training_file_is_at_hand(self, model, caplog):
        """Looked up paper by paper; with `max_samples` the rule alone would name most of the file."""
        recipe = (model.home / "recipe.yaml").read_text()
        (model.home / "recipe.yaml").write_text(recipe + "  max_samples: 100\n")
        record_run(model)
        corpus = build_corpus("top5", csv=model.sample, max_samples=100)
        ids = set(corpus.splits["train"]["arxiv_id"])
        assert len(ids) == 100
        found = evaluate_csv(model.home, model.sample)["csv"]
        assert found["in_training_split_exact"] is True
        # Versions of one paper are rows of their own in the file.
        assert 100 <= found["in_training_split"] < 150
        told = f"{found['in_training_split']} of the {found['rows_scored']} scored papers belong"
        assert f"{told} to the model's own training split: the figures are too good" in caplog.text
        assert "up to" not in caplog.text

    def test_new_papers_with_the_training_file_at_hand(self, model, new_papers, caplog):
        """None of them is in it, although the hash puts seven of ten into a training split."""
        record_run(model)
        found = evaluate_csv(model.home, new_papers)["csv"]
        assert (found["in_training_split"], found["in_training_split_exact"]) == (0, True)
        assert "training split" not in caplog.text

    def test_new_papers_by_their_date(self, model, new_papers, caplog):
        """The file is gone or is another by now: what was published after the newest paper was not in it."""
        data = record_run(model, sha256="0" * 64)
        assert data["newest_training_paper"] < "2031"
        found = evaluate_csv(model.home, new_papers)["csv"]
        assert (found["in_training_split"], found["in_training_split_exact"]) == (0, False)
        assert "training split" not in caplog.text

    def test_new_papers_where_nothing_is_known(self, model, new_papers, caplog):
        """Records of earlier versions name no date: the warning says that it is an upper bound."""
        record_run(model, sha256="0" * 64, newest_training_paper=None)
        found = evaluate_csv(model.home, new_papers)["csv"]
        assert 20 <= found["in_training_split"] <= 35
        assert f"up to {found['in_training_split']} of the 40 scored papers" in caplog.text

    def test_agrees_with_the_build_paper_by_paper(self, model):
        corpus = build_corpus("top5", csv=model.sample)
        for name, expected in (("train", True), ("validation", False), ("test", False)):
            ids = np.asarray(corpus.splits[name]["arxiv_id"], dtype=object)
            days = np.full(len(ids), np.datetime64("NaT", "D"))
            assert (trained_on(ids, days, {"seed": 42}) == expected).all()

    def test_split_by_time(self):
        """Before the first boundary is training; no id or no date is not."""
        ids = np.asarray(["1", "2", "", "4"], dtype=object)
        days = np.asarray(["2015-01-01", "2017-01-01", "2015-01-01", "NaT"], dtype="datetime64[D]")
        options = {"split": "time", "time_boundaries": ["2016-01-01", "2018-01-01"]}
        assert trained_on(ids, days, options).tolist() == [True, False, False, False]

    def test_without_a_recipe_it_is_not_known(self, model, new_papers, caplog):
        (model.home / "recipe.yaml").unlink()
        found = evaluate_csv(model.home, new_papers)
        assert found["csv"]["in_training_split"] is None
        assert "not known" in caplog.text
