"""The build: features, splits, label sets, report, cache, and what stops it."""

import dataclasses
import json
from datetime import date

import datasets
import pyarrow as pa
import pytest
from factories import COUNT, paper, papers, write_csv

from arxiv_cls.corpus import build_corpus, load_arxiv
from arxiv_cls.corpus.builder import ArxivBuilder
from arxiv_cls.corpus.ids import split_position
from arxiv_cls.corpus.splits import SPLITS, label_names
from arxiv_cls.corpus.taxonomy import ARCHIVES
from arxiv_cls.errors import UserError
from arxiv_cls.label_sets import LABEL_SETS

TOP5 = ["cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"]


def ids(splits):
    """Base ids per split."""
    return {split: list(splits[split]["arxiv_id"]) for split in SPLITS}


class TestSplits:
    """What the three datasets hold."""

    def test_features(self, csv, tmp_path):
        """Names and types, and the text put together from title and abstract."""
        splits = load_arxiv(csv=csv, cache_dir=tmp_path / "cache")
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
        places = sorted((split_position(f"1501.{n:05d}", 42), f"1501.{n:05d}") for n in range(COUNT))
        ends = {"train": (0, 0.70), "validation": (0.70, 0.85), "test": (0.85, 1)}
        assert ids(build(csv=csv).splits) == {
            split: [base for place, base in places if low <= place < high]
            for split, (low, high) in ends.items()
        }

    def test_row_order_does_not_matter(self, csv, build, tmp_path):
        """A file turned around gives the same rows in the same order."""
        turned = build(csv=write_csv(tmp_path / "turned.csv", papers(COUNT)[::-1])).splits
        assert all(turned[split].to_list() == rows.to_list() for split, rows in build(csv=csv).splits.items())

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
        newer = [paper(7, id="abs-1501.00007v3", title="Newest"), paper(7, id="abs-1501.00007v2")]
        corpus = build(csv=write_csv(tmp_path / "p.csv", [*papers(COUNT), *newer]))
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
        """What a person reads: rows, labels, splits; the same from the cache."""
        corpus = build(csv=csv)
        summary = corpus.report.summary()
        assert "200 rows read" in summary
        assert "split by paper, seed 42" in summary
        (row,) = [line.split() for line in summary.splitlines() if line.startswith("stat.ML")]
        assert [int(number) for number in row[1:]] == [
            sum(label == 4 for label in corpus.splits[split]["label"]) for split in SPLITS
        ]
        again = build(csv=csv)
        assert (again.report, again.data) == (corpus.report, corpus.data)
        assert again.data.rows == COUNT


class TestConfigs:
    """Label sets other than top5."""

    def test_top6_takes_its_labels_from_the_file(self, build, tmp_path):
        """Features name what the file has, before and after the cache."""
        rows = papers(150) + [paper(500 + n, category_code="math.LO") for n in range(60)]
        path = write_csv(tmp_path / "p.csv", rows)
        for _ in range(2):
            corpus = build("top6", csv=path)
            assert corpus.labels == ["cs.AI", "cs.CL", "cs.CV", "cs.LG", "math.LO", "stat.ML"]
            counts = corpus.report.splits["train"]
            few = ", ".join(f"{label} {n}" for label, n in counts.items() if n < 20)
            assert few
            assert "math.LO" not in few
            warning = f"\n\nwarning: labels with fewer than 20 training papers: {few}"
            assert corpus.report.summary().endswith(warning)
            assert corpus.splits["test"].features["label"].names == corpus.labels
        with pytest.raises(UserError, match="config 'top7': the file has 6 categories for it, it needs 7"):
            build("top7", csv=path)

    @pytest.mark.parametrize(
        ("config", "codes", "absent"),
        [("top5", [*TOP5[:4], "math.LO"], "stat.ML of top5"), ("archive", TOP5, "econ, eess, math, physics")],
    )
    def test_a_label_without_papers(self, build, tmp_path, config, codes, absent):
        """No model can learn it: it is named, and what to do."""
        rows = [paper(number, category_code=codes[number % 5]) for number in range(COUNT)]
        with pytest.raises(UserError, match=f"no paper of the file has the label {absent}"):
            build(config, csv=write_csv(tmp_path / "p.csv", rows))

    def test_a_new_label_set_is_one_entry(self, monkeypatch, build, csv):
        """Of `LABEL_SETS`: it builds, and a wrong name lists it."""
        robots = dataclasses.replace(LABEL_SETS["top5"], description="two", labels=("cs.CV", "cs.LG"))
        monkeypatch.setitem(LABEL_SETS, "two", robots)
        corpus = build("two", csv=csv)
        assert (corpus.labels, corpus.report.papers) == (["cs.CV", "cs.LG"], 80)
        with pytest.raises(UserError, match=r"'top1' is none of .* all, or top<N>"):
            build("top1", csv=csv)

    SUBJECTS = ("AG", "AT", "CA", "CO", "DG", "GT", "NA", "NT", "PR")

    @pytest.mark.parametrize(
        ("config", "counts", "labels"),
        [
            ("top5", {"math.AG": 9}, TOP5),
            ("archive", {"math.AG": 9}, list(ARCHIVES)),
            # Ten of twelve: the tie at the edge goes by code.
            ("top10", {f"math.{s}": 20 for s in SUBJECTS} | dict.fromkeys(("cs.RO", "cs.AR", "cs.DB"), 5),
             ["cs.AR", *[f"math.{s}" for s in SUBJECTS]]),
            ("all", {"cs.CV": 300, "cs.CL": 99, "cs.AI": 100}, ["cs.AI", "cs.CV"]),
        ],
    )  # fmt: skip
    def test_labels(self, config, counts, labels):
        """Fixed sets do not depend on the file, the others are in the order of codes."""
        assert label_names(config, codes(counts)) == labels

    def test_too_few_categories(self):
        """One category is nothing to classify."""
        with pytest.raises(UserError, match="1 categories"):
            label_names("all", codes({"cs.AI": 100, "cs.CL": 99}))


