"""`evaluate --csv`: every usable row scored, the rest counted, seen papers told."""

from __future__ import annotations

import csv
import json
import logging

import numpy as np
import pytest
from factories import paper, write_csv

from arxiv_cls.cli import main
from arxiv_cls.corpus import build_corpus, papers
from arxiv_cls.errors import UserError
from arxiv_cls.record.run_record import data_record
from arxiv_cls.scoring import scored_papers
from arxiv_cls.scoring.evaluation import evaluate_model
from arxiv_cls.scoring.scored_papers import training_papers, true_columns

COLUMNS = ["id", "title", "category_code", "published_date", "summary"]
ROWS = [
    ["abs-1801.00001v1", "one", "cs.AI", "1/2/18", "text of one"],
    ["abs-1801.00002v1", "two", "cs.LG", "1/2/18", "text of two"],
    ["abs-1801.00003v1", "three", "math.AG", "1/2/18", "text of three"],
    ["abs-1801.00004v1", "four", "math.AG", "1/2/18", "text of four"],
    ["abs-1801.00005v1", "five", "q-bio.PE", "1/2/18", "frogs"],
    ["abs-1801.00006v1", "", "cs.LG", "1/2/18", "no title"],
    ["abs-1801.00007v1", "seven", "no.SUCH", "1/2/18", "text of seven"],
]


def write_rows(path, rows):
    """A CSV of these columns."""
    return write_csv(path, [dict(zip(COLUMNS, row, strict=True)) for row in rows], columns=COLUMNS)


def sample_rows(model):
    """The rows of the sample by their text."""
    with model.sample.open(newline="", encoding="utf-8") as file:
        return {f"{row['title'].strip()}\n\n{row['summary'].strip()}": row for row in csv.DictReader(file)}


@pytest.fixture
def new_papers(tmp_path):
    """Forty papers that no training file can have held: ids and dates of 2031."""
    common = {"category_code": "cs.AI", "published_date": "2031-01-02"}
    return write_csv(tmp_path / "new.csv", [paper(n, id=f"abs-3101.{n:05}v1", **common) for n in range(40)])


def record_run(model, **changes):
    """Writes the `run.json` of a training on the sample."""
    data = data_record(build_corpus("top5", csv=model.sample), {"config": "top5"}) | changes
    (model.home / "run.json").write_text(json.dumps({"data": data}))


class TestRows:
    """Scored, counted or rejected: nothing else can happen to a row."""

    def test_every_row_is_accounted_for(self, model, tmp_path, capsys, caplog, monkeypatch):
        file, read = write_rows(tmp_path / "papers.csv", ROWS), []
        read_papers = papers.read_papers
        monkeypatch.setattr(
            papers, "read_papers", lambda *a, **b: read.append(read_papers(*a, **b)) or read[-1]
        )
        main(["evaluate", str(model.home), "--csv", str(file), "--out", str(tmp_path / "out")])
        assert "2 papers" in capsys.readouterr().out
        assert not (model.home / "eval").exists()
        found = json.loads((tmp_path / "out" / "metrics.json").read_text())["csv"]
        assert (found["rows_read"], found["rows_scored"]) == (7, 2)
        assert found["other_labels"] == {"math.AG": 2, "q-bio.PE": 1}
        assert sum(found["rejected"].values()) == 2
        told = "3 rows have a label that the model does not have (math.AG 2, q-bio.PE 1): not scored"
        assert told in caplog.text
        assert "2 rows cannot be used: " in caplog.text
        assert "{" not in caplog.text
        # Of a file larger than the memory only the texts to score are held.
        assert read[0].table["abstract"].null_count == 3

    def test_same_figures_as_the_split(self, model, tmp_path, monkeypatch):
        """A file with just the test papers, also when it is scored in batches."""
        rows, wanted = sample_rows(model), set(build_corpus("top5", csv=model.sample).splits["test"]["text"])
        file = write_rows(tmp_path / "test.csv", [[rows[t][c] for c in COLUMNS] for t in sorted(wanted)])
        by_split = evaluate_model(model.home, rules=False)
        monkeypatch.setattr(scored_papers, "ROWS_AT_A_TIME", 64)
        model.predictor.largest_batch = 0
        by_csv = evaluate_model(model.home, csv=file)
        assert model.predictor.largest_batch == 64
        assert by_csv["papers"] == by_split["papers"]
        for name in ("accuracy", "macro_f1", "log_loss"):
            assert by_csv["metrics"][name] == pytest.approx(by_split["metrics"][name])
        assert by_csv["csv"]["in_training_split"] == 0

    @pytest.mark.parametrize("rows", [ROWS[2:5], None])
    def test_refused(self, model, tmp_path, rows):
        """Nothing to score; a missing file, named with the option."""
        file = write_rows(tmp_path / "papers.csv", rows) if rows else tmp_path / "none.csv"
        with pytest.raises(UserError, match=r"none of its 3 rows|none\.csv: no such file.*\n.*--csv"):
            evaluate_model(model.home, csv=file)

    def test_columns_of_a_model_of_archives(self):
        """A category is its archive where the model knows only archives."""
        found = true_columns(["cs.AI", "hep-th", "math.AG", "cs.AI"], ["cs", "physics"])
        assert found.tolist() == [0, 1, -1, 0]


