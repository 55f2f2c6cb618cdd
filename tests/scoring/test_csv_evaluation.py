"""`evaluate --csv`: every usable row scored, the rest counted, seen papers told."""

from __future__ import annotations

import csv
import json
import logging

import pytest
from factories import write_csv

from arxiv_cls.cli import main
from arxiv_cls.corpus import build_corpus
from arxiv_cls.errors import UserError
from arxiv_cls.scoring import scored_papers
from arxiv_cls.scoring.evaluation import evaluate_csv
from arxiv_cls.scoring.scored_papers import true_columns

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


class TestRows:
    """Scored, counted or rejected: nothing else can happen to a row."""

    def test_every_row_is_accounted_for(self, model, tmp_path, caplog):
        file = write_rows(tmp_path / "papers.csv", ROWS)
        found = evaluate_csv(model.home, file)["csv"]
        assert (found["rows_read"], found["rows_scored"]) == (7, 2)
        assert found["other_labels"] == {"math.AG": 2, "q-bio.PE": 1}
        assert sum(found["rejected"].values()) == 2
        told = "3 rows have a label that the model does not have (math.AG 2, q-bio.PE 1): not scored"
        assert told in caplog.text
        assert "2 rows cannot be used: " in caplog.text
        assert "{" not in caplog.text

    def test_same_figures_as_the_split(self, model, tmp_path):
        """A file with just the test papers gives the figures of the test split."""
        from arxiv_cls.scoring.evaluation import evaluate_model

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
        found = evaluate_csv(model.home, path, out=tmp_path / "out")
        assert (found["papers"], found["slices"]["year"]) == (2, {})
        assert not (tmp_path / "out" / "accuracy_by_year.png").exists()

    def test_batches(self, model, tmp_path, monkeypatch):
        """Texts are handed over in batches, with the same result."""
        whole = evaluate_csv(model.home, model.sample)
        monkeypatch.setattr(scored_papers, "ROWS_AT_A_TIME", 64)
        model.predictor.largest_batch = 0
        assert evaluate_csv(model.home, model.sample)["metrics"] == whole["metrics"]
        assert model.predictor.largest_batch == 64

    def test_nothing_to_score(self, model, tmp_path):
        with pytest.raises(UserError, match="none of its 3 rows"):
            evaluate_csv(model.home, write_rows(tmp_path / "papers.csv", ROWS[2:5]))


class TestOutput:
    """The evaluation of the test split is never overwritten."""

    def test_nothing_in_the_model_directory(self, model, tmp_path):
        file = write_rows(tmp_path / "papers.csv", ROWS)
        evaluate_csv(model.home, file, out=tmp_path / "out")
        assert not (model.home / "eval").exists()
        assert json.loads((tmp_path / "out" / "metrics.json").read_text())["split"] is None

    def test_own_eval_is_refused(self, model, tmp_path):
        file = write_rows(tmp_path / "papers.csv", ROWS)
        with pytest.raises(UserError, match="test split"):
            evaluate_csv(model.home, file, out=model.home / "eval")

    def test_command(self, model, tmp_path, capsys, caplog):
        caplog.set_level(logging.ERROR)
        file = write_rows(tmp_path / "papers.csv", ROWS)
        main(["evaluate", str(model.home), "--csv", str(file)])
        assert "2 papers" in capsys.readouterr().out


def test_columns_of_a_model_of_archives():
    """A category is its archive where the model knows only archives."""
    found = true_columns(["cs.AI", "hep-th", "math.AG", "cs.AI"], ["cs", "physics"])
    assert found.tolist() == [0, 1, -1, 0]
