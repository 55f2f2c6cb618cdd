"""The CSV tab: a row for a row, and one clear message for a file that cannot be used."""

from __future__ import annotations

import csv
import tempfile
import threading
import time
from pathlib import Path

import pytest

from arxiv_cls.errors import UserError
from arxiv_cls.space import predictions
from arxiv_cls.space.content import batch_sentence
from arxiv_cls.space.page import build_page
from arxiv_cls.space.predictions import SpaceModel, load_space_model, score_file


def silent(done: int, rows: int) -> None:
    """Shows no progress."""


def write(path: Path, content: str) -> Path:
    """A file with this content."""
    path.write_bytes(content.encode(errors="surrogateescape"))
    return path


class TestScoring:
    """What comes back."""

    def test_rows_order_and_progress(self, space: SpaceModel, tmp_path: Path) -> None:
        """Forty rows, one without an abstract; progress is told in steps up to all of them."""
        lines = [f"p{number},A title,{'vision' if number % 2 else 'language'}" for number in range(40)]
        lines[7] = "p7,A title,"
        source = write(tmp_path / "papers.csv", "id,title,summary\n" + "\n".join(lines) + "\n")
        (tmp_path / "out").mkdir()
        steps: list[tuple[int, int]] = []
        done = score_file(space, source, tmp_path / "out", lambda rows, of: steps.append((rows, of)))
        assert (done.scored, done.failed, done.path.name) == (39, 1, "papers_categories.csv")
        assert steps == [(16, 40), (32, 40), (40, 40)]
        with done.path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == [f"p{number}" for number in range(40)]
        assert [row["label"] for row in rows[4:8]] == ["cs.CL", "cs.CV", "cs.CL", ""]
        assert rows[7]["error"] == "line 9: summary: missing or empty"
        assert [row[0] for row in done.preview] == [f"p{number}" for number in range(10)]
        assert source.exists()

    def test_others_get_their_turn(self, space: SpaceModel, tmp_path: Path) -> None:
        """A visitor with one paper waits for a chunk of somebody's file, not for the file."""
        source = write(tmp_path / "papers.csv", "text\n" + "vision\n" * 40)
        asked, answered = threading.Event(), threading.Event()

        def ask() -> None:
            assert space.predict(["language"])[0].label == "cs.CL"
            answered.set()

        def between_chunks(done: int, rows: int) -> None:
            if not asked.is_set():
                asked.set()
                threading.Thread(target=ask).start()
                assert answered.wait(60)

        assert score_file(space, source, tmp_path, between_chunks).scored == 40

    def test_one_computation_at_a_time(self, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The engine uses every core: a second call waits for the first."""
        space = load_space_model(str(tiny_model))
        going, go_on, others = threading.Event(), threading.Event(), []
        predict = space.predictor.predict

        def slow(texts: list[str]) -> list:
            others.append(texts)
            going.set()
            assert go_on.wait(60)
            return predict(texts)

        monkeypatch.setattr(space.predictor, "predict", slow)
        threads = [threading.Thread(target=space.predict, args=([text],)) for text in ("a", "b")]
        threads[0].start()
        assert going.wait(60)
        threads[1].start()
        time.sleep(0.1)
        assert others == [["a"]]
        go_on.set()
        for thread in threads:
            thread.join(60)
        assert others == [["a"], ["b"]]

    @pytest.mark.parametrize(
        ("scored", "failed", "told"),
        [
            (1, 0, "1 row has a category."),
            (2000, 1, "2,000 rows have a category. 1 row has none: the column “error” says why."),
        ],
    )
    def test_sentences(self, scored: int, failed: int, told: str) -> None:
        """Singular and plural."""
        assert batch_sentence(scored, failed) == told


class TestBadFiles:
    """Each is one message that names the file as the visitor knows it, not its place on the server."""

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (
                "name,year\na,1999\n",
                "missing columns: title; summary or abstract (or text in their place)\n  found: name, year",
            ),
            ("", "the file is empty"),
            ("id,title,summary\n", "has a header and no rows"),
            ("PK\x03\x04\x00\x00\udcff\udcfe spreadsheet", "the header is not UTF-8"),
        ],
    )
    def test_told(self, space: SpaceModel, tmp_path: Path, content: str, told: str) -> None:
        """No traceback, no path."""
        source = write(tmp_path / "bad.csv", content)
        with pytest.raises(UserError) as refusal:
            score_file(space, source, tmp_path, silent)
        assert told in refusal.value.message
        assert "bad.csv" in refusal.value.message
        assert str(tmp_path) not in str(refusal.value)

    def test_limits(self, space: SpaceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rows and bytes; the message says how to do more."""
        source = write(tmp_path / "many.csv", "text\n" + "vision\n" * 30)
        monkeypatch.setattr(predictions, "MAX_ROWS", 29)
        with pytest.raises(UserError, match="30 rows; this page takes 29") as refusal:
            score_file(space, source, tmp_path, silent)
        assert "arxiv-cls predict" in refusal.value.hint
        monkeypatch.setattr(predictions, "MAX_BYTES", 100)
        with pytest.raises(UserError, match="MB"):
            score_file(space, source, tmp_path, silent)


def test_result_is_in_the_cache(space: SpaceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file is among those that `delete_cache` looks at; the folder it was made in is gone."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    from gradio.route_utils import delete_files_created_by_app

    page = build_page(space)
    assert page.delete_cache == (300, 3600)
    (score,) = [one.fn for one in page.fns.values() if one.fn is not None and one.fn.__name__ == "score"]
    good = write(tmp_path / "papers.csv", "text\nvision\n")
    bad = write(tmp_path / "bad.csv", "name\nvision\n")
    kept = Path(score(str(good), lambda *_, **__: None)[1]["value"])
    assert score(str(bad), lambda *_, **__: None)[1]["value"] is None
    assert kept.is_relative_to(tmp_path / "cache")
    assert "cs.CV" in kept.read_text()
    assert list((tmp_path / "temporary").iterdir()) == []
    delete_files_created_by_app(page, None)
    assert not kept.exists()