class TestSeenPapers:
    """Papers of the model's own training split are counted by the rule of the split."""

    def test_count_and_warning(self, model, caplog):
        corpus = build_corpus("top5", csv=model.sample)
        found = evaluate_model(model.home, csv=model.sample)["csv"]
        # The build merges versions and drops duplicates; the file's rows are counted as they stand.
        assert len(corpus.splits["train"]) <= found["in_training_split"] < found["rows_scored"]
        assert (found["in_training_split_exact"], found["training_split_not_known"]) == (False, 0)
        told = f"up to {found['in_training_split']:,} of the {found['rows_scored']:,} scored papers belong"
        assert f"{told} to the model's own training split: the figures may be too good" in caplog.text

    def test_exact_where_the_training_file_is_at_hand(self, model, new_papers, caplog):
        """Looked up paper by paper; with `max_samples` the rule alone would name most of the file."""
        with (model.home / "recipe.yaml").open("a") as file:
            file.write("  max_samples: 100\n")
        record_run(model)
        found = evaluate_model(model.home, csv=new_papers)["csv"]
        assert (found["in_training_split"], found["in_training_split_exact"]) == (0, True)
        assert "training split" not in caplog.text
        found = evaluate_model(model.home, csv=model.sample)["csv"]
        assert found["in_training_split_exact"] is True
        # Versions of one paper are rows of their own in the file.
        assert 100 <= found["in_training_split"] < 150
        told = f"{found['in_training_split']} of the {found['rows_scored']} scored papers belong"
        assert f"{told} to the model's own training split: the figures are too good" in caplog.text
        assert "up to" not in caplog.text

    @pytest.mark.parametrize(("changes", "told"), [({}, False), ({"newest_training_paper": None}, True)])
    def test_new_papers_without_the_training_file(self, model, new_papers, caplog, changes, told):
        """What came after the newest training paper was not in it; with no date on record, an upper bound."""
        record_run(model, sha256="0" * 64, **changes)
        found = evaluate_model(model.home, csv=new_papers)["csv"]
        assert found["in_training_split_exact"] is False
        assert (20 <= found["in_training_split"] <= 35) if told else found["in_training_split"] == 0
        assert (f"up to {found['in_training_split']} of the 40 scored papers" in caplog.text) == told
        assert ("training split" in caplog.text) == told

    @pytest.mark.parametrize("exact", [False, True])
    @pytest.mark.parametrize(("readable", "seen"), [("none", None), ("no column", None), ("some", 3)])
    def test_ids_that_cannot_be_read(self, model, tmp_path, caplog, exact, readable, seen):
        """They are counted and make the answer "not known", never 0."""
        if exact:
            record_run(model)
        rows, trained = sample_rows(model), build_corpus("top5", csv=model.sample).splits["train"]["text"]
        rows = [{name: rows[text][name] for name in COLUMNS} for text in trained[:8]]
        for row in rows[3 if readable == "some" else 0 :]:
            row["id"] = f"my paper {row['id']}"
        columns = COLUMNS[readable == "no column" :]
        file = write_csv(
            tmp_path / "ids.csv", [{c: row[c] for c in columns} for row in rows], columns=columns
        )
        found = evaluate_model(model.home, csv=file)["csv"]
        assert found["in_training_split"] == seen
        unknown = 8 - (seen or 0)
        assert found["training_split_not_known"] == unknown
        assert not found["in_training_split_exact"]
        told = f"{unknown} of the 8 scored papers have no arXiv id that can be read"
        assert told in caplog.text
        assert "trained on them is not known" in caplog.text

    def test_rule_of_the_split(self, model):
        """As in the build by paper; by time before the first boundary, not known without an id or a date."""
        corpus = build_corpus("top5", csv=model.sample)
        for name, expected in (("train", True), ("validation", False), ("test", False)):
            ids = np.asarray(corpus.splits[name]["arxiv_id"], dtype=object)
            found = training_papers(model.home, ids, np.full(len(ids), np.datetime64("NaT", "D")), "none.csv")
            assert (found.seen == expected).all()
            assert not found.unknown.any()
        with (model.home / "recipe.yaml").open("a") as file:
            file.write("  split: time\n  time_boundaries: ['2016-01-01', '2018-01-01']\n")
        ids = np.asarray(["1", "2", "", "4"], dtype=object)
        days = np.asarray(["2015-01-01", "2017-01-01", "2015-01-01", "NaT"], dtype="datetime64[D]")
        found = training_papers(model.home, ids, days, "none.csv")
        assert found.seen.tolist() == [True, False, False, False]
        assert found.unknown.tolist() == [False, False, True, True]

    def test_texts_and_categories_are_enough(self, model, tmp_path, caplog):
        """Without dates there are no slices by year, without a recipe the seen papers are not known."""
        caplog.set_level(logging.WARNING)
        (model.home / "recipe.yaml").unlink()
        path = tmp_path / "bare.csv"
        path.write_text("title,summary,category_code\na,b,cs.AI\nc,d,cs.CL\n", encoding="utf-8")
        found = evaluate_model(model.home, csv=path, out=tmp_path / "out")
        assert (found["papers"], found["slices"]["year"]) == (2, {})
        assert not (tmp_path / "out" / "accuracy_by_year.png").exists()
        assert found["csv"]["in_training_split"] is None
        assert "no recipe.yaml: whether it was trained on these papers is not known" in caplog.text
