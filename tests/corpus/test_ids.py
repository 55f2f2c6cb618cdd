"""Identifiers, categories and the place of a paper in the splits: parsers and formulas."""

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from arxiv_cls.corpus.ids import CSV_ID_PATTERN, parse_id, split_position
from arxiv_cls.corpus.splits import (
    SPLITS,
    parse_time_boundaries,
    split_by_paper,
    split_by_time,
    split_positions,
)
from arxiv_cls.corpus.taxonomy import ARCHIVES, CATEGORY_NAMES, ambiguous_names, archive_of, category_code
from arxiv_cls.errors import UserError

IN_THE_CSV = {
    "abs-0901.4761v1": ("0901.4761", 1),
    "abs-1501.00001v12": ("1501.00001", 12),
    "cs-9308101v1": ("cs/9308101", 1),
    "hep-th-9901001v1": ("hep-th/9901001", 1),
    "math-0309136v2": ("math/0309136", 2),
    "math-ph-0309136v2": ("math-ph/0309136", 2),
    "math.gt/0309136": ("math/0309136", None),
    "cond-mat.mtrl-sci/0309136v3": ("cond-mat/0309136", 3),
    "cmp-lg/9404001": ("cmp-lg/9404001", None),
    "0704.0001": ("0704.0001", None),
}
ELSEWHERE = {
    " 0901.4761\n": ("0901.4761", None),
    "arXiv:0901.4761v2": ("0901.4761", 2),
    "ARXIV: HEP-TH/9901001": ("hep-th/9901001", None),
    "arXiv:0901.4761v1 [cs.LG] 29 Jan 2009": ("0901.4761", 1),
    "math.GT/0309136 [math.GT]": ("math/0309136", None),
    "http://arxiv.org/abs/0901.4761v1": ("0901.4761", 1),
    "http://arxiv.org/abs/cs-9812905v1": ("cs/9812905", 1),
    "https://www.arxiv.org/pdf/0901.4761v3.pdf": ("0901.4761", 3),
    "https://export.arxiv.org/html/2301.00001v1#S1": ("2301.00001", 1),
    "arxiv.org/abs/hep-th/9901001?context=gr-qc": ("hep-th/9901001", None),
    "https://arxiv.org/abs/hep-th%2F9901001/": ("hep-th/9901001", None),
    "10.48550/arXiv.2301.00001": ("2301.00001", None),
    "doi:10.48550/ARXIV.hep-th/9901001": ("hep-th/9901001", None),
    "https://doi.org/10.48550/arXiv.0901.4761": ("0901.4761", None),
    "oai:arXiv.org:0901.4761": ("0901.4761", None),
}
BAD = [
    "", "abs-", "abs-0901.4761v0", "abs-0901.47610v1", "abs-1501.0001v1", "abs-0913.4761v1", "abs-901.4761v1",
    "xyz-9308101v1", "cs-9313101v1", "cs-93081v1", "hep-th-9901001v", "1501,00001", "abs-1501.00001v1 x",
    "9308101v1", "abs-\uff11501.00001v1", "10.1000/182", "https://example.org/abs/0901.4761", "901.476",
    "https://arxiv.org/list/cs.LG/0901",
]  # fmt: skip


@pytest.mark.parametrize(("identifier", "expected"), (IN_THE_CSV | ELSEWHERE).items())
def test_parse(identifier, expected):
    """Both styles, with and without version, as files, addresses, DOIs and PDF stamps write them."""
    assert parse_id(identifier) == expected


@pytest.mark.parametrize("identifier", BAD)
def test_malformed(identifier):
    """Anything else is refused, not guessed at."""
    with pytest.raises(ValueError, match="not an arXiv identifier"):
        parse_id(identifier)


@pytest.mark.parametrize(
    ("number", "base"),
    [
        ("901.4761", "0901.4761"),
        ("901.476", "0901.4760"),
        ("704.1", "0704.1000"),
        ("1501.0001", "1501.00010"),
        ("901.4760999999999", "0901.4761"),
        ("9.01476e+02", "0901.4760"),
        ("1501.0", None),  # no month has a paper 0
        ("901.47614", None),
        ("1501.000123", None),
        ("0901.476", None),  # a number has no zero in front
        ("0901.47610", None),
        ("913.4761", None),
        ("9308101.0", None),  # of which archive?
        ("3", None),
    ],
)
def test_numbers(number, base):
    """A cell that was a number is repaired where one identifier can have become it."""
    if base:
        assert parse_id(number, numbers=True) == (base, None)
    else:
        with pytest.raises(ValueError, match="not an arXiv identifier"):
            parse_id(number, numbers=True)