def codes(counts):
    """As many papers of each category."""
    return pa.chunked_array([[name for name, count in counts.items() for _ in range(count)]], pa.string())


def test_quiet(build, csv, capfd):
    """No progress bars where no person looks."""
    build(csv=csv)
    assert capfd.readouterr() == ("", "")


class TestCache:
    """Keyed by content and options, never by path."""

    def test_edited_file_is_built_again(self, build, csv):
        """Same path, same size: the new rows come, and the old ones when the old content is back."""
        before = csv.read_bytes()
        old = build(csv=csv)
        csv.write_bytes(before.replace(b"0th problem", b"0th riddles", 1))
        new = build(csv=csv)
        assert new.data.sha256 != old.data.sha256
        assert any("0th riddles" in text for split in SPLITS for text in new.splits[split]["text"])
        csv.write_bytes(before)
        again = build(csv=csv)
        assert again.cache_dir == old.cache_dir
        assert not any("riddles" in text for split in SPLITS for text in again.splits[split]["text"])

    def test_moved_file_is_not_built_again(self, build, csv, tmp_path, monkeypatch):
        """The same content under another name comes from the cache, under its new name."""
        first = build(csv=csv)
        moved = csv.rename(tmp_path / "moved.csv")
        monkeypatch.setattr("arxiv_cls.corpus.builder.read_papers", None)  # a build would call it
        second = build(csv=moved)
        assert second.cache_dir == first.cache_dir
        assert second.data.csv == str(moved)

    def test_options_have_caches_of_their_own(self, build, csv):
        """Whatever changes the splits changes the key; the version of the code is part of it."""
        corpora = [build(csv=csv), build(csv=csv, seed=1), build(csv=csv, split="time"),
                   build(csv=csv, max_samples=8), build("top4", csv=csv)]  # fmt: skip
        assert len({corpus.cache_dir for corpus in corpora}) == len(corpora)
        assert all(corpus.cache_dir.name == str(ArxivBuilder.VERSION) for corpus in corpora)

    def test_a_build_that_fails_leaves_nothing(self, build, csv, tmp_path, monkeypatch):
        """A disk that is full in the middle: one message, and the next build starts clean."""

        def full(self, split):
            yield 0, split.table(slice(0, 1))
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(ArxivBuilder, "_generate_tables", full)
            with pytest.raises(UserError, match="No space left"):
                build(csv=csv)
        assert not list((tmp_path / "cache").rglob("*.arrow"))
        assert build(csv=csv).report.papers == COUNT


class TestRefused:
    """What stops a build, in one message."""

    def test_more_than_two_percent_rejected(self, build, tmp_path):
        """The first rejects are shown, all are in a file; two percent exactly are let through."""
        bad = [paper(900 + n, category_code="x.Y") for n in range(5)]
        path = write_csv(tmp_path / "p.csv", papers(COUNT) + bad)
        with pytest.raises(UserError, match=r"5 of 205 rows cannot be used \(2.4%") as error:
            build(csv=path)
        assert "line 202: category_code: unknown category: 'x.Y'" in error.value.message
        (listed,) = (tmp_path / "cache").glob("rejects-*.csv")
        assert str(listed) in error.value.hint
        assert len(listed.read_text().splitlines()) == 6
        fine = write_csv(tmp_path / "fine.csv", papers(245) + bad)
        assert build(csv=fine).report.rejected == 5

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"near_duplicates": "some"}, "near_duplicates: 'some' is unknown"),
            ({"split": "row"}, "data.split: 'row'"),
            ({"max_samples": 3}, "data.max_samples: 3"),
            ({"max_samples": -1}, "data.max_samples: -1"),
            ({"split": "time", "time_boundaries": ["2019-01-01", "2018-01-01"]}, "not before"),
            ({"time_boundaries": ["2018-01-01", "2019-01-01"]}, "only for data.split: time"),
            ({"split": "time", "time_boundaries": ["1990-01-01", "1991-01-01"]}, "split 'train'"),
        ],
    )
    def test_wrong_option(self, build, csv, options, message):
        """The key is named."""
        with pytest.raises(UserError, match=message):
            build(csv=csv, **options)

    def test_no_rows(self, build, tmp_path):
        """A header alone."""
        with pytest.raises(UserError, match="a header and no rows"):
            build(csv=write_csv(tmp_path / "p.csv", []))

    def test_default_csv_is_missing(self, build, tmp_path, monkeypatch):
        """The message says how to get the data."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match="data/raw/arxiv") as error:
            build()
        assert "make data" in error.value.hint
        assert "data/sample/arxiv_sample.csv" in error.value.hint

    def test_cache_cannot_be_written(self, csv, tmp_path):
        """A file where the folder should be."""
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot be written") as error:
            build_corpus(csv=csv, cache_dir=tmp_path / "file" / "cache")
        assert "HF_DATASETS_CACHE" in error.value.hint
