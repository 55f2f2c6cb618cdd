"""Holds that versions of a paper are merged to the newest, whatever the order of rows."""

from datetime import date

import pyarrow as pa

from arxiv_cls.corpus.papers import keep_newest_versions


def table(*rows):
    """(base id, version, title) as a table of papers."""
    return pa.table(
        {
            "arxiv_id": [base for base, *_ in rows],
            "version": pa.array([version for _, version, _ in rows], type=pa.int32()),
            "published": pa.array([date(2015, 1, 1)] * len(rows)),
            "title": [title for *_, title in rows],
            "abstract": ["text"] * len(rows),
            "category": ["cs.AI"] * len(rows),
        }
    )


def test_newest_version_stays():
    """Version 10 is newer than version 9, wherever it stands; the others keep their order."""
    rows = [("a", 10, "new"), ("b", 1, "only"), ("a", 9, "old"), ("c", 1, "older"), ("c", 2, "newer")]
    merged, away = keep_newest_versions(table(*rows))
    assert merged["title"].to_pylist() == ["new", "only", "newer"]
    assert away == 2


def test_same_version_twice_does_not_go_by_row_order():
    """Two rows of the same version: the same one stays when the file is turned around."""
    rows = [("a", 1, "x"), ("a", 1, "y"), ("a", 1, "x")]
    forward, away = keep_newest_versions(table(*rows))
    backward, _ = keep_newest_versions(table(*rows[::-1]))
    assert forward["title"].to_pylist() == backward["title"].to_pylist() == ["y"]
    assert away == 2


def test_nothing_to_merge():
    """Different papers, or none."""
    rows = table(("a", 1, "x"), ("b", 1, "y"))
    assert keep_newest_versions(rows) == (rows, 0)
    assert keep_newest_versions(rows.slice(0, 0))[1] == 0