def test_the_pattern_for_columns_agrees_with_the_parser():
    """The reader tries it first, with RE2: all of the CSV's own, nothing that `parse_id` refuses."""
    given = [*IN_THE_CSV, *ELSEWHERE, *BAD]
    matched = dict(
        zip(given, pc.match_substring_regex(pa.array(given), CSV_ID_PATTERN).to_pylist(), strict=True)
    )
    assert all(matched[identifier] for identifier in IN_THE_CSV)
    assert not any(matched[identifier] for identifier in BAD)


def test_split_position_is_the_documented_formula():
    """The first 8 bytes of sha256("42:0901.4761"), big-endian, over 2**64; worked out with sha256sum once."""
    assert split_position("hep-th/9901001", 42) == pytest.approx(0x0E7D87B3463EDCE1 / 2**64, abs=1e-12)
    assert split_position("0901.4761", 42) != split_position("0901.4761", 43)


def test_split_by_paper():
    """u < 0.70 trains, u < 0.85 validates, the rest tests; about 70 / 15 / 15 of many papers."""
    positions = np.array([0.0, 0.6999999, 0.70, 0.8499999, 0.85, 0.9999999])
    assert split_by_paper(positions).tolist() == [0, 0, 1, 1, 2, 2]
    bases = [f"1501.{n:05d}" for n in range(20000)]
    shares = np.bincount(split_by_paper(split_positions(bases, 42))) / len(bases)
    assert shares == pytest.approx([0.70, 0.15, 0.15], abs=0.01)


def test_split_by_time():
    """The boundary day itself belongs to the later split."""
    days = np.array(["2018-07-14", "2018-07-15", "2019-02-14", "2019-02-15"], dtype="datetime64[D]")
    splits = split_by_time(days, parse_time_boundaries(None))
    assert [SPLITS[n] for n in splits] == ["train", "validation", "validation", "test"]
    assert parse_time_boundaries(["2010-01-01", date(2011, 1, 1)]) == (date(2010, 1, 1), date(2011, 1, 1))


@pytest.mark.parametrize(
    "boundaries",
    [["2011-01-01", "2010-01-01"], ["2010-01-01", "2010-01-01"], ["2010-01-01"], "2010-01-01", ["x", "y"],
     ["2010-02-30", "2011-01-01"], [2010, 2011]],
)  # fmt: skip
def test_wrong_boundaries(boundaries):
    """Two dates in order or one message."""
    with pytest.raises(UserError, match="time_boundaries"):
        parse_time_boundaries(boundaries)


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("cs.LG", "cs.LG"),
        ("CS.lg", "cs.LG"),
        ("cs.LG stat.ML", "cs.LG"),
        ("stat.ML, cs.LG;", "stat.ML"),
        ("['math.QA', 'math.GT']", "math.QA"),
        ("Machine Learning (Statistics)", "stat.ML"),
        ("Machine Learning (stat.ML); Machine Learning (cs.LG)", "stat.ML"),
        ("Computational Engineering, Finance, and Science", "cs.CE"),
        ("hep-th", "hep-th"),
        ("cs.LG cs.XX", "cs.LG"),
        ("cs.XX cs.LG", None),
        ("Optics and Alchemy", None),
        ("Alchemy", None),
    ],
)
def test_category(cell, code):
    """Codes, lists of codes (the first is the paper's own) and long names."""
    assert category_code(cell) == code


def test_every_category():
    """Its name means its code, its code has an archive; the physics group and closed archives count."""
    assert {code: category_code(name) for code, name in CATEGORY_NAMES.items()} == {
        c: c for c in CATEGORY_NAMES
    }
    assert {archive_of(code) for code in CATEGORY_NAMES} == set(ARCHIVES)
    archives = {
        "cs.LG": "cs",
        "hep-th": "physics",
        "astro-ph.GA": "physics",
        "q-bio": "q-bio",
        "alg-geom": "math",
    }
    assert {code: archive_of(code) for code in archives} == archives
    with pytest.raises(KeyError):
        archive_of("cs.XX")


def test_ambiguous_names():
    """arXiv gives six names to two categories; a file with the public file's names tells them apart."""
    names = ["Machine Learning", "numerical analysis", "Information Theory", "Systems and Control",
             "Statistics Theory", "Mathematical Physics", "Optics"]  # fmt: skip
    assert list(ambiguous_names(names)) == names[:-1]
    assert ambiguous_names(names)["Machine Learning"] == "cs.LG or stat.ML"
    assert ambiguous_names([*names, "Machine Learning (Statistics)"]) == {}
