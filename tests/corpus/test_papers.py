"""The papers of a CSV: what is read, what becomes a reject with line, column and reason, what stops."""

import random
from datetime import date

import pyarrow as pa
import pytest
from factories import COLUMNS, paper, papers, to_csv, write_csv

from arxiv_cls.corpus.papers import Reject, keep_newest_versions, read_papers, write_rejects
from arxiv_cls.errors import UserError

GOOD = to_csv(papers(3))
NO_CODES = tuple(column for column in COLUMNS if column != "category_code")
OLD = {"category": "categories", "summary": "abstract"}
TEXTS = ("title", "abstract")


def with_line(line: bytes) -> bytes:
    """Three good papers, the given line, two more: it is line 5, row 3."""
    return GOOD + line + b"\n" + to_csv(papers(2, start=10)).split(b"\n", 1)[1]


def one(**changes: str) -> bytes:
    """The line of one paper."""
    return to_csv([paper(9, **changes)]).split(b"\n", 1)[1].rstrip(b"\n")


@pytest.fixture
def read(tmp_path):
    """`read_papers` of a file with this content."""

    def read_content(content: bytes, **options):
        (tmp_path / "papers.csv").write_bytes(content)
        return read_papers(tmp_path / "papers.csv", **options)

    return read_content


REJECTED = {
    "too few columns": (b",".join([b"x"] * 7), "", "wrong number of columns: 7 instead of 10"),
    "too many columns": (one() + b",extra", "", "wrong number of columns: 11 instead of 10"),
    "unterminated quote": (one().replace(b'""hard"".",8', b'""hard"".,8'), "", "unterminated quote"),
    "text after a quote": (one().replace(b'""hard""', b'"hard"'), "", "text after a closing quote"),
    "carriage return": (one().replace(b"8/1/19", b"8/1\r/19"), "", "carriage return inside a row"),
    "empty id": (one(id=""), "id", "missing or empty"),
    "id of another kind": (one(id="10.1000/182"), "id", "malformed arXiv id"),
    "id a spreadsheet rounded": (one(id="abs-1501.1v1"), "id", "malformed arXiv id"),
    "repeated header": (",".join(COLUMNS).encode(), "", "repeated header"),
    "header of a joined file": (b"\xef\xbb\xbf" + ", ".join(COLUMNS).upper().encode(), "", "repeated header"),
    "empty title": (one(title=""), "title", "missing or empty"),
    "title of invisible characters": (one(title="\u200b \ufeff"), "title", "missing or empty"),
    "blank abstract": (one(summary=" \t\n "), "summary", "missing or empty"),
    "unknown category": (one(category_code="cs.XX"), "category_code", "unknown category"),
    "empty date": (one(published_date=""), "published_date", "missing or empty"),
    "day before month": (one(published_date="31/12/19"), "published_date", "unreadable date"),
    "no such day": (one(published_date="2/30/19"), "published_date", "unreadable date"),
    "invalid UTF-8": (one().replace(b"problem", b"probl\xe8me", 1), "title", "invalid UTF-8"),
    "invalid UTF-8 in too few columns": (b"caf\xe9,two", "", "wrong number of columns: 2 instead of 10"),
    "NUL byte": (one().replace(b"We solve", b"We\0solve"), "summary", "NUL byte"),
    "two things": (one(id="x", title="", published_date="x"), "id", "malformed arXiv id"),
}


@pytest.mark.parametrize("case", REJECTED)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_rejected_row(read, case, line_end):
    """The row is named by line, column and reason; the five others are there, under their own lines."""
    line, column, reason = REJECTED[case]
    found = read(with_line(line).replace(b"\n", line_end))
    assert [(r.row, r.line, r.column, r.reason) for r in found.rejects] == [(3, 5, column, reason)]
    assert found.rows_read == 6
    assert found.table["row"].to_pylist() == [0, 1, 2, 4, 5]
    after = 7 if case == "blank abstract" else 6  # that row is on two physical lines
    assert found.table["line"].to_pylist() == [2, 3, 4, after, after + 1]


