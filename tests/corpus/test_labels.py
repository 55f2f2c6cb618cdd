"""Holds the label sets of the configs."""

import pyarrow as pa
import pytest

from arxiv_cls.corpus.labels import label_indices, label_names
from arxiv_cls.corpus.taxonomy import ARCHIVES, TOP5
from arxiv_cls.errors import UserError


def codes(**counts):
    """As many papers of each category as told; `cs_AI` is cs.AI."""
    return pa.chunked_array(
        [[name.replace("_", ".") for name, count in counts.items() for _ in range(count)]], type=pa.string()
    )


def test_fixed_sets_do_not_depend_on_the_file():
    """top5 and archive are the same for every file, even where a label has no paper."""
    file = codes(math_AG=9)
    assert label_names("top5", file) == list(TOP5) == ["cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"]
    assert label_names("archive", file) == list(ARCHIVES)


def test_most_frequent_sorted_by_code():
    """Ten of twelve; the tie at the edge goes by code, labels are in the order of codes."""
    subjects = ["AG", "AT", "CA", "CO", "DG", "GT", "NA", "NT", "PR"]
    file = codes(**{f"math_{s}": 20 + n for n, s in enumerate(subjects)}, cs_RO=5, cs_AR=5, cs_DB=5)
    assert label_names("top10", file) == ["cs.AR", *[f"math.{s}" for s in subjects]]


def test_all_takes_categories_with_a_hundred_papers():
    """99 are too few."""
    assert label_names("all", codes(cs_AI=100, cs_CL=99, cs_CV=300)) == ["cs.AI", "cs.CV"]


def test_too_few_categories():
    """One category is nothing to classify."""
    with pytest.raises(UserError, match="1 categories"):
        label_names("all", codes(cs_AI=100, cs_CL=99))


def test_indices():
    """Position in the labels, -1 outside."""
    file = codes(stat_ML=1, math_AG=1, cs_AI=1)
    assert label_indices("top5", list(TOP5), file).tolist() == [4, -1, 0]


def test_archive_indices():
    """Physics takes hep-th and nlin; every category has an archive."""
    file = pa.chunked_array([["hep-th", "nlin.CD", "q-bio.QM", "cs.LG"]])
    names = list(ARCHIVES)
    assert [names[i] for i in label_indices("archive", names, file)] == ["physics", "physics", "q-bio", "cs"]
