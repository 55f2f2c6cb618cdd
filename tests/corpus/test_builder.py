"""Holds the build: features, splits, duplicates, report."""

import json
from datetime import date

import datasets
import pytest
from factories import COLUMNS, COUNT, paper, papers, to_csv, write_csv

from arxiv_cls.corpus import load_arxiv
from arxiv_cls.corpus.ids import split_position
from arxiv_cls.corpus.splits import SPLITS

TOP5 = ["cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"]


def ids(splits):
    """Base ids per split."""
    return {split: list(splits[split]["arxiv_id"]) for split in SPLITS}


class TestSplits:
    """What the three datasets hold."""

    def test_features(self, csv, tmp_path):
        """Names and types, and the text put together from title and abstract."""
        splits = load_arxiv(csv=csv, cache_dir=tmp_path / "cache")
        assert list(splits) == list(SPLITS)
        features = splits["train"].features
        assert list(features) == ["text", "title", "abstract", "label", "arxiv_id", "published"]
        assert features["label"] == datasets.ClassLabel(names=TOP5)
        assert features["published"] == datasets.Value("date32")
        row = splits["train"][0]
        number = int(row["arxiv_id"].partition(".")[2])
        expected = paper(number)
        assert row["text"] == f"{expected['title']}\n\n{expected['summary']}"
        assert TOP5[row["label"]] == expected["category_code"]
        assert row["published"] == date(2015 + number % 5, number % 12 + 1, number % 28 + 1)

    def test_every_paper_is_where_its_hash_says(self, csv, build):
        """Each split holds exactly its papers, in hash order."""
        bases = sorted((f"1501.{n:05d}" for n in range(COUNT)), key=lambda base: split_position(base, 42))
        found = ids(build(csv=csv).splits)
        assert found["train"] == [b for b in bases if split_position(b, 42) < 0.70]
        assert found["validation"] == [b for b in bases if 0.70 <= split_position(b, 42) < 0.85]
        assert found["test"] == [b for b in bases if split_position(b, 42) >= 0.85]

    def test_row_order_does_not_matter(self, csv, build, tmp_path):
        """A file turned around gives the same rows in the same order."""
        turned = write_csv(tmp_path / "turned.csv", papers(COUNT)[::-1])
        first, second = build(csv=csv).splits, build(csv=turned).splits
        assert all(first[split].to_list() == second[split].to_list() for split in SPLITS)

    def test_by_time(self, csv, build):
        """Dates rise from split to split, and the default boundaries are recorded."""
        corpus = build(csv=csv, split="time")
        days = {split: list(corpus.splits[split]["published"]) for split in SPLITS}
        assert max(days["train"]) < date(2018, 7, 15) <= min(days["validation"])
        assert max(days["validation"]) < date(2019, 2, 15) <= min(days["test"])
        assert corpus.report.time_boundaries == ["2018-07-15", "2019-02-15"]
        moved = build(csv=csv, split="time", time_boundaries=["2016-01-01", "2017-01-01"])
        assert max(moved.splits["train"]["published"]) < date(2016, 1, 1)

    def test_max_samples(self, csv, build):
        """The first N in hash order and a quarter for the others; labels stay."""
        whole, part = build(csv=csv), build(csv=csv, max_samples=20)
        assert part.labels == TOP5
        assert {s: ids(part.splits)[s] for s in SPLITS} == {
            s: ids(whole.splits)[s][:n] for s, n in zip(SPLITS, (20, 5, 5), strict=True)
        }
        assert part.report.left_out == whole.report.papers - 30

    def test_versions_are_one_paper(self, build, tmp_path):
        """The newest version's text counts, and the merged rows are counted."""
        rows = [
            *papers(COUNT),
            paper(7, id="abs-1501.00007v3", title="Newest"),
            paper(7, id="abs-1501.00007v2"),
        ]
        corpus = build(csv=write_csv(tmp_path / "p.csv", rows))
        titles = [row["title"] for s in SPLITS for row in corpus.splits[s] if row["arxiv_id"] == "1501.00007"]
        assert titles == ["Newest"]
        assert (corpus.report.merged, corpus.report.papers) == (2, COUNT)

    def test_test_split_keeps_its_papers_when_training_grows(self, csv, build, tmp_path):
        """Training copies of test texts are dropped, test copies never."""
        before = ids(build(csv=csv).splits)["test"]
        bases = [f"1502.{n:05d}" for n in range(400)]
        train = [base for base in bases if split_position(base, 42) < 0.70][: len(before)]
        copies = [
            paper(int(of.partition(".")[2]), id=f"abs-{base}v1")
            for of, base in zip(before, train, strict=True)
        ]
        after = build(csv=write_csv(tmp_path / "more.csv", papers(COUNT) + copies))
        assert ids(after.splits)["test"] == before
        assert not set(train) & set(ids(after.splits)["train"])
        assert {(d.split, d.same_as_split) for d in after.report.duplicates} == {("train", "test")}
        assert len(after.report.duplicates) == len(before)