def test_truncated_file(read):
    """The last row is rejected by the line that opened the quote; a header alone is a table without rows."""
    found = read(GOOD[: GOOD.rindex(b"known as")])
    assert [(r.line, r.reason) for r in found.rejects] == [(4, "unterminated quote")]
    assert [(r.line, r.column) for r in read(GOOD[: GOOD.rindex(b"Vision")]).rejects] == [(4, "")]
    assert read(GOOD.split(b"\n")[0]).rows_read == 0


REFUSED = {
    "empty file": (b"", "empty"),
    "blank lines": (b"\n \n\n", "empty"),
    "semicolons": (GOOD.replace(b",", b";"), "semicolons"),
    "tabs": (GOOD.replace(b",", b"\t"), "tabs"),
    "no header": (GOOD.split(b"\n", 1)[1], "missing columns"),
    "missing column": (to_csv(papers(3), tuple(c for c in COLUMNS if c != "summary")), "summary or abstract"),
    "two missing columns": (
        to_csv(papers(3), ("id", "title", "summary")),
        "category_code or category or categories; published_date\n  found: id, title, summary",
    ),
    "column twice": (GOOD.replace(b"updated_date", b"title", 1), "'title' is there 2 times"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "UTF-16"),
    "UTF-16 without a mark": (GOOD.decode().encode("utf-16-le"), "UTF-16"),
    "a gzip": (b"\x1f\x8b\x08\x00\x8c" + bytes(range(256)), "gunzip"),
    "a parquet": (b"PAR1\x15\x04\x15\x00" + bytes(range(200, 256)), "header"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_file(read, tmp_path, case):
    """A file whose header is not usable stops with one message that names the file."""
    content, message = REFUSED[case]
    with pytest.raises(UserError) as error:
        read(content)
    assert str(tmp_path / "papers.csv") in error.value.message
    assert message in str(error.value)


def test_missing_file_and_directory(tmp_path):
    """The path, the reason, and for a missing file how to get one."""
    with pytest.raises(UserError, match="make data"):
        read_papers(tmp_path / "absent.csv")
    with pytest.raises(UserError, match="Is a directory"):
        read_papers(tmp_path)


def test_ten_megabyte_field(read):
    """A field longer than any block that pyarrow reads at once is a field like any other."""
    long = "word, " * (10 * 2**20 // 6) + "end"
    found = read(to_csv([*papers(3), paper(3, summary=long), *papers(2, start=4)]))
    assert found.rejects == []
    assert found.table["abstract"][3].as_py() == long


def named(name: str, cells: str) -> list[dict[str, str]]:
    """Three papers with other cells in a column, `{}` being what stands there."""
    return [row | {name: cells.format(row[name])} for row in papers(3)]


READ_ANYWAY = {
    "windows line ends": to_csv(papers(3), line_end="\r\n"),
    "old mac line ends": to_csv(papers(3), line_end="\r"),
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "no line end at the end": GOOD.rstrip(b"\n"),
    "blank lines before the header": b"\n\n" + GOOD,
    "a spreadsheet's first line": b"sep=,\r\n" + GOOD,
    "capitals and spaces in the header": GOOD.replace(b"id,title", b" ID , Title ", 1),
    "header in quotes": b'"id"' + GOOD[2:],
    "other columns": GOOD.replace(b"updated_date", b"anything", 1),
    "older names": to_csv(
        [{OLD.get(k, k): v for k, v in row.items()} for row in papers(3)],
        tuple(OLD.get(c, c) for c in NO_CODES),
    ),
    "no codes": to_csv(papers(3), NO_CODES),
    "codes as names": to_csv([row | {"category": row["category_code"]} for row in papers(3)], NO_CODES),
    "lists of codes": to_csv(named("category_code", "{} math.OC")),
    "columns in another order": to_csv(papers(3), COLUMNS[::-1]),
    "no authors": to_csv([row | {"authors": "", "first_author": ""} for row in papers(3)]),
    "spaces around fields": to_csv(
        [paper(0, id=" abs-1501.00000v1 ", title="On the 0th problem, and others\n"), *papers(2, start=1)]
    ),
    "addresses": to_csv([row | {"id": f"https://arxiv.org/abs/{row['id'][4:]}"} for row in papers(3)]),
    "one address": GOOD.replace(b"abs-1501.00001v1", b"arXiv:1501.00001 [cs.CL]"),
}


@pytest.mark.parametrize("case", READ_ANYWAY)
def test_read_anyway(read, case):
    """Differences that do not matter: the same papers come out."""
    found = read(READ_ANYWAY[case])
    assert found.rejects == []
    rows = found.table.select(["arxiv_id", "version", "title", "abstract", "category"]).to_pylist()
    assert rows == [
        {
            "arxiv_id": f"1501.0000{n}",
            "version": 1,
            "title": f"On the {n}th problem, and others",
            "abstract": f'We solve the {n}th problem, known as "hard".',
            "category": row["category_code"],
        }
        for n, row in enumerate(papers(3))
    ]


def test_names_of_two_categories(read):
    """Rejected with both codes in a file of arXiv's names; told apart where the public file's names are."""
    learning = papers(4, start=1)
    learning[3] |= {"category": "Machine Learning"}
    found = read(to_csv(learning, NO_CODES))
    assert [(r.line, r.column) for r in found.rejects] == [(4, "category"), (5, "category")]
    assert found.rejects[0].reason == "name of two categories: cs.LG or stat.ML, give the code"
    assert found.rejected_by_reason() == {"category: name of two categories": 2}
    found = read(to_csv(papers(4, start=1), NO_CODES))
    assert found.table["category"].to_pylist() == ["cs.CL", "cs.CV", "cs.LG", "stat.ML"]


def test_rejects_file(tmp_path, read):
    """One line per reject: line, column, reason, value, cut to a readable length."""
    rejects = read(with_line(one(category_code="x" * 500))).rejects
    assert rejects == [Reject(3, 5, "category_code", "unknown category", "x" * 80)]
    write_rejects(
        read(to_csv([*papers(2), paper(2, category_code='a,"b"')])).rejects, tmp_path / "rejects.csv"
    )
    assert (tmp_path / "rejects.csv").read_text() == (
        'line,column,reason,value\n4,category_code,unknown category,"a,""b"""\n'
    )


def damaged(data: bytes, generator: random.Random) -> bytes:
    """The file with a few bytes overwritten, inserted, taken out or doubled, wherever it falls."""
    bits = (b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xe9", b"\xff", b"caf\xe9,two\n", b",block")
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(len(data))
        length = generator.choice((0, 0, 1, 2, 40))
        data = data[:place] + generator.choice((*bits, data[place : place + 60])) + data[place + length :]
    return data


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_any_damage_is_told(read, line_end):
    """Seeded damage: the file is refused as a whole, or each of its rows is a paper or a reject."""
    for seed in range(100):
        try:
            found = read(damaged(to_csv(papers(12), line_end=line_end), random.Random(seed)))
        except UserError:
            continue
        assert found.rows_read == len(found.table) + len(found.rejects), seed


def test_columns(tmp_path):
    """Types and values of one old-style paper."""
    row = paper(0, id="hep-th-9901001v12", published_date="8/1/93", category_code="cs.CV")
    found = read_papers(write_csv(tmp_path / "p.csv", [row]))
    assert {field.name: str(field.type) for field in found.table.schema} == {
        "row": "int64", "line": "int64", "id": "string", "arxiv_id": "string", "version": "int32",
        "title": "string", "abstract": "string", "category": "string", "published": "date32[day]",
    }  # fmt: skip
    (values,) = found.table.to_pylist()
    assert values["id"] == "hep-th-9901001v12"
    assert (values["arxiv_id"], values["version"]) == ("hep-th/9901001", 12)
    assert (values["published"], values["category"]) == (date(1993, 8, 1), "cs.CV")


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("4/25/86", date(1986, 4, 25)),
        ("12/31/07", date(2007, 12, 31)),
        ("08/01/2007", date(2007, 8, 1)),
        ("2007-08-01T17:59:00Z", date(2007, 8, 1)),
        ("2/29/16", date(2016, 2, 29)),
    ],
)
def test_dates(tmp_path, text, day):
    """Month first, two-digit years around the turn of the century, ISO."""
    found = read_papers(write_csv(tmp_path / "p.csv", [paper(published_date=text)]))
    assert found.table["published"].to_pylist() == [day]


def test_only_what_is_required(read):
    """To score texts, title and abstract do; a row is not lost to a column that nobody asked for."""
    found = read(b"title,abstract\nA title,An abstract\n,No title\n", required=TEXTS)
    assert found.table.to_pylist() == [{
        "row": 0, "line": 2, "id": None, "arxiv_id": None, "version": None,
        "title": "A title", "abstract": "An abstract", "category": None, "published": None,
    }]  # fmt: skip
    assert [(r.line, r.column, r.reason) for r in found.rejects] == [(3, "title", "missing or empty")]
    rows = [paper(0, category_code="x", published_date="x", id="x"), paper(1, id="1501.0001")]
    found = read(to_csv(rows), required=TEXTS)
    bad, number = found.table.to_pylist()
    assert (bad["id"], bad["arxiv_id"], bad["category"], bad["published"]) == ("x", None, None, None)
    assert (number["arxiv_id"], number["category"], found.rejects) == ("1501.00010", "cs.CL", [])


def test_version_names_the_content(read, tmp_path):
    """The md5 and sha256 that `md5sum` and `sha256sum` would give."""
    version = read(b"title,abstract\na,b\n", required=TEXTS).version
    assert version.md5 == "f711be267df6131aa904264ad4a58fb4"
    assert version.sha256 == "dbd4862d3759bcb7a07dea5fc37159593f28fea4ab1d58103d9d61c7907c871e"
    assert (version.bytes, version.rows, version.csv) == (19, 1, str(tmp_path / "papers.csv"))


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (
            [("a", 10, "new"), ("b", 1, "only"), ("a", 9, "old"), ("c", 1, "older"), ("c", 2, "newer")],
            ["new", "only", "newer"],
        ),
        ([("a", 1, "x"), ("a", 1, "y"), ("a", 1, "x")], ["y"]),
        ([("a", 1, "y"), ("a", 1, "x")], ["y"]),
        ([("a", 1, "x"), ("b", 1, "y")], ["x", "y"]),
        ([], []),
    ],
)
def test_newest_version_stays(rows, kept):
    """Version 10 is newer than version 9; of the same version twice the order of rows does not decide."""
    bases, versions, titles = ([row[place] for row in rows] for place in range(3))
    constant = {"published": date(2015, 1, 1), "abstract": "text", "category": "cs.AI"}
    table = pa.table(
        {"arxiv_id": pa.array(bases, pa.string()), "version": pa.array(versions, pa.int32()),
         "title": pa.array(titles, pa.string())}
        | {name: pa.array([value] * len(rows)) for name, value in constant.items()}
    )  # fmt: skip
    merged, away = keep_newest_versions(table)
    assert merged["title"].to_pylist() == kept
    assert away == len(rows) - len(kept)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_the_same_version_with_other_categories(order):
    """The order of rows does not decide about them either; a row may have none."""
    listed = [["cs.AI"], ["cs.AI", "stat.ML"], None]
    rows = [
        {"arxiv_id": "a", "version": 1, "published": date(2015, 1, 1), "title": "x", "abstract": "y",
         "category": "cs.AI", "categories": listed[number]}
        for number in order
    ]  # fmt: skip
    merged, away = keep_newest_versions(pa.Table.from_pylist(rows))
    assert (merged["categories"].to_pylist(), away) == ([["cs.AI", "stat.ML"]], 2)
