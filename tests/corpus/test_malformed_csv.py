"""What can be wrong with a CSV: one clear error, or a reject with line, column and reason."""

import random

import pytest
from factories import COLUMNS, paper, papers, to_csv

from arxiv_cls.corpus import build_corpus
from arxiv_cls.corpus.papers import Reject, read_papers
from arxiv_cls.errors import UserError

GOOD = to_csv(papers(3))
OLD = {"category": "categories", "summary": "abstract"}


def with_line(line: bytes) -> bytes:
    """Three good papers, the given line, two more: it is line 5, row 3."""
    return GOOD + line + b"\n" + to_csv(papers(2, start=10)).split(b"\n", 1)[1]


def one(**changes: str) -> bytes:
    """The line of one paper."""
    return to_csv([paper(9, **changes)]).split(b"\n", 1)[1].rstrip(b"\n")


def fields(count: int) -> bytes:
    """A line of `count` columns."""
    return b",".join([b"x"] * count)


REJECTED = {
    "too few columns": (fields(7), "", "wrong number of columns: 7 instead of 10"),
    "too many columns": (one() + b",extra", "", "wrong number of columns: 11 instead of 10"),
    "one word": (b"garbage", "", "wrong number of columns: 1 instead of 10"),
    "unterminated quote": (one().replace(b'""hard"".",8', b'""hard"".,8'), "", "unterminated quote"),
    "text after a quote": (one().replace(b'""hard""', b'"hard"'), "", "text after a closing quote"),
    "carriage return": (one().replace(b"8/1/19", b"8/1\r/19"), "", "carriage return inside a row"),
    "empty id": (one(id=""), "id", "missing or empty"),
    "id of another kind": (one(id="10.1000/182"), "id", "malformed arXiv id"),
    "id with month 13": (one(id="abs-1513.00001v1"), "id", "malformed arXiv id"),
    "id a spreadsheet rounded": (one(id="abs-1501.1v1"), "id", "malformed arXiv id"),
    "repeated header": (",".join(COLUMNS).encode(), "", "repeated header"),
    "empty title": (one(title=""), "title", "missing or empty"),
    "blank abstract": (one(summary=" \t\n "), "summary", "missing or empty"),
    "empty category": (one(category_code=""), "category_code", "missing or empty"),
    "unknown category": (one(category_code="cs.XX"), "category_code", "unknown category"),
    "empty date": (one(published_date=""), "published_date", "missing or empty"),
    "day before month": (one(published_date="31/12/19"), "published_date", "unreadable date"),
    "no such day": (one(published_date="2/30/19"), "published_date", "unreadable date"),
    "a date in words": (one(published_date="May 2019"), "published_date", "unreadable date"),
    "invalid UTF-8": (one().replace(b"problem", b"probl\xe8me", 1), "title", "invalid UTF-8"),
    "invalid UTF-8 in too few columns": (b"caf\xe9,two", "", "wrong number of columns: 2 instead of 10"),
    "invalid UTF-8 in too many columns": (
        one().replace(b"problem", b"probl\xe8me") + b",block",
        "",
        "wrong number of columns: 11 instead of 10",
    ),
    "NUL byte": (one().replace(b"We solve", b"We\0solve"), "summary", "NUL byte"),
}


@pytest.mark.parametrize("case", REJECTED)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_rejected_row(tmp_path, case, line_end):
    """The row is named by line, column and reason; the five others are there, under their own lines."""
    line, column, reason = REJECTED[case]
    if case == "blank abstract" and line_end == b"\r\n":
        line = line.replace(b"\n", b"\r\n")
    path = tmp_path / "papers.csv"
    path.write_bytes(with_line(line).replace(b"\r\n", b"\n").replace(b"\n", line_end))
    read = read_papers(path)
    assert [(r.row, r.line, r.column, r.reason) for r in read.rejects] == [(3, 5, column, reason)]
    assert read.rows_read == 6
    assert read.table["row"].to_pylist() == [0, 1, 2, 4, 5]
    after = 7 if case == "blank abstract" else 6  # that row is on two physical lines
    assert read.table["line"].to_pylist() == [2, 3, 4, after, after + 1]


def test_truncated_file(tmp_path):
    """A file that ends inside a quoted field: the last row is rejected by the line that opened the quote."""
    path = tmp_path / "papers.csv"
    path.write_bytes(GOOD[: GOOD.rindex(b"known as")])
    read = read_papers(path)
    assert [(r.line, r.reason) for r in read.rejects] == [(4, "unterminated quote")]
    path.write_bytes(GOOD[: GOOD.rindex(b"Vision")])
    assert [(r.line, r.column) for r in read_papers(path).rejects] == [(4, "")]


def test_two_things_wrong_with_a_row_are_one_reject(tmp_path):
    """The first column that is wrong is the reason; nothing is counted twice."""
    path = tmp_path / "papers.csv"
    path.write_bytes(with_line(one(id="x", title="", published_date="x")))
    assert read_papers(path).rejected_by_reason() == {"id: malformed arXiv id": 1}


