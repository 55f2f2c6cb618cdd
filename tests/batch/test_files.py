"""`predict --input`: one row per record of any file, and what a second run does or refuses."""

import gzip
import io
import json
import random
import sys

import pyarrow.parquet as pq
import pytest
from batch_papers import PAPERS, rows_of, write_papers
from factories import SURE, small_model, write_onnx_model

from arxiv_cls.batch import inputs
from arxiv_cls.batch.runs import predict_files
from arxiv_cls.cli import main
from arxiv_cls.corpus.csv_reader import open_csv, records
from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import load_predictor

FORMATS = [
    "a.jsonl", "a.json", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.csv.gz", "groups.parquet", "one.parquet"
]  # fmt: skip


@pytest.fixture
def score(inline, model, tmp_path):
    """Runs over paths into `out`, onnx, with these options."""

    def run(*paths, out="out", **options):
        paths = [str(path) for path in paths]
        return predict_files(str(model), paths, str(tmp_path / out), **{"engine": "onnx"} | options)

    return run


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name, score, tmp_path):
    """One row per record in the order of the file, with the same answers; positions lead to the record."""
    path = write_papers(tmp_path, name)
    summary = score(path)
    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows] == [one["id"] for one in PAPERS]
    assert [row["label"] for row in rows] == ["cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"] * 5
    assert {row["source"] for row in rows} == {str(path)}
    assert {(row["error"], row["in_scope"]) for row in rows} == {(None, True)}
    assert all(0.2 < row["scores"][row["label"]] < SURE for row in rows)
    assert len(list((tmp_path / "out").glob("part-00000-*.parquet"))) == 5
    assert (summary.rows, summary.errors, summary.labels["cs.CV"]) == (25, 0, 5)
    if name.startswith("a.json"):
        lines = [json.dumps(one) + "\n" for one in PAPERS]
        assert [row["position"] for row in rows] == [sum(map(len, lines[:at])) for at in range(25)]
    if name.endswith(".parquet"):
        assert [row["position"] for row in rows] == list(range(25))


def test_multi_label(inline, tmp_path, capsys):
    """`labels` holds those at or above their thresholds, a text without any none; both are counted."""
    model = str(write_onnx_model(tmp_path / "several", thresholds=[0.6] * 5))
    papers = [{"id": "1", "title": "vision", "abstract": word} for word in ("learning", "a b c d e f g h i")]
    path = write_papers(tmp_path, "a.jsonl", papers)
    summary = predict_files(model, [str(path)], str(tmp_path / "out"), engine="onnx")
    rows = rows_of(tmp_path / "out")
    assert [row["labels"] for row in rows] == [["cs.CV", "cs.LG"], []]
    assert summary.labels == {"cs.CV": 1, "cs.LG": 1}
    main(["predict", model, "--engine", "onnx", "vision learning", "vision a b c d e f g h i j"])
    said = capsys.readouterr().out
    assert "labels at or above their thresholds: cs.CV, cs.LG\n" in said
    assert "labels at or above their thresholds: none\n" in said


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_damaged_lines(name, score, tmp_path):
    """A bad record costs its own row, whatever is wrong with it; a blank line is none."""
    bad = [
        (b'{"id": "x"', "broken JSON"), (b"[1]", "broken JSON"), (b'{"title": "T"}', "missing or empty"),
        (b'{"id": "c", "title": "T", "abstract": "\\ud800"}', "UTF-8"), (b'{"title": "\xff"}', "UTF-8"),
        (b'{"title": "a\\u0000b", "abstract": "A"}', "NUL"), (b"[" * 100_000, "broken JSON"),
    ]  # fmt: skip
    good = json.dumps(PAPERS[0]).encode()
    path = write_papers(tmp_path, name, [])
    content = b"\n".join([good, b"", *(line for line, _ in bad), good])
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    summary = score(path)
    rows = rows_of(tmp_path / "out")
    assert (summary.rows, summary.errors) == (9, 7)
    assert [rows[0]["error"], rows[8]["error"]] == [None, None]
    for row, (line, reason) in zip(rows[1:8], bad, strict=True):
        assert reason in row["error"], (line[:40], row["error"])
        assert (row["label"], row["scores"], row["in_scope"]) == (None, None, None)
        assert content[row["position"] :].startswith(line)


