"""Holds when a corpus is built again, and what stops a build."""

import pytest
from factories import COUNT, paper, papers, write_csv

from arxiv_cls.corpus import build_corpus
from arxiv_cls.corpus.builder import ArxivBuilder
from arxiv_cls.corpus.splits import SPLITS
from arxiv_cls.errors import UserError


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
                   build(csv=csv, max_samples=8), build("archive", csv=csv)]  # fmt: skip
        assert len({corpus.cache_dir for corpus in corpora}) == len(corpora)
        assert all(corpus.cache_dir.name == str(ArxivBuilder.VERSION) for corpus in corpora)

    def test_leftovers_of_a_killed_build_are_not_taken_along(self, build, csv, tmp_path):
        """Half-written files in the folder of an unfinished build: gone, the result is whole."""
        clean = build(csv=csv)
        home = clean.cache_dir
        expected = sorted(path.name for path in home.iterdir())
        rows = clean.splits["train"].to_list()
        unfinished = home.with_name(home.name + ".incomplete")
        del clean
        home.rename(unfinished)
        (unfinished / "arxiv-train.arrow").write_bytes(b"half")
        (unfinished / "arxiv-train-00007-of-00009.arrow").write_bytes(b"stale")
        again = build(csv=csv)
        assert again.splits["train"].to_list() == rows
        assert sorted(path.name for path in again.cache_dir.iterdir()) == expected
        assert not unfinished.exists()

    def test_a_build_that_fails_leaves_nothing(self, build, csv, tmp_path, monkeypatch):
        """A disk that is full in the middle: one message, and the next build starts clean."""

        def full(self, table):
            yield 0, table.slice(0, 1)
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
            ({"config": "top7"}, "data.config: 'top7'"),
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
