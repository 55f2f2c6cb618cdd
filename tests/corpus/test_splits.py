"""Holds the two ways to split: by hash of the paper, by date."""

from datetime import date

import numpy as np
import pytest

from arxiv_cls.corpus.splits import (
    SPLITS,
    parse_time_boundaries,
    split_by_paper,
    split_by_time,
    split_positions,
)
from arxiv_cls.errors import UserError


def test_thresholds():
    """u < 0.70 trains, u < 0.85 validates, the rest tests."""
    positions = np.array([0.0, 0.6999999, 0.70, 0.8499999, 0.85, 0.9999999])
    assert [SPLITS[n] for n in split_by_paper(positions)] == [
        "train", "train", "validation", "validation", "test", "test",
    ]  # fmt: skip


def test_shares():
    """About 70 / 15 / 15 of many papers, and another seed gives other splits."""
    bases = [f"1501.{n:05d}" for n in range(20000)]
    first = split_by_paper(split_positions(bases, 42))
    assert np.bincount(first) / len(bases) == pytest.approx([0.70, 0.15, 0.15], abs=0.01)
    assert (first != split_by_paper(split_positions(bases, 43))).any()


def test_a_paper_stays_when_the_file_grows():
    """The split of a paper depends on nothing but the paper and the seed."""
    bases = [f"1501.{n:05d}" for n in range(100)]
    alone = dict(zip(bases, split_by_paper(split_positions(bases, 42)).tolist(), strict=True))
    more = [f"1502.{n:05d}" for n in range(50)] + bases[::-1]
    together = dict(zip(more, split_by_paper(split_positions(more, 42)).tolist(), strict=True))
    assert all(together[base] == split for base, split in alone.items())


def test_by_time():
    """The boundary day itself belongs to the later split."""
    days = np.array(["2018-07-14", "2018-07-15", "2019-02-14", "2019-02-15"], dtype="datetime64[D]")
    splits = split_by_time(days, parse_time_boundaries(None))
    assert [SPLITS[n] for n in splits] == ["train", "validation", "validation", "test"]


def test_boundaries():
    """Strings and dates both do."""
    expected = (date(2010, 1, 1), date(2011, 1, 1))
    assert parse_time_boundaries(["2010-01-01", "2011-01-01"]) == expected
    assert parse_time_boundaries(expected) == expected


@pytest.mark.parametrize(
    "boundaries",
    [["2011-01-01", "2010-01-01"], ["2010-01-01", "2010-01-01"], ["2010-01-01"], "2010-01-01", ["x", "y"],
     ["2010-02-30", "2011-01-01"], [2010, 2011]],
)  # fmt: skip
def test_wrong_boundaries(boundaries):
    """Two dates in order or one message."""
    with pytest.raises(UserError, match="time_boundaries"):
        parse_time_boundaries(boundaries)
