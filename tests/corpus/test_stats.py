"""`arxiv-cls data build|check|stats|diff`: figures that can be counted by hand, plots, records, reports."""

from __future__ import annotations

import datetime
import json
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from factories import COUNT, LABELS, paper, papers, write_csv

from arxiv_cls.cli import main
from arxiv_cls.corpus.builder import BuildReport
from arxiv_cls.corpus.stats import (
    DataDiff,
    compare_corpora,
    counts_by,
    paper_table,
    summary,
    write_plots,
)
from arxiv_cls.errors import UserError


def corpus(names: list[str], **splits: list[tuple[str, int, int]]) -> SimpleNamespace:
    """A corpus of (text, label, year) rows."""
    kinds = {"text": Value("string"), "label": ClassLabel(names=names), "published": Value("date32")}
    tables = {}
    for split, rows in splits.items():
        columns = {"text": [row[0] for row in rows], "label": [row[1] for row in rows]}
        columns["published"] = [datetime.date(row[2], 5, 1) for row in rows]
        columns["arxiv_id"] = [f"{split}{number}" for number in range(len(rows))]
        tables[split] = Dataset.from_dict(columns, Features(kinds | {"arxiv_id": Value("string")}))
    return SimpleNamespace(
        splits=DatasetDict(tables), labels=names, report=SimpleNamespace(config="top5"), cache_dir=None
    )


@pytest.fixture
def five():
    """Five papers in three splits."""
    train = [("one two\n\nthree", 0, 1999), ("a b c d e", 1, 2001), ("a", 1, 2001)]
    made = corpus(["cs.AI", "cs.CL"], train=train, validation=[("x y", 1, 2002)], test=[("x y z w", 0, 1999)])
    return paper_table(made)


class TestStats:
    """`data stats`."""

    def test_counts(self, five):
        """By label and by year without gaps."""
        assert counts_by(five, "label").to_dict("list") == {
            "train": [1, 2],
            "validation": [0, 1],
            "test": [1, 0],
        }
        years = counts_by(five, "year")
        assert years.index.tolist() == [1999, 2000, 2001, 2002]
        assert years["train"].tolist() == [1, 0, 2, 0]
        assert five["words"].tolist() == [3, 5, 1, 2, 4]

    def test_tables_are_aligned_and_sum_up(self, five):
        """Labels, years, words."""
        tables = summary(five).split("\n\n")
        assert len(tables) == 3
        for table in tables:
            assert len({len(line) for line in table.splitlines()}) == 1, table
        assert tables[0].splitlines()[-1].split() == ["all", "3", "1", "1", "5", "100.0%"]
        assert tables[1].splitlines()[1].split() == ["1999", "1", "0", "1", "2"]
        assert tables[2].splitlines()[1].split()[:3] == ["train", "3.0", "1"]

    @pytest.mark.parametrize("labels", [2, 30])
    def test_plots(self, labels, tmp_path):
        """Three pictures with something on them, for few labels and for many."""
        from matplotlib.image import imread

        names = [f"x.{number:02d}" for number in range(labels)]
        rows = [("word " * (number + 1), number, 1990 + number) for number in range(labels)]
        paths = write_plots(paper_table(corpus(names, train=rows)), "all", tmp_path / "new" / "folder")
        assert [path.name for path in paths] == ["labels.png", "years.png", "words.png"]
        for path in paths:
            picture = imread(path)
            assert min(picture.shape[:2]) > 200
            assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 10


@pytest.fixture
def compare(tmp_path, build, csv):
    """Compares the 200 papers of the fixture with the rows given."""

    def run(rows: list[dict[str, str]]) -> DataDiff:
        return compare_corpora(build(csv=csv), build(csv=write_csv(tmp_path / "new papers.csv", rows)))

    return run


def report(splits: dict[str, dict[str, int]], **changes: object) -> BuildReport:
    """A report with these counts and nothing else of note."""
    values = {"config": "top5", "split": "paper", "seed": 42, "time_boundaries": None, "rows_read": 100,
              "rejected": 0, "rejected_by_reason": {}, "rejects_file": None, "merged": 0, "outside_config": 0,
              "duplicates": [], "near_duplicates": [], "left_out": 0, "splits": splits}  # fmt: skip
    return BuildReport(**values | changes)


