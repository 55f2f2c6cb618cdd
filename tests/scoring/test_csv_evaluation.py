"""`evaluate --csv`: every usable row scored, the rest counted, seen papers told."""

from __future__ import annotations

import csv
import json
import logging

import numpy as np
import pytest
from factories import paper, write_csv

from arxiv_cls.cli import main
from arxiv_cls.corpus import build_corpus
from arxiv_cls.errors import UserError
from arxiv_cls.record.run_record import data_record
from arxiv_cls.scoring import scored_papers
from arxiv_cls.scoring.evaluation import evaluate_model
from arxiv_cls.scoring.scored_papers import training_papers, true_columns

COLUMNS = ["id", "title", "category_code", "published_date", "summary"]


def write_rows(path, rows):
    """A CSV of these columns."""
    return write_csv(path, [dict(zip(COLUMNS, row, strict=True)) for row in rows], columns=COLUMNS)


ROWS = [
    ["abs-1801.00001v1", "one", "cs.AI", "1/2/18", "text of one"],
    ["abs-1801.00002v1", "two", "cs.LG", "1/2/18", "text of two"],
    ["abs-1801.00003v1", "three", "math.AG", "1/2/18", "text of three"],
    ["abs-1801.00004v1", "four", "math.AG", "1/2/18", "text of four"],
    ["abs-1801.00005v1", "five", "q-bio.PE", "1/2/18", "frogs"],
    ["abs-1801.00006v1", "", "cs.LG", "1/2/18", "no title"],
    ["abs-1801.00007v1", "seven", "no.SUCH", "1/2/18", "text of seven"],
]


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


class TestRows:
    """Scored, counted or rejected: nothing else can happen to a row."""

    def test_every_row_is_accounted_for(self, model, tmp_path, caplog):
        file = write_rows(tmp_path / "papers.csv", ROWS)
        found = evaluate_model(model.home, csv=file)["csv"]
        assert (found["rows_read"], found["rows_scored"]) == (7, 2)
        assert found["other_labels"] == {"math.AG": 2, "q-bio.PE": 1}
        assert sum(found["rejected"].values()) == 2
        told = "3 rows have a label that the model does not have (math.AG 2, q-bio.PE 1): not scored"
        assert told in caplog.text
        assert "2 rows cannot be used: " in caplog.text
        assert "{" not in caplog.text

    def test_same_figures_as_the_split(self, model, tmp_path):
        """A file with just the test papers gives the figures of the test split."""
        wanted = set(build_corpus("top5", csv=model.sample).splits["test"]["text"])
        with model.sample.open(newline="", encoding="utf-8") as file:
            rows = {
                f"{row['title'].strip()}\n\n{row['summary'].strip()}": row for row in csv.DictReader(file)
            }
        file = write_rows(tmp_path / "test.csv", [[rows[t][c] for c in COLUMNS] for t in sorted(wanted)])
        by_csv = evaluate_model(model.home, csv=file)
        by_split = evaluate_model(model.home, rules=False)
        assert by_csv["papers"] == by_split["papers"]
        for name in ("accuracy", "macro_f1", "log_loss"):
            assert by_csv["metrics"][name] == pytest.approx(by_split["metrics"][name])
        assert by_csv["csv"]["in_training_split"] == 0

    def test_no_dates_no_ids(self, model, tmp_path):
        """Texts and categories are enough; slices by year and the count of seen papers go without."""
        path = tmp_path / "bare.csv"
        path.write_text("title,summary,category_code\na,b,cs.AI\nc,d,cs.CL\n", encoding="utf-8")
        found = evaluate_model(model.home, csv=path, out=tmp_path / "out")
        assert (found["papers"], found["slices"]["year"]) == (2, {})
        assert not (tmp_path / "out" / "accuracy_by_year.png").exists()

    def test_batches(self, model, tmp_path, monkeypatch):
        """Texts are handed over in batches, with the same result."""
        whole = evaluate_model(model.home, csv=model.sample)
        monkeypatch.setattr(scored_papers, "ROWS_AT_A_TIME", 64)
        model.predictor.largest_batch = 0
        assert evaluate_model(model.home, csv=model.sample)["metrics"] == whole["metrics"]
        assert model.predictor.largest_batch == 64

    def test_nothing_to_score(self, model, tmp_path):
        with pytest.raises(UserError, match="none of its 3 rows"):
            evaluate_model(model.home, csv=write_rows(tmp_path / "papers.csv", ROWS[2:5]))

    def test_command(self, model, tmp_path, capsys, caplog):
        """The evaluation of the test split is not overwritten; a missing file is named with the option."""
        caplog.set_level(logging.ERROR)
        file = write_rows(tmp_path / "papers.csv", ROWS)
        main(["evaluate", str(model.home), "--csv", str(file), "--out", str(tmp_path / "out")])
        assert "2 papers" in capsys.readouterr().out
        assert not (model.home / "eval").exists()
        assert json.loads((tmp_path / "out" / "metrics.json").read_text())["split"] is None
        with pytest.raises(UserError, match="test split"):
            evaluate_model(model.home, csv=file, out=model.home / "eval")
        with pytest.raises(UserError, match=r"none\.csv: no such file.*\n.*--csv"):
            evaluate_model(model.home, csv=tmp_path / "none.csv")


