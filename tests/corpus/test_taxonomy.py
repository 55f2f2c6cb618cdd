"""Holds the taxonomy: unique names, every code in an archive."""

import subprocess
import sys

import pytest

from arxiv_cls.corpus.taxonomy import ARCHIVES, CATEGORY_NAMES, archive_of, name_to_code
from arxiv_cls.label_sets import LABEL_SETS


def test_names_and_codes_map_both_ways():
    """A file without codes can be mapped because no two categories share a name."""
    assert len(name_to_code()) == len(CATEGORY_NAMES)
    assert all(name_to_code()[name] == code for code, name in CATEGORY_NAMES.items())


def test_names_of_the_public_file():
    """The two names that the file tells apart by a suffix, and the aliases of one field."""
    assert name_to_code()["Machine Learning"] == "cs.LG"
    assert name_to_code()["Machine Learning (Statistics)"] == "stat.ML"
    assert name_to_code()["Systems and Control"] == "cs.SY"
    assert {"eess.SY", "math.IT", "cs.IT", "astro-ph", "cond-mat", "cmp-lg"} <= set(CATEGORY_NAMES)
    assert set(LABEL_SETS["top5"].labels) <= set(CATEGORY_NAMES)


@pytest.mark.parametrize(
    ("code", "archive"),
    [
        ("cs.LG", "cs"),
        ("hep-th", "physics"),
        ("math-ph", "physics"),
        ("astro-ph.GA", "physics"),
        ("nlin.CD", "physics"),
        ("q-bio", "q-bio"),
        ("alg-geom", "math"),
        ("cmp-lg", "cs"),
        ("eess.IV", "eess"),
    ],
)
def test_archive(code, archive):
    """The physics group takes the physics archives, a closed archive counts to its successor."""
    assert archive_of(code) == archive


def test_every_code_has_an_archive():
    """No category is lost by the config `archive`, and an unknown code is refused."""
    assert {archive_of(code) for code in CATEGORY_NAMES} == set(ARCHIVES)
    with pytest.raises(KeyError):
        archive_of("cs.XX")


def test_no_third_party_package():
    """Serving imports ids and taxonomy: nothing outside the standard library comes with them."""
    code = (
        "import sys; import arxiv_cls.corpus.ids, arxiv_cls.corpus.taxonomy; "
        "sys.exit(any(m in sys.modules for m in ('numpy', 'pyarrow', 'datasets', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
