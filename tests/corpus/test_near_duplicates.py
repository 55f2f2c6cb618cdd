"""Near-duplicates across splits: found exactly, the training copy named, the search not repeated."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from factories import COUNT, papers, write_csv

from arxiv_cls.corpus import duplicates as near_duplicates
from arxiv_cls.corpus.builder import BuildReport
from arxiv_cls.corpus.duplicates import find_near_duplicates, normalise, search
from arxiv_cls.corpus.ids import split_position
from arxiv_cls.corpus.splits import SPLITS
from arxiv_cls.errors import UserError

WORDS = [f"word{number}" for number in range(400)]


def text(seed: int, length: int = 80) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def edited(original: str, changes: int, seed: int = 0) -> str:
    """The text with some of its words replaced."""
    words = original.split()
    for place in random.Random(seed).sample(range(len(words)), changes):
        words[place] = f"new{place}"
    return " ".join(words)


def jaccard(left: str, right: str) -> float:
    """By the definition: sets of three-word windows, two blanks behind the text."""
    sets = []
    for one in (left, right):
        words = [*normalise(one).split(), "", ""]
        sets.append(set(zip(words, words[1:], words[2:], strict=False)))
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


class TestSearch:
    """What is reported is what comparing every pair by the definition gives."""

    @pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
    def test_agrees_with_comparing_every_pair(self, threshold):
        originals = [text(seed) for seed in range(40)]
        texts = originals + [edited(one, seed % 9, seed) for seed, one in enumerate(originals)]
        groups = np.array([seed % 3 for seed in range(80)])
        expected = {}
        for first, second in itertools.combinations(range(80), 2):
            similarity = jaccard(texts[first], texts[second])
            if groups[first] != groups[second] and similarity >= threshold:
                pair = (first, second) if groups[first] < groups[second] else (second, first)
                expected[pair] = similarity
        assert len(expected) >= 5
        found = {
            (first, second): similarity for first, second, similarity in search(texts, groups, threshold)
        }
        assert found == pytest.approx(expected)

    def test_case_and_punctuation_do_not_count(self):
        original = text(1)
        assert search([original, original.upper().replace(" ", ", ")], np.array([0, 1]), 1.0) == [(0, 1, 1.0)]

    def test_same_group_is_nobody_s_business(self):
        assert search([text(1), text(1)], np.array([2, 2]), 0.8) == []

    @pytest.mark.parametrize("texts", [[], ["one"], ["", "..."], ["one", "one two", "two"]])
    def test_few_and_short_texts(self, texts):
        assert search(texts, np.arange(len(texts)), 0.8) == []

    def test_short_texts_that_agree(self):
        assert search(["one two", "One two."], np.array([0, 1]), 0.8) == [(0, 1, 1.0)]

    def test_many_copies_are_all_found_by_their_neighbours(self, monkeypatch):
        monkeypatch.setattr(near_duplicates, "LARGEST_BUCKET", 10)
        found = search([text(1)] * 50, np.arange(50) % 2, 0.8)
        assert {place for pair in found for place in pair[:2]} == set(range(50))

    def test_signature_columns_agree_as_often_as_the_sets_overlap(self):
        left, right = text(5, 300), edited(text(5, 300), 30)
        signatures = near_duplicates._signatures(*near_duplicates._shingles([left, right]))
        agreement = float((signatures[0] == signatures[1]).mean())
        # Three standard deviations of 128 draws.
        assert agreement == pytest.approx(jaccard(left, right), abs=0.13)

    @pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.99, 1.0])
    def test_bands_miss_a_pair_at_the_threshold_once_in_a_thousand(self, threshold):
        rows = near_duplicates._rows_per_band(threshold)
        bands = near_duplicates.PERMUTATIONS // rows
        assert (1 - threshold**rows) ** bands <= 0.001


@pytest.fixture
def corpus(tmp_path):
    """A corpus of three splits with one near-duplicate between each two of them."""
    splits = {
        "train": [("1", text(1)), ("2", text(2)), ("3", text(3))],
        "validation": [("4", edited(text(1), 1)), ("5", text(5))],
        "test": [("6", edited(text(2), 1)), ("7", edited(text(5), 1)), ("8", text(8))],
    }
    tables = {
        name: Dataset.from_dict({"arxiv_id": [i for i, _ in rows], "text": [t for _, t in rows]})
        for name, rows in splits.items()
    }
    return SimpleNamespace(splits=DatasetDict(tables), cache_dir=tmp_path)


class TestCorpus:
    """Pairs carry their papers and splits."""

    def test_pairs(self, corpus):
        found = find_near_duplicates(corpus)
        assert {(p.arxiv_id, p.split, p.same_as, p.same_as_split) for p in found.pairs} == {
            ("1", "train", "4", "validation"),
            ("2", "train", "6", "test"),
            ("5", "validation", "7", "test"),
        }
        assert found.papers == 8

    def test_second_call_reads_the_cache(self, corpus, monkeypatch):
        first = find_near_duplicates(corpus)
        monkeypatch.setattr(near_duplicates, "search", lambda *arguments: pytest.fail("searched again"))
        assert find_near_duplicates(corpus) == first

    def test_another_threshold_is_another_search(self, corpus):
        assert find_near_duplicates(corpus, threshold=0.99).pairs == []
        assert len(find_near_duplicates(corpus, threshold=0.8).pairs) == 3

    def test_summary_counts_and_shows(self, corpus):
        summary = find_near_duplicates(corpus).summary(show=2)
        assert "3 near-duplicate pairs across splits among 8 papers" in summary
        assert "1 train and test" in summary
        assert "and 1 more" in summary

    @pytest.mark.parametrize("threshold", [-1, 0, 0.1, 1.5])
    def test_threshold_out_of_range(self, corpus, threshold):
        with pytest.raises(UserError, match="not within"):
            find_near_duplicates(corpus, threshold=threshold)


class TestDrop:
    """`data.near_duplicates: drop`."""

    @pytest.fixture
    def copies(self, tmp_path):
        """A CSV with a near-duplicate between each two splits, and the ids by split: a, b, c of each."""
        rows = papers(COUNT)
        numbers = {name: [] for name in SPLITS}
        for number in range(COUNT):
            position = split_position(f"1501.{number:05d}", 42)
            numbers[SPLITS[0 if position < 0.70 else 1 if position < 0.85 else 2]].append(number)
        train, validation, test = (numbers[name] for name in SPLITS)
        for seed, (first, second) in enumerate(
            [(train[0], validation[0]), (train[1], test[1]), (validation[2], test[2])]
        ):
            rows[first]["summary"] = text(seed)
            rows[second]["summary"] = edited(text(seed), 1)
        names = [f"1501.{number:05d}" for number in (train[0], train[1], validation[2])]
        return write_csv(tmp_path / "papers.csv", rows), set(names)

    def test_the_copy_further_from_the_test_split_goes(self, build, copies):
        """Training before validation before test, counted and named; nothing near is left."""
        csv, expected = copies
        kept, dropped = build(csv=csv), build(csv=csv, near_duplicates="drop")
        assert len(find_near_duplicates(kept).pairs) == 3
        assert find_near_duplicates(dropped).pairs == []
        ids = [{i for split in c.splits.values() for i in split["arxiv_id"]} for c in (kept, dropped)]
        assert ids[0] - ids[1] == expected
        assert kept.splits["test"]["arxiv_id"][:] == dropped.splits["test"]["arxiv_id"][:]
        report = dropped.report
        assert {d.arxiv_id for d in report.near_duplicates} == expected
        assert report.rows_read == report.papers + 3 == COUNT
        assert "3 near-duplicates dropped" in report.summary()
        assert "1 from validation, almost the same text in test" in report.summary()
        assert "3 near-duplicates dropped" in report.line()
        assert BuildReport.from_dict(report.to_dict()) == report

    def test_a_cache_of_its_own(self, build, copies, monkeypatch):
        """Part of the key, with what decides the pairs; `keep` has the key of before."""
        csv, _ = copies
        kept, dropped = build(csv=csv, near_duplicates="keep"), build(csv=csv, near_duplicates="drop")
        assert kept.cache_dir == build(csv=csv).cache_dir != dropped.cache_dir
        monkeypatch.setattr("arxiv_cls.corpus.builder.read_papers", None)  # a build would call it
        assert build(csv=csv, near_duplicates="drop").cache_dir == dropped.cache_dir
        monkeypatch.setattr(near_duplicates, "VERSION", near_duplicates.VERSION + 1)
        with pytest.raises(TypeError):
            build(csv=csv, near_duplicates="drop")

    def test_unknown_word(self, build, copies):
        """The key is named."""
        with pytest.raises(UserError, match="near_duplicates: 'some' is unknown"):
            build(csv=copies[0], near_duplicates="some")

    def test_report_of_before(self, build, copies):
        """A cached build's report that does not know of them is read."""
        values = build(csv=copies[0]).report.to_dict()
        del values["near_duplicates"]
        assert BuildReport.from_dict(values).near_duplicates == []
