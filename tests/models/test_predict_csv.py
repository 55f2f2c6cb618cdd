"""`predict --csv`: a row out for every row in, in order, whatever is in it."""

import csv
from typing import ClassVar

import numpy as np
import pytest

from arxiv_cls.errors import UserError
from arxiv_cls.models.predict_csv import ROWS_AT_A_TIME, predict_csv
from arxiv_cls.models.prediction import EncodedText, ScopeRule, to_predictions


class LengthPredictor:
    """Scores by the length of the text: no model is needed to test the rows."""

    labels = ("cs.AI", "cs.CL")
    rules: ClassVar[dict] = {}

    def predict(self, texts, top_k=None):
        """Longer texts are more cs.CL."""
        share = np.array([min(len(text), 99) / 100 for text in texts])
        encoded = [EncodedText(text, 1, truncated=False) for text in texts]
        both = np.column_stack([1 - share, share])
        return to_predictions(both, self.labels, encoded, top_k, answered_by="tfidf", **self.rules)


def scored(tmp_path, content: str | bytes) -> list[dict]:
    """The rows that come out for a CSV with this content."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    predict_csv(LengthPredictor(), source, out, progress=False)
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestRows:
    """Same number, same order."""

    def test_order_ids_and_errors(self, tmp_path):
        """A bad row has its reason in its own place."""
        rows = scored(
            tmp_path,
            'id,title,summary\na,T,short\nb,,no title\nc,T,"two\nlines, and ""quotes"""\nd,T\na,T,again\n',
        )
        assert [row["id"] for row in rows] == ["a", "b", "c", "d", "a"]
        assert [row["error"] for row in rows] == [
            "", "line 3: title: missing or empty", "", "line 6: wrong number of columns: 2 instead of 3", ""
        ]  # fmt: skip
        assert [row["label"] for row in rows] == ["cs.AI", "", "cs.AI", "", "cs.AI"]
        assert float(rows[0]["score"]) == pytest.approx(1 - len("T\n\nshort") / 100)
        assert float(rows[0]["score:cs.AI"]) + float(rows[0]["score:cs.CL"]) == pytest.approx(1)
        assert {(row["prediction_set"], row["in_scope"]) for row in rows} == {("", "")}

    def test_rules_of_the_model(self, tmp_path):
        """The labels of the prediction set with blanks between them, and yes or no for the scope."""
        LengthPredictor.rules = {"set_threshold": 0.3, "scope_rule": ScopeRule({"image": 1.0}, -0.5, 0.5)}
        try:
            rows = scored(tmp_path, f"id,text\na,image\nb,{'word ' * 8}\nc,\n")
        finally:
            LengthPredictor.rules = {}
        assert [row["prediction_set"] for row in rows] == ["cs.AI", "cs.AI cs.CL", ""]
        assert [row["in_scope"] for row in rows] == ["yes", "no", ""]

    def test_older_names_bom_and_crlf(self, tmp_path):
        """`abstract` for `summary`; rows without an id are numbered."""
        rows = scored(tmp_path, b"\xef\xbb\xbftitle,abstract\r\nT,one\r\nT,two\r\n")
        assert [row["id"] for row in rows] == ["1", "2"]
        assert not any(row["error"] for row in rows)

    @pytest.mark.parametrize(
        ("line", "error"),
        [
            (b'b,"Parsing "quoted" words",text', "text after a closing quote"),
            (b'b,"Parsing words,text', "unterminated quote"),
            (b"id,title,summary", "repeated header"),
            (b"ID, Title ,summary", "repeated header"),
            (b"b,T,\xff\xfe", "summary: invalid UTF-8"),
            (b"b,T,a\0b", "summary: NUL byte"),
            (b"b,\xe2\x80\x8b,text", "title: missing or empty"),
        ],
    )
    @pytest.mark.parametrize("start", [b"", b"\n", b"sep=,\n", b"\xef\xbb\xbf"])
    def test_damage_costs_its_own_row(self, tmp_path, start, line, error):
        """With the reason that `data build` gives and the line; capitals in the header do not matter."""
        rows = scored(tmp_path, start + b"id,TITLE, Summary\na,T,fine\n" + line + b"\nc,T,fine\n")
        assert [row["error"] for row in rows] == ["", f"line {3 + start.count(10)}: {error}", ""]
        assert [row["id"] for row in rows] == ["a", line[: line.index(b",")].decode(), "c"]

    def test_more_rows_than_a_chunk(self, tmp_path):
        """Nothing is lost between chunks; no rows in, no rows out."""
        assert scored(tmp_path, "id,title,summary\n") == []
        count = ROWS_AT_A_TIME * 2 + 3
        rows = scored(tmp_path, "id,text\n" + "".join(f"{n},paper\n" for n in range(count)))
        assert [row["id"] for row in rows] == [str(n) for n in range(count)]

    def test_formulas(self, tmp_path):
        """A cell that is copied from the source is text to a spreadsheet, whatever it starts with."""
        ids = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "0704.0001"]
        rows = scored(tmp_path, "id,text\n" + "".join(f'"{name}",paper\n' for name in ids))
        assert [row["id"] for row in rows] == [f"'{name}" for name in ids[:-1]] + ids[-1:]


class TestRefused:
    """One error, and no half-written file."""

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("a,b\n1,2\n", r"missing columns: title; summary or abstract \(or text in their place\)"),
            ("title;summary\nT;text\n", "semicolons"),
            ("title,summary,summary\nT,a,b\n", "'summary' is there 2 times"),
            ("title,summary\nT,a\n".encode("utf-16"), "UTF-16"),
            (b"\x1f\x8b\x08\x00", "gzip"),
            ("", "empty"),
        ],
    )
    def test_content(self, tmp_path, content, expected):
        """The header as `data build` reads it."""
        with pytest.raises(UserError, match=expected):
            scored(tmp_path, content)
        assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]

    def test_paths(self, tmp_path):
        """Missing input, a directory, the input as output, no folder for the output."""
        source = tmp_path / "in.csv"
        source.write_text("id,text\nx,hello\n")
        predictor = LengthPredictor()
        for path, out, expected in (
            (tmp_path / "none.csv", tmp_path / "out.csv", "no such file"),
            (tmp_path, tmp_path / "out.csv", "Is a directory"),
            (source, source, "is the input itself"),
            (source, tmp_path / "no" / "out.csv", "no such directory"),
        ):
            with pytest.raises(UserError, match=expected):
                predict_csv(predictor, path, out, progress=False)
        assert source.read_text() == "id,text\nx,hello\n"