def test_csv_is_cut_between_records():
    """Random files, damaged ones too: the pieces hold the records of the whole."""
    generator = random.Random(3)
    header = b"title,abstract\n"
    for _ in range(300):
        body = bytes(generator.choices(b'"""",,\n\n\r ab', k=generator.randrange(1, 60)))
        parts = list(inputs._csv_pieces(io.BytesIO(body), 2))
        assert b"".join(parts) == body

        def read(data):
            found = records(open_csv("x", ("title", "abstract"), header + data))
            return [(record.fields, record.reason) for record in found]

        assert [one for part in parts for one in read(part)] == read(body), body


@pytest.mark.parametrize(
    ("name", "papers", "field"),
    [
        ("a.jsonl", [{"id": "1", "title": "T"}] * 7, "abstract"), ("a.jsonl", [{}], "title"),
        ("a.jsonl", [{"heading": "T"}] * 7, "title"), ("a.parquet", [{"title": None, "text": None}], "title"),
    ],
)  # fmt: skip
def test_nothing_but_missing_fields(name, papers, field, score, tmp_path):
    """A shard in which no record has an abstract, or none has anything that is read."""
    score(write_papers(tmp_path, name, papers))
    found = [row["error"] for row in rows_of(tmp_path / "out")]
    assert [error.startswith(f"{field}: missing or empty") for error in found] == [True] * len(papers)


def test_embeddings(inline, tmp_path):
    """A row for each record, with the vector that the model itself gives for its text."""
    (tmp_path / "model").mkdir()
    small_model("linear").save(tmp_path / "model")
    path, texts = write_papers(tmp_path, "a.jsonl"), []
    main(
        [
            "predict",
            str(tmp_path / "model"),
            "--embeddings",
            "--input",
            str(path),
            "--output",
            str(tmp_path / "out"),
        ]
    )
    rows = rows_of(tmp_path / "out")
    for one in PAPERS:
        texts.append(" ".join(one["title"].split()) + "\n\n" + " ".join(one["abstract"].split()))
    expected = load_predictor(tmp_path / "model").embed(texts)
    assert expected.shape[1] > 1
    assert [row["embedding"] for row in rows] == expected.tolist()
    assert "label" not in rows[0]


