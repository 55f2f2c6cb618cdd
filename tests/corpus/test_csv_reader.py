"""The records of a CSV, read with pyarrow or one by one: the same rows under the same physical lines."""

import csv
import io
import random

import pytest

from arxiv_cls.corpus import papers
from arxiv_cls.corpus.csv_reader import REPEATED_HEADER, UNTERMINATED, open_csv, records

AFTER_QUOTE, STRAY = "text after a closing quote", "carriage return inside a row"


def read(data: bytes, header: bytes = b"id,title") -> list[tuple]:
    """(line, fields or reason) of every record behind a header."""
    file = open_csv("x.csv", (), header + b"\n" + data)
    return [(r.line, r.reason or [field.decode() for field in r.fields]) for r in records(file)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a,b\nc,d\n", [(2, ["a", "b"]), (3, ["c", "d"])]),
        (b"a,b\r\nc,d", [(2, ["a", "b"]), (3, ["c", "d"])]),
        (b'"a,\n""x""\n",b\nc,d\n', [(2, ['a,\n"x"\n', "b"]), (5, ["c", "d"])]),
        (b"a,b\n\n\r\nc,d\n", [(2, ["a", "b"]), (5, ["c", "d"])]),
        (b'a,5" disk\n', [(2, ["a", '5" disk'])]),
        (b'"",""\n"""",b\n', [(2, ["", ""]), (3, ['"', "b"])]),
        (b"a,\n,", [(2, ["a", ""]), (3, ["", ""])]),
        (b"a\nb,c,d\n", [(2, "wrong number of columns: 1 instead of 2"),
                         (3, "wrong number of columns: 3 instead of 2")]),
        (b'a,"b\nc,"d, e"\nf,g\n', [(2, UNTERMINATED), (3, ["c", "d, e"]), (4, ["f", "g"])]),
        (b'a,b\nc,"d\ne,f\n', [(2, ["a", "b"]), (3, UNTERMINATED), (4, ["e", "f"])]),
        (b'a,"b" c\nd,e\n', [(2, AFTER_QUOTE), (3, ["d", "e"])]),
        (b'2,"Parsing "quoted" words"\nd,e\n', [(2, AFTER_QUOTE), (3, ["d", "e"])]),
        (b'"x\ny","b\nc,d\n', [(3, UNTERMINATED), (4, ["c", "d"])]),
        (b"a,b\rc\nd,e\n", [(2, STRAY), (3, ["d", "e"])]),
        (b'a,"b\rc"\nd,e\n', [(2, ["a", "b\rc"]), (3, ["d", "e"])]),
        (b"a,b\nid,title\nc,d\n", [(2, ["a", "b"]), (3, REPEATED_HEADER), (4, ["c", "d"])]),
    ],
)  # fmt: skip
def test_records(data, expected):
    """Line ends of all kinds, quotes right and wrong; damage costs its own row only."""
    assert read(data) == expected


def test_many_damaged_rows_cost_one_row_each():
    """Every second row lacks its closing quote: the rows between are all found."""
    data = b"".join(b'a%d,"open\nb%d,"fine, so"\n' % (n, n) for n in range(500))
    found = read(data)
    assert [line for line, _ in found] == list(range(2, 1002))
    assert [row for _, row in found[::2]] == [UNTERMINATED] * 500
    assert [row for _, row in found[1::2]] == [[f"b{n}", "fine, so"] for n in range(500)]


@pytest.mark.parametrize("chunk", [1000, 1 << 22])
def test_agrees_with_the_csv_module(monkeypatch, chunk):
    """Random tables of awkward fields: pyarrow, the records and Python's reader give the same."""
    monkeypatch.setattr(papers, "_CHUNK", chunk)
    draw = random.Random(chunk)
    clean = 0
    for _ in range(300):
        rows = [["".join(draw.choices('ab",\n "', k=draw.randrange(6))) for _ in "12"] for _ in range(9)]
        text = io.StringIO()
        csv.writer(text, lineterminator=draw.choice(["\n", "\r\n"])).writerows([["id", "title"], *rows])
        data = text.getvalue().encode()
        damaged = draw.random() < 0.3
        if damaged:
            place = draw.randrange(12, len(data))
            data = data[:place] + draw.choice([b'"', b",", b"\n", b"\r", b'"x']) + data[place:]
        file = open_csv("x.csv", (), data)
        one_by_one = list(records(file))
        if not damaged:
            reader = csv.reader(io.StringIO(data.decode(), newline=""))
            expected = [(reader.line_num, row) for row in reader if row][1:]
            assert [[field.decode() for field in r.fields] for r in one_by_one] == [
                row for _, row in expected
            ]
        table = papers.read_table(file)
        good = [r for r in one_by_one if not r.reason]
        assert table.lines.tolist() == [r.line for r in good]
        assert table.table["title"].to_pylist() == [r.fields[1] for r in good]
        assert [(d.line, d.reason) for d in table.damaged] == [
            (r.line, r.reason) for r in one_by_one if r.reason
        ]
        clean += papers._read_clean(file) is not None
    assert 150 < clean < 290
