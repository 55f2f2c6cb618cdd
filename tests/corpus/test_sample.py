"""The synthetic sample: reproducible, in the real schema with its quirks, neither trivial nor hopeless."""

from __future__ import annotations

import ast
import csv
import datetime
import io
import re

import pytest

from arxiv_cls.corpus.sample import HEADER, sample_csv_bytes, write_sample
from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.errors import UserError

TOP5 = ("cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML")
REAL_COLUMNS = (
    "id,title,category,category_code,published_date,updated_date,"
    "authors,first_author,summary,summary_word_count"
)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(sample_csv_bytes().decode(), newline="")))


class TestSameBytes:
    """The committed file is what the generator writes, so nobody edits it by hand."""

    def test_committed_file_is_regenerated_byte_for_byte(self, sample_csv, tmp_path):
        write_sample(tmp_path / "sample.csv")
        assert (tmp_path / "sample.csv").read_bytes() == sample_csv.read_bytes()

    def test_seed_and_size_change_it(self):
        assert sample_csv_bytes(100, seed=1) != sample_csv_bytes(100, seed=2)
        assert len(sample_csv_bytes(200)) > len(sample_csv_bytes(100))

    def test_crlf_differs_in_line_ends_only(self):
        unix, windows = sample_csv_bytes(60), sample_csv_bytes(60, crlf=True)
        assert b"\r" not in unix
        assert windows.replace(b"\r\n", b"\n") == unix

    def test_stays_small_enough_to_commit(self, sample_csv):
        assert sample_csv.stat().st_size < 1_000_000


class TestShape:
    """Same columns and the same quirks as the real file."""

    def test_columns(self):
        assert ",".join(HEADER) == REAL_COLUMNS

    def test_both_id_styles_and_versions(self, rows):
        identifiers = [row["id"] for row in rows]
        assert any(re.fullmatch(r"abs-\d{4}\.\d{4}v1", name) for name in identifiers)
        assert any(re.fullmatch(r"abs-\d{4}\.\d{5}v1", name) for name in identifiers)
        assert any(re.fullmatch(r"cs-\d{7}v1", name) for name in identifiers)
        assert any(re.fullmatch(r"hep-th-\d{7}v\d", name) for name in identifiers)
        bases = [re.sub(r"v\d+$", "", name) for name in identifiers]
        assert len(set(identifiers)) == len(identifiers)
        assert 10 < len(bases) - len(set(bases)) < 0.15 * len(bases)

    def test_dates_are_short_and_in_order(self, rows):
        days = [datetime.datetime.strptime(row["published_date"], "%m/%d/%y").date() for row in rows]
        assert days == sorted(days)
        assert not any(re.match(r"0|\d+/0", row["published_date"]) for row in rows)
        assert days[0].year < 2000 < 2019 <= days[-1].year

    def test_categories_exist_and_carry_their_long_names(self, rows):
        assert {row["category_code"] for row in rows} <= set(CATEGORY_NAMES)
        assert dict(sorted({(row["category_code"], row["category"]) for row in rows}))["stat.ML"] == (
            "Machine Learning (Statistics)"
        )

    def test_every_author_is_labelled_synthetic(self, rows):
        for row in rows:
            authors = ast.literal_eval(row["authors"])
            assert authors
            assert all(name.startswith("Synthetic ") for name in authors)
            assert row["first_author"] == repr(authors[0])

    def test_quoted_fields_with_commas_and_doubled_quotes(self, rows):
        assert any("," in row["title"] for row in rows)
        assert any('"' in row["summary"] for row in rows)
        assert b'""' in sample_csv_bytes()

    def test_word_count_column_counts(self, rows):
        assert all(int(row["summary_word_count"]) == len(row["summary"].split()) for row in rows)


class TestDifficulty:
    """A plain linear model does well and far from perfectly."""

    @pytest.mark.parametrize("seed", [42, 7])
    def test_linear_model_lands_between(self, seed):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.svm import LinearSVC

        papers = list(csv.DictReader(io.StringIO(sample_csv_bytes(seed=seed).decode(), newline="")))
        papers = [row for row in papers if row["category_code"] in TOP5 and row["id"].endswith("v1")]
        train = [row for index, row in enumerate(papers) if index % 3]
        test = [row for index, row in enumerate(papers) if index % 3 == 0]
        vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
        features = vectorizer.fit_transform(f"{row['title']}\n\n{row['summary']}" for row in train)
        model = LinearSVC().fit(features, [row["category_code"] for row in train])
        held_out = vectorizer.transform(f"{row['title']}\n\n{row['summary']}" for row in test)
        assert 0.75 < model.score(held_out, [row["category_code"] for row in test]) < 0.93

    def test_same_text_under_two_ids(self, rows):
        texts: dict[str, set[str]] = {}
        for row in rows:
            texts.setdefault(row["title"] + row["summary"], set()).add(re.sub(r"v\d+$", "", row["id"]))
        assert sum(len(bases) > 1 for bases in texts.values()) >= 5


class TestBadInput:
    """What cannot be written says so in one line."""

    def test_too_few_papers(self):
        with pytest.raises(UserError, match="too small"):
            sample_csv_bytes(3)

    def test_folder_in_the_way(self, tmp_path):
        with pytest.raises(UserError, match="cannot write"):
            write_sample(tmp_path)
        assert not list(tmp_path.parent.glob("*.part"))
