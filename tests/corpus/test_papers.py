"""The checked table: what its columns hold, what may be missing, and the newest version of a paper."""

from datetime import date

import pyarrow as pa
import pytest
from factories import paper, papers, to_csv, write_csv

from arxiv_cls.corpus.papers import keep_newest_versions, read_papers, write_rejects


def test_columns(tmp_path):
    """Types and values of one old-style paper."""
    row = paper(0, id="hep-th-9901001v12", published_date="8/1/93", category_code="cs.CV")
    read = read_papers(write_csv(tmp_path / "p.csv", [row]))
    assert {field.name: str(field.type) for field in read.table.schema} == {
        "row": "int64", "line": "int64", "id": "string", "arxiv_id": "string", "version": "int32",
        "title": "string", "abstract": "string", "category": "string", "published": "date32[day]",
    }  # fmt: skip
    (values,) = read.table.to_pylist()
    assert values["id"] == "hep-th-9901001v12"
    assert (values["arxiv_id"], values["version"]) == ("hep-th/9901001", 12)
    assert values["published"] == date(1993, 8, 1)
    assert values["category"] == "cs.CV"


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("8/1/93", date(1993, 8, 1)),
        ("4/25/86", date(1986, 4, 25)),
        ("12/31/07", date(2007, 12, 31)),
        ("08/01/2007", date(2007, 8, 1)),
        ("2007-08-01", date(2007, 8, 1)),
        ("2007-08-01T17:59:00Z", date(2007, 8, 1)),
        ("2/29/16", date(2016, 2, 29)),
    ],
)
def test_dates(tmp_path, text, day):
    """Month first, two-digit years around the turn of the century, ISO."""
    read = read_papers(write_csv(tmp_path / "p.csv", [paper(published_date=text)]))
    assert read.table["published"].to_pylist() == [day]


def test_only_what_is_required(tmp_path):
    """To score texts, title and abstract do: no other column needs to be there or right."""
    path = tmp_path / "p.csv"
    path.write_bytes(b"title,abstract\nA title,An abstract\n,No title\n")
    read = read_papers(path, required=("title", "abstract"))
    (values,) = read.table.to_pylist()
    assert values == {
        "row": 0, "line": 2, "id": None, "arxiv_id": None, "version": None,
        "title": "A title", "abstract": "An abstract", "category": None, "published": None,
    }  # fmt: skip
    assert [(r.line, r.column, r.reason) for r in read.rejects] == [(3, "title", "missing or empty")]


def test_bad_values_that_are_not_required_are_null(tmp_path):
    """A row is not lost to a column that nobody asked for."""
    rows = [paper(0, category_code="x", published_date="x", id="x"), paper(1)]
    read = read_papers(write_csv(tmp_path / "p.csv", rows), required=("title", "abstract"))
    first, second = read.table.to_pylist()
    assert (first["id"], first["arxiv_id"], first["category"], first["published"]) == ("x", None, None, None)
    assert (second["arxiv_id"], second["category"]) == ("1501.00001", "cs.CL")
    assert read.rejects == []


def test_lines_count_breaks_inside_fields(tmp_path):
    """A physical line is what an editor shows, not the number of the row."""
    rows = [paper(0, summary="one\ntwo\nthree"), paper(1), paper(2, id="bad"), paper(3)]
    read = read_papers(write_csv(tmp_path / "p.csv", rows))
    assert read.table["line"].to_pylist() == [2, 5, 7]
    assert [reject.line for reject in read.rejects] == [6]


def test_version_names_the_content(tmp_path):
    """The md5 and sha256 that `md5sum` and `sha256sum` would give."""
    path = tmp_path / "p.csv"
    path.write_bytes(b"title,abstract\na,b\n")
    version = read_papers(path, required=("title", "abstract")).version
    assert version.md5 == "f711be267df6131aa904264ad4a58fb4"
    assert version.sha256 == "dbd4862d3759bcb7a07dea5fc37159593f28fea4ab1d58103d9d61c7907c871e"
    assert (version.bytes, version.rows, version.csv) == (19, 1, str(path))


def test_rejects_file(tmp_path):
    """One line per reject: line, column, reason, value."""
    rows = [*papers(2), paper(2, category_code='a,"b"')]
    path = tmp_path / "p.csv"
    path.write_bytes(to_csv(rows))
    write_rejects(read_papers(path).rejects, tmp_path / "rejects.csv")
    assert (tmp_path / "rejects.csv").read_text() == (
        'line,column,reason,value\n4,category_code,unknown category,"a,""b"""\n'
    )


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