REFUSED = {
    "empty file": (b"", "empty"),
    "blank lines": (b"\n \n\n", "empty"),
    "semicolons": (GOOD.replace(b",", b";"), "missing columns"),
    "tabs": (GOOD.replace(b",", b"\t"), "missing columns"),
    "no header": (GOOD.split(b"\n", 1)[1], "missing columns"),
    "missing column": (to_csv(papers(3), tuple(c for c in COLUMNS if c != "summary")), "summary or abstract"),
    "two missing columns": (to_csv(papers(3), ("id", "title", "summary")), "published_date"),
    "column twice": (GOOD.replace(b"updated_date", b"title", 1), "'title' is there 2 times"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "UTF-16"),
    "a gzip": (b"\x1f\x8b\x08\x00\x8c" + bytes(range(256)), "gunzip"),
    "a parquet": (b"PAR1\x15\x04\x15\x00" + bytes(range(200, 256)), "header"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_file(tmp_path, case):
    """A file whose header is not usable stops with one message that names the file."""
    data, message = REFUSED[case]
    path = tmp_path / "papers.csv"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_papers(path)
    assert str(path) in error.value.message
    assert message in str(error.value)


def test_missing_columns_name_what_was_found(tmp_path):
    """The names expected and the names found; another delimiter is recognised."""
    path = tmp_path / "papers.csv"
    path.write_bytes(to_csv(papers(2), ("id", "title", "summary_word_count")))
    with pytest.raises(UserError) as error:
        read_papers(path)
    assert "published_date" in error.value.message
    assert "category_code or category or categories" in error.value.message
    assert "found: id, title, summary_word_count" in error.value.message
    path.write_bytes(GOOD.replace(b",", b";"))
    with pytest.raises(UserError, match="semicolons"):
        read_papers(path)


def test_missing_file_and_directory(tmp_path):
    """The path, the reason, and for a missing file how to get one."""
    with pytest.raises(UserError, match="make data"):
        read_papers(tmp_path / "absent.csv")
    with pytest.raises(UserError, match="Is a directory"):
        read_papers(tmp_path)


def test_ten_megabyte_field(tmp_path):
    """A field longer than any block that pyarrow reads at once is a field like any other."""
    long = "word, " * (10 * 2**20 // 6) + "end"
    path = tmp_path / "papers.csv"
    path.write_bytes(to_csv([*papers(3), paper(3, summary=long), *papers(2, start=4)]))
    read = read_papers(path)
    assert read.rejects == []
    assert read.table["abstract"][3].as_py() == long


READ_ANYWAY = {
    "windows line ends": to_csv(papers(3), line_end="\r\n"),
    "old mac line ends": to_csv(papers(3), line_end="\r"),
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "no line end at the end": GOOD.rstrip(b"\n"),
    "blank lines before the header": b"\n\n" + GOOD,
    "capitals and spaces in the header": GOOD.replace(b"id,title", b" ID , Title ", 1),
    "header in quotes": b'"id"' + GOOD[2:],
    "other columns": GOOD.replace(b"updated_date", b"anything", 1),
    "older names": to_csv(
        [{OLD.get(k, k): v for k, v in row.items()} for row in papers(3)],
        tuple(OLD.get(c, c) for c in COLUMNS if c != "category_code"),
    ),
    "no codes": to_csv(papers(3), tuple(c for c in COLUMNS if c != "category_code")),
    "columns in another order": to_csv(papers(3), COLUMNS[::-1]),
    "no authors": to_csv([row | {"authors": "", "first_author": ""} for row in papers(3)]),
    "spaces around fields": to_csv(
        [paper(0, id=" abs-1501.00000v1 ", title="On the 0th problem, and others\n"), *papers(2, start=1)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ_ANYWAY)
def test_read_anyway(tmp_path, case):
    """Differences that do not matter: the same papers come out."""
    path = tmp_path / "papers.csv"
    path.write_bytes(READ_ANYWAY[case])
    read = read_papers(path)
    assert read.rejects == []
    rows = read.table.select(["arxiv_id", "version", "title", "abstract", "category"]).to_pylist()
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


def test_header_only(tmp_path):
    """No rows is a table without rows; it is the build that refuses it."""
    path = tmp_path / "papers.csv"
    path.write_bytes(GOOD.split(b"\n")[0])
    read = read_papers(path)
    assert (len(read.table), read.rejects, read.rows_read) == (0, [], 0)


def test_reject_shows_the_value(tmp_path):
    """The value that was wrong, cut to a readable length."""
    path = tmp_path / "papers.csv"
    path.write_bytes(with_line(one(category_code="x" * 500)))
    assert read_papers(path).rejects == [Reject(3, 5, "category_code", "unknown category", "x" * 80)]


def damaged(data: bytes, generator: random.Random) -> bytes:
    """The file with a few bytes overwritten, inserted, taken out or doubled, wherever it falls."""
    bits = (b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xe9", b"\xff", b"caf\xe9,two\n", b",block")
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(len(data))
        length = generator.choice((0, 0, 1, 2, 40))
        data = data[:place] + generator.choice((*bits, data[place : place + 60])) + data[place + length :]
    return data


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_any_damage_is_told(tmp_path, line_end):
    """Seeded damage: the file is refused as a whole, or each of its rows is a paper or a reject."""
    path = tmp_path / "papers.csv"
    for seed in range(150):
        path.write_bytes(damaged(to_csv(papers(12), line_end=line_end), random.Random(seed)))
        try:
            read = read_papers(path)
        except UserError:
            continue
        assert read.rows_read == len(read.table) + len(read.rejects), seed


def test_rows_of_a_damaged_file_add_up(tmp_path):
    """Up to the report of a build: what was read is rejected, merged, outside, a duplicate or a paper."""
    path = tmp_path / "papers.csv"
    built = 0
    for seed in range(6):
        path.write_bytes(damaged(to_csv(papers(300)), random.Random(seed)))
        try:
            report = build_corpus(csv=path, cache_dir=tmp_path / "cache").report
        except UserError:
            continue
        built += 1
        told = report.rejected + report.merged + report.outside_config + len(report.duplicates)
        assert report.rows_read == told + report.left_out + report.papers, seed
    assert built
