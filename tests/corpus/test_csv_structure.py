"""Holds the scan that finds the rows of a CSV and names the damaged ones by line."""

import csv
import io
import random

import pytest

from arxiv_cls.corpus import csv_reader as csv_structure
from arxiv_cls.corpus.csv_reader import UNTERMINATED, find_records, scan_quotes


def scan(data: bytes):
    """(text, fields, line) of every record; fields is the reason for a damaged one."""
    records = find_records(data, 0, 1, scan_quotes(data, 0))
    return [
        (data[start:stop].decode(), records.reasons.get(index, int(columns)), int(line))
        for index, (start, stop, columns, line) in enumerate(
            zip(records.starts, records.stops, records.columns, records.lines, strict=True)
        )
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a,b\nc,d\n", [("a,b\n", 2, 1), ("c,d\n", 2, 2)]),
        (b"a,b\r\nc,d", [("a,b\r\n", 2, 1), ("c,d", 2, 2)]),
        (b"a,b\rc,d\r", [("a,b\r", 2, 1), ("c,d\r", 2, 2)]),
        (b'"a,\n""x""\n",b\nc,d\n', [('"a,\n""x""\n",b\n', 2, 1), ("c,d\n", 2, 4)]),
        (b"a,b\n\n\r\nc,d\n", [("a,b\n", 2, 1), ("c,d\n", 2, 4)]),
        (b'a,5" disk\n', [('a,5" disk\n', 2, 1)]),
        (b'"",""\n"""",b\n', [('"",""\n', 2, 1), ('"""",b\n', 2, 2)]),
        (b"a\nb,c,d\n", [("a\n", 1, 1), ("b,c,d\n", 3, 2)]),
        (b'a,"b\nc,"d, e"\nf,g\n', [('a,"b\n', UNTERMINATED, 1), ('c,"d, e"\n', 2, 2), ("f,g\n", 2, 3)]),
        (b'a,b\nc,"d\ne,f\n', [("a,b\n", 2, 1), ('c,"d\n', UNTERMINATED, 2), ("e,f\n", 2, 3)]),
        (b'a,"b" c\nd,e\n', [('a,"b" c\n', "text after a closing quote", 1), ("d,e\n", 2, 2)]),
        (b'"x\ny","b\nc,d\n', [('"x\ny","b\n', UNTERMINATED, 2), ("c,d\n", 2, 3)]),
        (b"a,b\rc\nd,e\n", [("a,b\rc\n", "carriage return inside a row", 1), ("d,e\n", 2, 2)]),
        (b'a,"b\rc"\nd,e\n', [('a,"b\rc"\n', 2, 1), ("d,e\n", 2, 2)]),
    ],
)  # fmt: skip
def test_records(data, expected):
    """Line ends of all kinds, quotes right and wrong: each record with its fields and its physical line."""
    assert scan(data) == expected


@pytest.mark.parametrize("window", [2, 8, 1 << 14])
@pytest.mark.parametrize("chunk", [3, 1 << 22])
def test_agrees_with_the_csv_module(monkeypatch, window, chunk):
    """Random tables of awkward fields: as many records and fields as Python's own reader, same lines.

    Tiny windows and chunks put their edges between the quotes of one field.
    """
    monkeypatch.setattr(csv_structure, "_WINDOW", window)
    monkeypatch.setattr(csv_structure, "_CHUNK", chunk)
    draw = random.Random(window + chunk)
    for _ in range(40):
        line_end = draw.choice(["\n", "\r\n"])
        rows = [
            ["".join(draw.choices('ab",\n "', k=draw.randrange(6))) for _ in range(draw.randrange(2, 5))]
            for _ in range(draw.randrange(1, 12))
        ]
        file = io.StringIO()
        csv.writer(file, lineterminator=line_end).writerows(rows)
        data = file.getvalue().encode()
        lines, line = [], 1
        for row in rows:
            lines.append(line)
            line += 1 + sum(field.count("\n") for field in row)
        assert [(fields, line) for _, fields, line in scan(data)] == [
            (len(row), line) for row, line in zip(rows, lines, strict=True)
        ]


def test_many_damaged_rows_cost_one_row_each():
    """Every second row lacks its closing quote: the rows between are all found."""
    data = b"".join(b'a%d,"open\nb%d,"fine, so"\n' % (n, n) for n in range(500))
    records = scan(data)
    assert len(records) == 1000
    assert [fields for _, fields, _ in records] == [UNTERMINATED, 2] * 500
    assert [line for *_, line in records] == list(range(1, 1001))