class TestReport:
    """Every row is accounted for."""

    def test_sums(self, build, tmp_path):
        """Rows read = rejected + merged + outside + duplicates + left out + papers."""
        outside = [paper(500 + n, category_code="math.LO") for n in range(9)]
        rows = [*papers(COUNT), *outside, paper(1, id="abs-1501.00001v2"), paper(2, id="abs-1502.00002v1"),
                paper(600, published_date="x"), paper(601, title="")]  # fmt: skip
        corpus = build(csv=write_csv(tmp_path / "p.csv", rows))
        report = corpus.report
        assert (report.rows_read, report.rejected, report.merged, report.outside_config) == (213, 2, 1, 9)
        assert len(report.duplicates) == 1
        assert report.papers == 200
        assert report.split_sizes() == {split: corpus.splits[split].num_rows for split in SPLITS}
        assert report.rejected_by_reason == {
            "published_date: unreadable date": 1,
            "title: missing or empty": 1,
        }
        assert (corpus.cache_dir / "rejects.csv").read_text().splitlines()[1:] == [
            "213,published_date,unreadable date,x",
            "214,title,missing or empty,",
        ]
        assert json.loads((corpus.cache_dir / "report.json").read_text())["report"]["papers"] == 200

    def test_summary(self, build, csv):
        """What a person reads: rows, labels, splits."""
        corpus = build(csv=csv)
        summary = corpus.report.summary()
        assert "200 rows read" in summary
        assert "split by paper, seed 42" in summary
        (row,) = [line.split() for line in summary.splitlines() if line.startswith("stat.ML")]
        assert [int(number) for number in row[1:]] == [
            sum(label == 4 for label in corpus.splits[split]["label"]) for split in SPLITS
        ]

    def test_comes_back_from_the_cache(self, build, csv):
        """The second call has the same report and data version."""
        first, second = build(csv=csv), build(csv=csv)
        assert first.report == second.report
        assert first.data == second.data
        assert first.data.rows == COUNT


class TestConfigs:
    """Label sets other than top5."""

    def test_top10_takes_its_labels_from_the_file(self, build, tmp_path):
        """Features name what the file has, before and after the cache."""
        rows = papers(150) + [paper(500 + n, category_code="math.LO") for n in range(60)]
        path = write_csv(tmp_path / "p.csv", rows)
        for _ in range(2):
            corpus = build("top10", csv=path)
            assert corpus.labels == ["cs.AI", "cs.CL", "cs.CV", "cs.LG", "math.LO", "stat.ML"]
            assert corpus.splits["test"].features["label"].names == corpus.labels

    def test_archive(self, build, csv):
        """cs.LG becomes cs, stat.ML becomes stat."""
        corpus = build("archive", csv=csv)
        names = [corpus.labels[label] for label in corpus.splits["train"]["label"]]
        assert set(names) == {"cs", "stat"}
        assert corpus.report.papers == COUNT

    @pytest.mark.parametrize(
        "columns",
        [COLUMNS, tuple(c for c in COLUMNS if c != "category_code")],
    )
    def test_codes_or_names(self, build, tmp_path, columns):
        """A file without codes gives the same labels."""
        path = tmp_path / "p.csv"
        path.write_bytes(to_csv(papers(COUNT), columns))
        assert build(csv=path).splits["train"]["label"][:] == self.labels(build, tmp_path)

    def labels(self, build, tmp_path):
        """Training labels of the file with codes."""
        return build(csv=write_csv(tmp_path / "with.csv", papers(COUNT))).splits["train"]["label"][:]


def test_quiet(build, csv, capfd):
    """No progress bars where no person looks."""
    build(csv=csv)
    assert capfd.readouterr() == ("", "")
