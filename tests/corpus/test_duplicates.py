"""Which texts count as the same or almost the same, and which copy goes."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pyarrow as pa
import pytest
from factories import COUNT, papers, write_csv

from arxiv_cls.corpus import duplicates
from arxiv_cls.corpus.duplicates import find_duplicates, normalise, search
from arxiv_cls.corpus.ids import split_position
from arxiv_cls.corpus.splits import SPLITS
from arxiv_cls.corpus.stats import find_near_duplicates
from arxiv_cls.errors import UserError

TRAIN, VALIDATION, TEST = 0, 1, 2
WORDS = [f"word{number}" for number in range(400)]


class TestExact:
    """The same normalised title and abstract under different ids."""

    @pytest.mark.parametrize(
        ("text", "same"),
        [
            ("  Deep   Learning:\n a Survey. ", "deep learning a survey"),
            ("STRASSE", "straße"),
            ("ﬁne-tuning x²", "Fine Tuning x2"),
            ("Poincar\u00e9", "POINCARE\u0301"),
            ("snake_case", "snake case"),
        ],
    )
    def test_same(self, text, same):
        """Case, white space, punctuation, ligatures and the spelling of accents do not tell texts apart."""
        assert normalise(text) == normalise(same)

    @pytest.mark.parametrize(("one", "other"), [("part 1", "part 2"), ("resume", "résumé"), ("???", "!!!")])
    def test_different(self, one, other):
        """Words and digits do; a text of punctuation alone is itself."""
        assert normalise(one) != normalise(other)

    SAME = (("A title", "Text."), ("a TITLE", "text"), ("A  title!", "TEXT"))

    @pytest.mark.parametrize(
        ("splits", "bases", "dropped"),
        [
            ((TRAIN, TEST), "ab", {0: 1}),
            ((TEST, TRAIN), "ab", {1: 0}),
            ((TRAIN, VALIDATION), "ab", {0: 1}),
            ((TEST, VALIDATION), "ab", {1: 0}),
            ((TRAIN, TRAIN), "ab", {1: 0}),
            ((TEST, TEST, TEST), "cab", {0: 1, 2: 1}),
        ],
    )
    def test_which_copy_goes(self, splits, bases, dropped):
        """Training before validation before test; within a split the later base id, not the later row."""
        assert drop(self.SAME[: len(splits)], splits, list(bases)) == dropped

    def test_title_and_abstract_must_both_agree(self):
        """Same title with another abstract, same abstract with another title: two papers."""
        texts = [("Erratum", "first"), ("Erratum", "second"), ("Other", "first")]
        assert drop(texts, (TRAIN, TEST, TEST), list("abc")) == {}


def drop(texts, splits, bases):
    """Duplicates of (title, abstract) pairs."""
    titles, abstracts = (pa.chunked_array([[pair[side] for pair in texts]]) for side in (0, 1))
    return find_duplicates(titles, abstracts, bases, np.array(splits, dtype=np.int8))


def text(seed: int, length: int = 80) -> str:
    """Random words."""
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
        """Pairs of different groups, the lower group first."""
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
        found = {(first, second): similar for first, second, similar in search(texts, groups, threshold)}
        assert found == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("texts", "groups", "found"),
        [
            ([text(1), text(1).upper().replace(" ", ", ")], [0, 1], [(0, 1, 1.0)]),
            ([text(1), text(1)], [2, 2], []),
            (["one two", "One two."], [0, 1], [(0, 1, 1.0)]),
            ([], [], []),
            (["", "..."], [0, 1], []),
            (["one", "one two", "two"], [0, 1, 2], []),
        ],
        ids=["punctuation", "same group", "short", "none", "empty", "different"],
    )
    def test_special_texts(self, texts, groups, found):
        """Case and punctuation do not count; short texts have shingles too."""
        assert search(texts, np.array(groups), 0.8) == found

    def test_many_copies_are_all_found_by_their_neighbours(self, monkeypatch):
        """A bucket that is too large is not compared pair by pair."""
        monkeypatch.setattr(duplicates, "LARGEST_BUCKET", 10)
        found = search([text(1)] * 50, np.arange(50) % 2, 0.8)
        assert {place for pair in found for place in pair[:2]} == set(range(50))


class TestNearDuplicates:
    """`data check` and `data.near_duplicates: drop`."""

    @pytest.fixture
    def copies(self, tmp_path):
        """A CSV with a near-duplicate between each two splits, and the ids of those that go."""
        rows = papers(COUNT)
        numbers = {name: [] for name in SPLITS}
        for number in range(COUNT):
            position = split_position(f"1501.{number:05d}", 42)
            numbers[SPLITS[0 if position < 0.70 else 1 if position < 0.85 else 2]].append(number)
        train, validation, test = (numbers[name] for name in SPLITS)
        pairs = [(train[0], validation[0]), (train[1], test[1]), (validation[2], test[2])]
        for seed, (first, second) in enumerate(pairs):
            rows[first]["summary"] = text(seed)
            rows[second]["summary"] = edited(text(seed), 1)
        return write_csv(tmp_path / "papers.csv", rows), {f"1501.{first:05d}" for first, _ in pairs}

    def test_the_copy_further_from_the_test_split_goes(self, build, copies, monkeypatch):
        """Found, counted and shown once for `data check`; dropped, training before validation before test."""
        csv, expected = copies
        kept, dropped = build(csv=csv), build(csv=csv, near_duplicates="drop")
        found = find_near_duplicates(kept)
        assert {pair.arxiv_id for pair in found.pairs} == expected
        summary = found.summary(show=2)
        assert f"3 near-duplicate pairs across splits among {COUNT} papers" in summary
        assert "1 train and test" in summary
        assert "and 1 more" in summary
        assert find_near_duplicates(kept, threshold=0.99).pairs == []
        assert find_near_duplicates(dropped).pairs == []
        ids = [{i for split in c.splits.values() for i in split["arxiv_id"]} for c in (kept, dropped)]
        assert ids[0] - ids[1] == expected
        assert kept.splits["test"]["arxiv_id"][:] == dropped.splits["test"]["arxiv_id"][:]
        report = dropped.report
        assert {d.arxiv_id for d in report.near_duplicates} == expected
        assert report.rows_read == report.papers + 3 == COUNT
        assert "1 from validation, almost the same text in test" in report.summary()
        assert "3 near-duplicates dropped" in report.line()
        monkeypatch.setattr("arxiv_cls.corpus.stats.search", None)
        assert find_near_duplicates(kept) == found
        for threshold in (-1, 0.1, 1.5):
            with pytest.raises(UserError, match="not within"):
                find_near_duplicates(kept, threshold=threshold)

    def test_a_cache_of_its_own(self, build, copies, monkeypatch):
        """Part of the key, with what decides the pairs; `keep` has the key of before."""
        csv, _ = copies
        kept, dropped = build(csv=csv, near_duplicates="keep"), build(csv=csv, near_duplicates="drop")
        assert kept.cache_dir == build(csv=csv).cache_dir != dropped.cache_dir
        monkeypatch.setattr("arxiv_cls.corpus.builder.read_papers", None)  # a build would call it
        assert build(csv=csv, near_duplicates="drop").cache_dir == dropped.cache_dir
        monkeypatch.setattr(duplicates, "VERSION", duplicates.VERSION + 1)
        with pytest.raises(TypeError):
            build(csv=csv, near_duplicates="drop")