class TestDiff:
    """`data diff`: papers are compared by their base id, labels with what chance gives."""

    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            (papers(COUNT)[::-1], ({}, {}, 0, 0, 0)),
            (papers(COUNT + 50), (dict.fromkeys(LABELS, 10), {}, 0, 0, 0)),
            # Another label; a newer version with another text is the same paper.
            ([paper(0, category_code="cs.LG"), paper(1, id="abs-1501.00001v2", summary="A new abstract."),
              *papers(COUNT)[2:]], ({}, {}, 0, 1, 1)),
        ],
        ids=["other order", "new rows", "changed rows"],
    )  # fmt: skip
    def test_papers(self, compare, rows, expected):
        """What came, went, moved, got another label or another text."""
        diff = compare(rows)
        assert (diff.added, diff.gone, diff.moved, diff.relabelled, diff.rewritten) == expected
        assert diff.warnings() == []
        added = sum(diff.added.values())
        markdown = diff.markdown()
        assert "Nothing that needs a closer look." in markdown
        assert f"| rows read | 200 | {200 + added} | +{added} |" in markdown
        assert f"Papers: {added} new, 0 gone, {diff.relabelled} with another label," in markdown

    def test_lost_test_papers_are_a_warning(self, compare, build, csv):
        """A smaller test split is not the one that released models were measured on."""
        lost = set(build(csv=csv).splits["test"]["arxiv_id"][:3])
        diff = compare([row for row in papers(COUNT) if row["id"][4:-2] not in lost])
        assert diff.gone["test"] == 3
        assert any(warning.startswith("Papers that leave the test split: 3;") for warning in diff.warnings())

    @pytest.mark.parametrize(
        ("added", "expected"),
        [
            # Old 3:1, 100 new 1:1; chance: sqrt(2 * 0.75 * 0.25 / (100 pi)).
            ({"a": 50, "b": 50}, (0.25, 0.034549)),
            ({"a": 30, "b": 10}, (0.0, 0.054627)),
            ({}, (0.0, 0.0)),
        ],
    )
    def test_label_shift_by_hand(self, added, expected):
        """Distance of the new papers' labels from the old mix, and the one to expect by chance."""
        old = report({"train": {"a": 75, "b": 25}})
        assert DataDiff(old, old, added=added).label_shift() == pytest.approx(expected, abs=1e-6)

    def test_warnings(self):
        """A mix of labels that moved, labels that come and go, rejects and papers in another split."""
        old = report({"train": {"a": 75, "b": 25}})
        assert DataDiff(old, old, added={"a": 30, "b": 10}).warnings() == []
        (warning,) = DataDiff(old, old, added={"b": 40}).warnings()
        assert "another mix of labels: distance 0.750" in warning
        first, second = report({"test": {"a": 2, "b": 2}}), report({"test": {"b": 2, "c": 2}})
        (warning,) = DataDiff(first, second).warnings()
        assert "without a and with c" in warning
        counts = {"train": {"a": 2}}
        diff = DataDiff(report(counts, rejected=1), report(counts, rejected=2), moved=1)
        expected = ["Papers that change their split: 1.", "More rows are rejected: 2.00% after 1.00%."]
        assert diff.warnings() == expected


class TestCommands:
    """As a person types them, on the sample."""

    @pytest.fixture(autouse=True)
    def own_cache(self, tmp_path, monkeypatch):
        """A cache of the test's own."""
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def test_check_and_build(self, sample_csv, tmp_path, capsys):
        """The report, the near-duplicates that the sample holds, and both as records."""
        record = tmp_path / "new" / "record.json"
        options = ["--csv", str(sample_csv), "--out", str(record)]
        main(["data", "check", "--show", "1", *options])
        checked, counts = capsys.readouterr().out, json.loads(record.read_text())
        main(["data", "build", *options])
        built, splits = capsys.readouterr().out, json.loads(record.read_text())
        assert "925 rows read" in built
        assert checked.startswith(built)
        assert "near-duplicate pairs across splits" in checked
        parts = ("rejected", "merged", "outside_config", "duplicates", "left_out", "papers")
        assert counts["rows_read"] == sum(counts[part] for part in parts) == 925
        assert counts["near_duplicates"]["threshold"] == 0.8
        assert counts["near_duplicates"]["pairs"]["train and test"] > 0
        assert sum(splits["papers"]["train"].values()) == 506
        assert list(record.parent.iterdir()) == [record]

    def test_stats(self, sample_csv, tmp_path, capsys):
        """Tables, then the paths of the plots; a file in the way is one error."""
        command = ["data", "stats", "--csv", str(sample_csv), "--config", "archive", "--out"]
        main([*command, str(tmp_path / "plots")])
        out = capsys.readouterr().out
        assert "words per paper" in out
        names = ("labels", "years", "words")
        assert out.splitlines()[-3:] == [str(tmp_path / "plots" / f"{name}.png") for name in names]
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot write into"):
            main([*command, str(tmp_path / "file")])

    def test_diff(self, csv, tmp_path, capsys):
        """The same Markdown to the screen and to a file; below a file or where a folder is: one error."""
        new, out = write_csv(tmp_path / "new.csv", papers(COUNT + 10)), tmp_path / "report.md"
        command = ["data", "diff", str(csv), str(new)]
        main(command)
        main([*command, "--out", str(out)])
        assert capsys.readouterr().out == out.read_text()
        assert out.read_text().startswith("## Data report, label set top5\n")
        for path, reason in ((out / "report.md", "cannot write "), (tmp_path, ".*is a directory")):
            with pytest.raises(UserError, match=reason):
                main([*command, "--out", str(path)])

    def test_options_that_exclude_each_other(self):
        """A remote and Kaggle."""
        with pytest.raises(UserError, match="Kaggle as the source"):
            main(["data", "fetch", "--source", "kaggle", "--remote", "somewhere"])