def test_a_library_is_missing(model, tmp_path, monkeypatch):
    """A worker that cannot start was not killed: the command ends with the import's own error."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "onnxruntime.py").write_text("raise ModuleNotFoundError(name='onnxruntime')")
    with pytest.raises(ModuleNotFoundError) as caught:
        predict_files(
            str(model),
            [str(write_papers(tmp_path, "a.jsonl"))],
            str(tmp_path / "out"),
            engine="onnx",
            workers=1,
        )
    assert caught.value.name == "onnxruntime"


def test_csv_with_texts(score, tmp_path):
    """A column `text` in the place of title and abstract."""
    path = tmp_path / "a.csv"
    path.write_text("text,id\nvision,1\n,2\n")
    score(path)
    assert [(row["label"], row["error"]) for row in rows_of(tmp_path / "out")] == [
        ("cs.CV", None), (None, "text: missing or empty")
    ]  # fmt: skip


class TestAgain:
    """A second run of the same command does what is missing."""

    @pytest.mark.parametrize("name", FORMATS)
    def test_missing_files(self, name, score, tmp_path, monkeypatch):
        """Every set of lost or emptied files comes back as it was; nothing else is written."""
        path, out = write_papers(tmp_path, name), tmp_path / "out"
        score(path)
        whole, parts = rows_of(out), sorted(out.glob("part-*"))
        for lost in (parts[:1], parts[2:4], parts[-1:], parts):
            kept = {part: part.stat().st_mtime_ns for part in parts if part not in lost}
            for part in lost:
                part.unlink()
            if len(lost) == 1:
                lost[0].touch()
            (out / f".{parts[0].name}.1.partial").write_bytes(b"half")
            summary = score(path)
            assert rows_of(out) == whole
            assert {part: part.stat().st_mtime_ns for part in kept} == kept
            assert summary.done_before == sum(1 for row in whole) - sum(
                len(pq.read_table(part)) for part in lost
            )
            assert not list(out.glob(".part-*"))
        # A finished input is not read again.
        monkeypatch.setattr("arxiv_cls.batch.runs.pieces", None)
        assert "nothing was missing" in "\n".join(score(path).lines("out"))

    def test_refused(self, score, tmp_path, model):
        """Other inputs, model or settings, by name."""
        path, more = write_papers(tmp_path, "a.jsonl"), write_papers(tmp_path, "b.jsonl")
        score(path)
        for paths, options, named in (
            ([path, more], {}, "b.jsonl: another input"),
            ([more], {}, "a.jsonl: an input no more"),
            ([path], {"shard_rows": 7}, "--shard-rows: 5000 there, 7 now"),
            ([path], {"embeddings": True, "engine": None}, "columns"),
            ([tmp_path / "out"], {}, "out: lies in --output"),
        ):
            with pytest.raises(UserError, match=named):
                score(*paths, **options)
        path.write_bytes(path.read_bytes().replace(b"vision", b"visiom"))
        with pytest.raises(UserError, match=r"a\.jsonl: another input, or changed"):
            score(path)
        (tmp_path / "out" / "manifest.json").unlink()
        with pytest.raises(UserError, match=r"holds part-\*.parquet without the manifest"):
            score(path)

    def test_another_model(self, score, tmp_path, monkeypatch):
        """By the files that differ, before anything is read."""
        path = write_papers(tmp_path, "a.jsonl")
        score(path)
        files = {"config.json": "0", "onnx/model.onnx": "1"}
        monkeypatch.setattr("arxiv_cls.batch.runs.model_files", lambda *_: files)
        with pytest.raises(UserError, match=r"another model: config.json, eval/scope.json, onnx/model.onnx"):
            score(path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"x", "not a format"), ("a.jsonl", b'[{"title": 1}]', "one JSON list"),
        ("a.csv", b"a,b\n1,2\n", "missing columns"), ("a.jsonl.gz", b"no gzip", "BadGzipFile"),
        ("a.jsonl.gz", gzip.compress(b"[1]"), "one JSON list"),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2\n"), "missing columns"), ("a.csv", b"text", "a header alone"),
        ("a.parquet", b"PAR1", "cannot be read"), ("a*.csv", None, "no file there"),
        ("none.csv", None, "No such file or directory"), ("nowhere://a.csv", None, "cannot be read"),
        ("s3://bucket/a.csv", None, r"Install s3fs.*\n.*arxiv_cls\[s3\]"),
    ],
)  # fmt: skip
def test_inputs_that_are_none(name, content, expected, score, tmp_path, monkeypatch):
    """One error, and no manifest."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    path = name if "://" in name else tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=expected):
        score(path)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder(score, tmp_path):
    """A file or a device is bad input."""
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=r"out/manifest\.json: cannot be read: Not a directory") as caught:
        score(write_papers(tmp_path, "a.jsonl"))
    assert caught.value.exit_code == 2


def test_command(model, tmp_path, capsys):
    """Two processes, a folder and a glob that the shell took apart, embeddings refused, the summary."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("mine")
    write_papers(tmp_path / "in", "a.jsonl")
    first, second = write_papers(tmp_path, "b.csv"), write_papers(tmp_path, "c.jsonl.gz")
    words = ["predict", str(model), "--engine", "onnx", "--output", str(tmp_path / "out"), "--workers", "2"]
    main([*words, "--input", str(tmp_path / "in"), "--input", str(first), str(second)])
    printed = capsys.readouterr().out
    assert "75 rows, 0 with an error, 0 out of scope" in printed
    assert "stat.ML                    15   20.0%" in printed
    assert "75 rows in " in printed
    assert len(rows_of(tmp_path / "out")) == 75
    for extra, expected in (
        (["--input", str(first), "--embeddings"], "engine onnx gives none"),
        (["--input", str(first), "--csv", "x"], "without --csv"),
        (["--input", str(first), "--address", "auto"], "--runner ray"),
    ):
        with pytest.raises(UserError, match=expected):
            main([*words, *extra])
