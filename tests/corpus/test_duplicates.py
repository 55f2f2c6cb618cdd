"""Holds which texts count as the same, and which copy goes."""

import numpy as np
import pyarrow as pa
import pytest

from arxiv_cls.corpus.duplicates import Duplicate, find_duplicates, normalise

TRAIN, VALIDATION, TEST = 0, 1, 2


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
def test_same(text, same):
    """Case, white space, punctuation, ligatures and the spelling of accents do not tell texts apart."""
    assert normalise(text) == normalise(same)


def test_different():
    """Words and digits do; a text of punctuation alone is itself."""
    assert normalise("part 1") != normalise("part 2")
    assert normalise("resume") != normalise("résumé")
    assert normalise("???") != normalise("!!!")


def drop(texts, splits, bases=None):
    """Duplicates of (title, abstract) pairs."""
    bases = bases or [f"1501.{n:05d}" for n in range(len(texts))]
    titles, abstracts = ([pair[side] for pair in texts] for side in (0, 1))
    return find_duplicates(
        pa.chunked_array([titles]), pa.chunked_array([abstracts]), bases, np.array(splits, dtype=np.int8)
    )


@pytest.mark.parametrize(
    ("splits", "dropped", "kept"),
    [
        ((TRAIN, TEST), 0, 1),
        ((TEST, TRAIN), 1, 0),
        ((TRAIN, VALIDATION), 0, 1),
        ((TEST, VALIDATION), 1, 0),
        ((TRAIN, TRAIN), 1, 0),
        ((TEST, TEST), 1, 0),
    ],
)
def test_which_copy_goes(splits, dropped, kept):
    """Training before validation before test; within a split the later base id."""
    assert drop([("A title", "Text."), ("a TITLE", "text")], splits) == [Duplicate(dropped, kept)]


def test_within_a_split_the_base_id_decides():
    """Not the order of rows."""
    texts = [("A", "x"), ("A", "x"), ("A", "x")]
    found = drop(texts, (TRAIN, TRAIN, TRAIN), ["1503.00001", "1501.00001", "1502.00001"])
    assert found == [Duplicate(0, 1), Duplicate(2, 1)]


def test_title_and_abstract_must_both_agree():
    """Same title with another abstract, same abstract with another title: two papers."""
    texts = [("Erratum", "first"), ("Erratum", "second"), ("Other", "first")]
    assert drop(texts, (TRAIN, TEST, TEST)) == []