def test_columns_of_a_model_of_archives():
    """A category is its archive where the model knows only archives."""
    found = true_columns(["cs.AI", "hep-th", "math.AG", "cs.AI"], ["cs", "physics"])
    assert found.tolist() == [0, 1, -1, 0]


class TestSeenPapers:
    """Papers of the model's own training split are counted by the rule of the split."""

    def test_count_and_warning(self, model, caplog):
        corpus = build_corpus("top5", csv=model.sample)
        found = evaluate_model(model.home, csv=model.sample)["csv"]
        # The build merges versions and drops duplicates; the file's rows are counted as they stand.
        assert found["in_training_split"] >= len(corpus.splits["train"])
        assert found["in_training_split"] < found["rows_scored"]
        assert found["in_training_split_exact"] is False
        told = f"up to {found['in_training_split']:,} of the {found['rows_scored']:,} scored papers belong"
        assert f"{told} to the model's own training split: the figures may be too good" in caplog.text

    def test_exact_where_the_training_file_is_at_hand(self, model, caplog):
        """Looked up paper by paper; with `max_samples` the rule alone would name most of the file."""
        recipe = (model.home / "recipe.yaml").read_text()
        (model.home / "recipe.yaml").write_text(recipe + "  max_samples: 100\n")
        record_run(model)
        corpus = build_corpus("top5", csv=model.sample, max_samples=100)
        ids = set(corpus.splits["train"]["arxiv_id"])
        assert len(ids) == 100
        found = evaluate_model(model.home, csv=model.sample)["csv"]
        assert found["in_training_split_exact"] is True
        # Versions of one paper are rows of their own in the file.
        assert 100 <= found["in_training_split"] < 150
        told = f"{found['in_training_split']} of the {found['rows_scored']} scored papers belong"
        assert f"{told} to the model's own training split: the figures are too good" in caplog.text
        assert "up to" not in caplog.text

    def test_new_papers_with_the_training_file_at_hand(self, model, new_papers, caplog):
        """None of them is in it, although the hash puts seven of ten into a training split."""
        record_run(model)
        found = evaluate_model(model.home, csv=new_papers)["csv"]
        assert (found["in_training_split"], found["in_training_split_exact"]) == (0, True)
        assert "training split" not in caplog.text

    @pytest.mark.parametrize(("changes", "told"), [({}, False), ({"newest_training_paper": None}, True)])
    def test_new_papers_without_the_training_file(self, model, new_papers, caplog, changes, told):
        """What came after the newest training paper was not in it; with no date on record, an upper bound."""
        record_run(model, sha256="0" * 64, **changes)
        found = evaluate_model(model.home, csv=new_papers)["csv"]
        assert found["in_training_split_exact"] is False
        assert (20 <= found["in_training_split"] <= 35) if told else found["in_training_split"] == 0
        assert (f"up to {found['in_training_split']} of the 40 scored papers" in caplog.text) == told
        assert ("training split" in caplog.text) == told

    def test_agrees_with_the_build_paper_by_paper(self, model):
        corpus = build_corpus("top5", csv=model.sample)
        for name, expected in (("train", True), ("validation", False), ("test", False)):
            ids = np.asarray(corpus.splits[name]["arxiv_id"], dtype=object)
            days = np.full(len(ids), np.datetime64("NaT", "D"))
            found = training_papers(model.home, ids, days, "none.csv")
            assert (found.seen == expected).all()
            assert not found.unknown.any()

    def test_split_by_time(self, model):
        """Before the first boundary is training; without an id or a date it is not known."""
        ids = np.asarray(["1", "2", "", "4"], dtype=object)
        days = np.asarray(["2015-01-01", "2017-01-01", "2015-01-01", "NaT"], dtype="datetime64[D]")
        boundaries = "  split: time\n  time_boundaries: ['2016-01-01', '2018-01-01']\n"
        with (model.home / "recipe.yaml").open("a") as file:
            file.write(boundaries)
        found = training_papers(model.home, ids, days, "none.csv")
        assert found.seen.tolist() == [True, False, False, False]
        assert found.unknown.tolist() == [False, False, True, True]

    def test_without_a_recipe_it_is_not_known(self, model, new_papers, caplog):
        (model.home / "recipe.yaml").unlink()
        found = evaluate_model(model.home, csv=new_papers)
        assert found["csv"]["in_training_split"] is None
        assert "not known" in caplog.text
