"""`arxiv-cls data stats`: figures that can be counted by hand, and plots that are really there."""

from __future__ import annotations

import datetime
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from arxiv_cls.corpus.stats import describe, write_plots
from arxiv_cls.errors import UserError

FEATURES = Features(
    {"text": Value("string"), "label": ClassLabel(names=["cs.AI", "cs.CL"]), "published": Value("date32")}
)


def split(*rows: tuple[str, int, int]) -> Dataset:
    """Rows of text, label, year."""
    columns = {
        "text": [row[0] for row in rows],
        "label": [row[1] for row in rows],
        "published": [datetime.date(row[2], 5, 1) for row in rows],
    }
    return Dataset.from_dict(columns, features=FEATURES)


def corpus(**splits: Dataset) -> SimpleNamespace:
    return SimpleNamespace(
        splits=DatasetDict(splits), labels=["cs.AI", "cs.CL"], report=SimpleNamespace(config="top5")
    )


@pytest.fixture
def statistics():
    return describe(
        corpus(
            train=split(("one two\n\nthree", 0, 1999), ("a b c d e", 1, 2001), ("a", 1, 2001)),
            validation=split(("x y", 1, 2002)),
            test=split(("x y z w", 0, 1999)),
        )
    )


class TestCounts:
    """Counted by hand on five papers."""

    def test_labels(self, statistics):
        assert {name: counts.tolist() for name, counts in statistics.counts.items()} == {
            "train": [1, 2],
            "validation": [0, 1],
            "test": [1, 0],
        }

    def test_years_without_gaps(self, statistics):
        assert statistics.years.tolist() == [1999, 2000, 2001, 2002]
        assert statistics.by_year.tolist() == [[2, 0], [0, 0], [0, 2], [0, 1]]
        assert statistics.split_by_year["train"].tolist() == [1, 0, 2, 0]

    def test_words_of_title_and_abstract(self, statistics):
        assert statistics.words["train"].tolist() == [3, 5, 1]

    def test_no_papers(self):
        with pytest.raises(UserError, match="no papers"):
            describe(corpus(train=split(), validation=split(), test=split()))


class TestScreen:
    """Aligned tables."""

    def test_tables_are_aligned_and_sum_up(self, statistics):
        tables = statistics.summary().split("\n\n")
        assert len(tables) == 3
        for table in tables:
            assert len({len(line) for line in table.splitlines()}) == 1, table
        assert tables[0].splitlines()[-1].split() == ["all", "3", "1", "1", "5", "100.0%"]
        assert tables[1].splitlines()[1].split() == ["1999", "1", "0", "1", "2"]
        assert tables[2].splitlines()[1].split()[:3] == ["train", "3.0", "1"]


class TestPlots:
    """Three pictures with something on them, for few labels and for many."""

    @pytest.mark.parametrize("labels", [2, 30])
    def test_pictures(self, labels, tmp_path):
        from matplotlib.image import imread

        names = [f"x.{number:02d}" for number in range(labels)]
        rows = Dataset.from_dict(
            {
                "text": ["word " * (number + 1) for number in range(labels)],
                "label": list(range(labels)),
                "published": [datetime.date(1990 + number, 1, 1) for number in range(labels)],
            },
            features=Features({**FEATURES, "label": ClassLabel(names=names)}),
        )
        described = describe(
            SimpleNamespace(splits={"train": rows}, labels=names, report=SimpleNamespace(config="all"))
        )
        paths = write_plots(described, tmp_path / "new" / "folder")
        assert [path.name for path in paths] == ["labels.png", "years.png", "words.png"]
        for path in paths:
            picture = imread(path)
            assert min(picture.shape[:2]) > 200
            assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 10

    def test_folder_that_cannot_be_written(self, statistics, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot write into"):
            write_plots(statistics, tmp_path / "file")
